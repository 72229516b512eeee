"""SHA-256 of the files in a folder: Orbax has no checksum, and most flipped bytes restore as other weights."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

NAME = "sha256.json"


def write(folder: Path) -> None:
    """Write `sha256.json`, {path: sum}, of the files in the subfolders of `folder`."""
    sums = {str(path.relative_to(folder)): _sha256(path) for path in sorted(folder.glob("*/**/*")) if path.is_file()}
    (folder / NAME).write_text(json.dumps(sums))


def damage(folder: Path, subfolders: Iterable[str]) -> str | None:
    """The first file of the subfolders that is missing or not what was written, in words; None where all is well.

    Without a manifest nothing is known to be wrong.

    Raises:
        OSError: the manifest or a file cannot be read.
    """
    if not (folder / NAME).exists():
        return None
    try:
        sums = json.loads((folder / NAME).read_text())
    except ValueError:
        return f"{NAME} is cut off"
    for name, sha256 in sums.items():
        if Path(name).parts[0] not in subfolders:
            continue
        if not (folder / name).is_file():
            return f"{name} is missing"
        if _sha256(folder / name) != sha256:
            return f"{name} is not what was written"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
