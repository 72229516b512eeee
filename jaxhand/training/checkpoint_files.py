"""Read a checkpoint folder without Orbax: its steps, their JSON, the best step, and checksums.

Orbax has no checksums: after most flipped bytes it restores wrong weights without an error.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxhand.config import Config, from_dict

MANIFEST = "sha256.json"


@dataclasses.dataclass(frozen=True)
class Restored:
    """The content of a checkpoint; `optimizer` and `data` are read only to continue training from it."""

    step: int
    params: Any
    rest: Any
    meta: dict  # JSON: epoch, losses, metrics in mm, versions
    optimizer: Any = None
    data: dict | None = None

    @property
    def partial(self) -> bool:
        """Whether it is a part of a model, such as a backbone, for `training.init_from` alone."""
        return self.meta.get("converted", {}).get("partial", False)

    @property
    def config(self) -> Config:
        """The experiment that wrote the checkpoint."""
        return from_dict(self.meta["config"], source=f"config of checkpoint {self.step}")


def steps(folder: Path) -> list[int]:
    """The steps in a checkpoint folder, without those that are being written."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal() and path.is_dir())


def read_json(step_folder: Path, item: str) -> dict:
    """A JSON item of a step, `data` or `meta`."""
    return json.loads((step_folder / item / f"{item}.json").read_text())


def metas(folder: Path) -> dict[int, dict]:
    """{step: meta} of the steps whose meta can be read."""
    found = {}
    for step in steps(folder):
        try:
            found[step] = read_json(folder / str(step), "meta")
        except (OSError, ValueError):
            continue  # damaged: restoring it raises the error
    return found


def best(metas: dict[int, dict]) -> int | None:
    """The step with the lowest finite avg_metric, the earliest of equal ones. Converted weights have only one step."""
    ranked = [(meta["avg_metric"], step) for step, meta in metas.items() if is_finite(meta)]
    ranked = ranked or [(0, step) for step, meta in metas.items() if "converted" in meta]
    return min(ranked)[1] if ranked else None


def is_finite(meta: dict) -> bool:
    """Whether a step was evaluated, with a finite result."""
    return meta.get("avg_metric") is not None and math.isfinite(meta["avg_metric"])


def write_manifest(step_folder: Path) -> None:
    """Write `sha256.json`: {path: checksum} of the files of all items."""
    files = sorted(path for path in step_folder.glob("*/**/*") if path.is_file())
    sums = {str(path.relative_to(step_folder)): _sha256(path) for path in files}
    (step_folder / MANIFEST).write_text(json.dumps(sums))


def damage(step_folder: Path, items: Iterable[str]) -> str | None:
    """Describe what is wrong with the files of these items; None if all are unchanged.

    A step without a manifest, which plain Orbax wrote, is accepted.

    Args:
        step_folder: `checkpoints/<step>`.
        items: names such as "params".
    """
    try:
        if not (step_folder / "_CHECKPOINT_METADATA").is_file():
            return "it is not a complete checkpoint"
        if not (step_folder / MANIFEST).exists():
            return None
        sums = json.loads((step_folder / MANIFEST).read_text())
        for name, sha256 in sums.items():
            if Path(name).parts[0] in items and _sha256(step_folder / name) != sha256:
                return f"{name} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).relative_to(step_folder)} is missing"
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    except ValueError:
        return f"{MANIFEST} is cut off"
    return None


def plain(tree: dict) -> dict:
    """The tree in JSON's types: numbers of NumPy and JAX become Python's, tuples become lists."""
    return json.loads(json.dumps(tree, default=lambda value: value.tolist()))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
