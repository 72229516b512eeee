"""Read a checkpoint folder without Orbax: list its steps, read their JSON, find the best step, check checksums.

Orbax has no checksums: if a byte on disk has changed, Orbax mostly restores wrong weights without an error.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from jaxhand.config import Config, from_dict

MANIFEST = "sha256.json"
_ORBAX_METADATA, _COMMIT_TIME = "_CHECKPOINT_METADATA", "commit_timestamp_nsecs"
_JSON = ("metadata", "{item}.json")  # file names of a JSON item: Orbax's default, and that of older runs


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
    names = [path.name for path in folder.glob("*") if path.name.isdecimal()]
    return sorted(int(name) for name in names if name == str(int(name)))


def read_json(step_folder: Path, item: str) -> dict:
    """Read a JSON item of a checkpoint: `data` or `meta`."""
    return json.loads(_json_file(step_folder, item).read_text())


def metas(folder: Path) -> dict[int, dict]:
    """Read the item `meta` of every step: {step: meta}. Steps whose `meta` is damaged are left out."""
    return read_metas(folder)[0]


def read_metas(folder: Path) -> tuple[dict[int, dict], dict[int, str]]:
    """Read the item `meta` of every step, and compare it with its checksum.

    Args:
        folder: `checkpoints/` of a run.

    Returns:
        {step: meta} of the sound ones, and {step: description of the damage} of the others.
    """
    found, damaged = {}, {}
    for step in steps(folder):
        path = folder / str(step)
        wrong = damage(path, ("meta",))
        if wrong is None:
            try:
                meta = read_json(path, "meta")
                wrong = _wrong_in(meta, step)
            except (OSError, ValueError, RecursionError):
                wrong = "meta cannot be read"
        if wrong is None:
            found[step] = meta
        else:
            damaged[step] = wrong
    return found, damaged


def best(metas: dict[int, dict]) -> int | None:
    """The earliest step with the lowest finite avg_metric, or the only step of converted weights; None if neither.

    Only steps that were tested on the same data as the latest step are compared.
    """
    newest = _test_set(metas[max(metas)]) if metas else None
    same = {step: meta for step, meta in metas.items() if newest is None or _test_set(meta) in (None, newest)}
    ranked = [(meta["avg_metric"], step) for step, meta in same.items() if is_finite(meta)]
    ranked = ranked or [(0, step) for step, meta in metas.items() if "converted" in meta]
    return min(ranked)[1] if ranked else None


def missing_best(metas: dict[int, dict], damaged: Iterable[int]) -> str | None:
    """Describe the best step that the latest checkpoint names, if its folder is gone; else None.

    Args:
        metas: {step: meta} of the sound steps.
        damaged: steps whose folders exist, but are damaged.
    """
    noted = metas[max(metas)].get("best") if metas else None
    if not noted or noted["step"] in metas or noted["step"] in damaged:
        return None
    return f"step {noted['step']}, the best until step {max(metas)} (avg_metric={noted['avg_metric']:.3f} mm)"


def is_finite(meta: dict) -> bool:
    """Whether the `meta` of a step has a finite avg_metric."""
    return meta.get("avg_metric") is not None and math.isfinite(meta["avg_metric"])


def write_manifest(step_folder: Path) -> None:
    """Write `sha256.json` in the folder of a step: {path of a file in the folder: SHA-256 checksum}.

    Two entries are not checksums of a file's bytes: `sha256.json` has that of the other entries, and
    `_CHECKPOINT_METADATA` that of its content without the time at which Orbax finishes the checkpoint.
    """
    files = sorted(path for path in step_folder.glob("*/**/*") if path.is_file())
    sums = {str(path.relative_to(step_folder)): _sha256(path) for path in files}
    if (step_folder / _ORBAX_METADATA).is_file():
        sums[_ORBAX_METADATA] = _sha256_of_metadata(step_folder)
    (step_folder / MANIFEST).write_text(json.dumps(sums | {MANIFEST: _sha256_of_json(sums)}))


def incomplete(step_folder: Path, trees: Iterable[str], sizes: dict[str, int] | None = None) -> str | None:
    """Describe what is missing in a checkpoint that was just written; None if it is complete.

    Args:
        step_folder: folder of the step.
        trees: names of the items of arrays. Each needs its tree (`_METADATA`) and Orbax's index of its arrays.
        sizes: {path of a file in the folder: its size in bytes} before the folder got its name; None: not compared.
    """
    needed = [f"{tree}/{name}" for tree in trees for name in ("_METADATA", "manifest.ocdbt")]
    found = file_sizes(step_folder)
    for name in (*needed, MANIFEST, *(sizes or {})):
        if not found.get(name):
            return f"{name} {'is empty' if name in found else 'is missing'}"
    changed = [name for name, size in (sizes or {}).items() if found[name] != size]
    return f"{changed[0]} has {found[changed[0]]} bytes in place of {(sizes or {})[changed[0]]}" if changed else None


def file_sizes(step_folder: Path) -> dict[str, int]:
    """{path in the folder: size in bytes} of all files of a step, except those that Orbax changes last."""
    files = (path for path in step_folder.rglob("*") if path.is_file() and path.name != _ORBAX_METADATA)
    return {str(path.relative_to(step_folder)): path.stat().st_size for path in files}


def has_unseen(step_folder: Path) -> bool:
    """Whether a file that the manifest of a step names is not there, or the step itself."""
    manifest = step_folder / MANIFEST
    try:
        names = json.loads(manifest.read_text()) if manifest.exists() else []
    except (OSError, ValueError):  # not whole yet
        return True
    return not all((step_folder / name).exists() for name in (_ORBAX_METADATA, *names))


def damage(step_folder: Path, items: Iterable[str]) -> str | None:
    """Describe the first damage in the files of these items; None if every file is unchanged.

    A step without checksums is accepted if Orbax wrote it without this package.

    Args:
        step_folder: `checkpoints/<step>`.
        items: names such as "params".
    """
    try:
        if not step_folder.is_dir():
            return "it is not a folder"
        if not (step_folder / _ORBAX_METADATA).is_file():
            return "the checkpoint is not complete"
        if not (step_folder / MANIFEST).is_file():
            return f"{MANIFEST} is missing" if _is_ours(step_folder) else None
        return _difference(step_folder, set(items))
    except FileNotFoundError as error:
        return f"{Path(error.filename).relative_to(step_folder)} is missing"
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    except (ValueError, RecursionError):
        return f"{MANIFEST} is cut off"


def plain(tree: dict) -> dict:
    """Convert a tree to JSON's types: NumPy and JAX numbers become Python numbers, tuples become lists."""
    return json.loads(json.dumps(tree, default=lambda value: value.tolist()))


def _difference(step_folder: Path, items: set[str]) -> str | None:
    """The first difference between the files of these items and the manifest of a step."""
    sums = json.loads((step_folder / MANIFEST).read_text())
    if not isinstance(sums, dict) or not all(isinstance(sha256, str) for sha256 in sums.values()):
        return f"{MANIFEST} is not a list of checksums"
    own = sums.pop(MANIFEST, None)
    if own not in (None, _sha256_of_json(sums)):
        return f"{MANIFEST} differs from its checksum"
    paths = {name: PurePosixPath(name) for name in sums}
    for name, path in paths.items():
        if path.is_absolute() or ".." in path.parts or not path.parts:
            return f"{MANIFEST} names {name[:100]!r}, which is not in the checkpoint"
    listed = {path.parts[0] for path in paths.values()}
    for item in sorted(items - listed):
        if (step_folder / item).exists():
            return f"{MANIFEST} has no checksum of {item}"
    for name, sha256 in sums.items():
        if name == _ORBAX_METADATA:
            differs = _sha256_of_metadata(step_folder) != sha256
        elif paths[name].parts[0] not in items:
            continue
        elif (step_folder / name).exists() and not (step_folder / name).is_file():  # reading a device could never end
            return f"{name} is not a file"
        else:
            differs = _sha256(step_folder / name) != sha256
        if differs:
            return f"{name} differs from its checksum"
    return None


def _wrong_in(meta: Any, step: int) -> str | None:
    """What is wrong in a `meta` whose checksum is right or unknown; None if nothing is."""
    if not isinstance(meta, dict):
        return "meta is not a list of names and values"
    metric = meta.get("avg_metric")
    if metric is not None and (isinstance(metric, bool) or not isinstance(metric, (int, float))):
        return "avg_metric in meta is not a number"
    if meta.get("step", step) != step:
        return f"it is a copy of step {meta['step']}"
    return None


def _is_ours(step_folder: Path) -> bool:
    """Whether this package wrote a step. It then has a manifest, unless it is damaged."""
    try:
        return "jaxhand" in read_json(step_folder, "meta").get("versions", {})
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return True


def _json_file(step_folder: Path, item: str) -> Path:
    files = [step_folder / item / name.format(item=item) for name in _JSON]
    return files[1] if files[1].is_file() else files[0]


def _test_set(meta: dict) -> Any:
    return meta.get("fingerprints", {}).get("test")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_of_json(tree: dict) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def _sha256_of_metadata(step_folder: Path) -> str:
    try:
        content = json.loads((step_folder / _ORBAX_METADATA).read_bytes())
        return _sha256_of_json({key: value for key, value in content.items() if key != _COMMIT_TIME})
    except (ValueError, AttributeError, RecursionError):
        return "not JSON"
