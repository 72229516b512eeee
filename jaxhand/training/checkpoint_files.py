"""Read a checkpoint folder without Orbax: list its steps, read their JSON, find the best step, check checksums.

Orbax has no checksums: if a byte on disk has changed, Orbax mostly restores wrong weights without an error.
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
    """The content of a checkpoint. `optimizer` and `data` are None unless training continues from it."""

    step: int
    params: Any
    rest: Any
    meta: dict  # the JSON item: epoch, losses, metrics in mm, versions
    optimizer: Any = None
    data: dict | None = None

    @property
    def partial(self) -> bool:
        """Whether the checkpoint contains only a part of a model, such as a backbone, for `training.init_from`."""
        return self.meta.get("converted", {}).get("partial", False)

    @property
    def config(self) -> Config:
        """The config of the run that wrote the checkpoint."""
        return from_dict(self.meta["config"], source=f"config of checkpoint {self.step}")


def steps(folder: Path) -> list[int]:
    """The sorted steps in a checkpoint folder, except a step that is still being written."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal() and path.is_dir())


def read_json(step_folder: Path, item: str) -> dict:
    """Read a JSON item of a checkpoint: `data` or `meta`."""
    return json.loads((step_folder / item / f"{item}.json").read_text())


def metas(folder: Path) -> dict[int, dict]:
    """Read the item `meta` of every step: {step: meta}. Steps whose `meta` cannot be read are left out."""
    found = {}
    for step in steps(folder):
        try:
            found[step] = read_json(folder / str(step), "meta")
        except (OSError, ValueError):
            continue  # damaged; the error is raised when this step is restored
    return found


def best(metas: dict[int, dict]) -> int | None:
    """The earliest step with the lowest finite avg_metric, or the only step of converted weights; None if neither."""
    ranked = [(meta["avg_metric"], step) for step, meta in metas.items() if is_finite(meta)]
    ranked = ranked or [(0, step) for step, meta in metas.items() if "converted" in meta]
    return min(ranked)[1] if ranked else None


def is_finite(meta: dict) -> bool:
    """Whether the `meta` of a step has a finite avg_metric."""
    return meta.get("avg_metric") is not None and math.isfinite(meta["avg_metric"])


def write_manifest(step_folder: Path) -> None:
    """Write `sha256.json` in the folder of a step: {path of a file in the folder: SHA-256 checksum}."""
    files = sorted(path for path in step_folder.glob("*/**/*") if path.is_file())
    sums = {str(path.relative_to(step_folder)): _sha256(path) for path in files}
    (step_folder / MANIFEST).write_text(json.dumps(sums))


def damage(step_folder: Path, items: Iterable[str]) -> str | None:
    """Describe the first damage in the files of these items; None if every file is unchanged.

    A step without checksums is accepted: it was written by Orbax without this package.

    Args:
        step_folder: `checkpoints/<step>`.
        items: names such as "params".
    """
    try:
        if not (step_folder / "_CHECKPOINT_METADATA").is_file():
            return "the checkpoint is not complete"
        if not (step_folder / MANIFEST).exists():
            return None
        sums = json.loads((step_folder / MANIFEST).read_text())
        for name, sha256 in sums.items():
            if Path(name).parts[0] in items and _sha256(step_folder / name) != sha256:
                return f"{name} differs from its checksum"
    except FileNotFoundError as error:
        return f"{Path(error.filename).relative_to(step_folder)} is missing"
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    except ValueError:
        return f"{MANIFEST} is cut off"
    return None


def plain(tree: dict) -> dict:
    """Convert a tree to JSON's types: NumPy and JAX numbers become Python numbers, tuples become lists."""
    return json.loads(json.dumps(tree, default=lambda value: value.tolist()))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
