"""Checkpoints of a run over Orbax: written in the background, checked by SHA-256 when read, kept by avg_metric.

A step's folder `checkpoints/<step>/` holds the items `params`, `rest`, `optimizer` (trees of arrays), `data` and
`meta` (JSON). Its manifest of checksums is part of the same atomic rename, so no committed step is without one.
"""

import dataclasses
import errno
import hashlib
import json
import logging
import math
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

import jaxhand
from jaxhand.config import Config, UserError, from_dict

_MANIFEST = "sha256.json"
_FULL = {errno.ENOSPC: "No space left", errno.EDQUOT: "quota exceeded", errno.EFBIG: "File too large"}


class CheckpointError(UserError):
    """A checkpoint could not be written, found or read."""


class _Damaged(Exception):
    """What is wrong with a step's files."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a checkpoint holds; `optimizer` and `data` only where training goes on from it."""

    step: int
    params: Any
    rest: Any
    meta: dict  # JSON: epoch, losses, metrics in mm, versions
    optimizer: Any = None
    data: dict | None = None

    @property
    def config(self) -> Config:
        """The experiment that wrote the checkpoint."""
        return from_dict(self.meta.get("config", {}), source=f"config of checkpoint {self.step}")


def warn(line: str) -> None:
    """Print a line to stderr, on the first process only."""
    if jax.process_index() == 0:
        print(f"warning: {line}", file=sys.stderr, flush=True)


class Checkpoints:
    """The checkpoints of one run, for the process that trains it (every process, where there are several).

    Kept together: the best step, the latest two, and every multiple of `keep_every_steps` (0: none). The best has
    the lowest finite avg_metric, of equals the earliest; a step without a finite one is never the best.

    Raises:
        CheckpointError: the folder cannot be written to.
    """

    def __init__(self, workdir: str | Path, *, keep_every_steps: int, warn: Callable[[str], None] = warn):
        self._folder = Path(workdir).absolute() / "checkpoints"
        self._every = keep_every_steps
        self._warn = warn
        self._saving = None  # step that is being written
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self._folder).close()
        except OSError as error:
            raise CheckpointError(f"cannot write checkpoints to {self._folder}: {error.strerror}") from error
        self._open()

    def save(self, step: int, *, params, rest, optimizer, data: dict, meta: dict, avg_metric: float | None) -> bool:
        """Copy the arrays off the devices and write them in the background; they may be donated right after.

        Args:
            step: must be later than every step saved before.
            data, meta: JSON; NumPy and JAX numbers become Python's. `step`, `avg_metric` and `versions` are added
                to `meta`.
            avg_metric: mm, what the best is chosen by, equal on all processes; None in mid-epoch.

        Returns:
            Whether this step is the best so far.

        Raises:
            CheckpointError: the step is not later than the latest, or this write or the one before it failed.
        """
        self.wait()
        latest = self.latest_step()
        if latest is not None and step <= latest:
            raise CheckpointError(f"cannot save step {step} to {self._folder}: step {latest} is there already")
        versions = {"jaxhand": jaxhand.__version__}
        versions |= {module.__name__: module.__version__ for module in (jax, flax)} | {"orbax": ocp.__version__}
        avg_metric = None if avg_metric is None else float(avg_metric)
        meta = _plain({**meta, "step": int(step), "avg_metric": avg_metric, "versions": versions})
        self._metas[step] = meta  # before the save: Orbax asks there what to keep
        trees = {"params": params, "rest": rest, "optimizer": optimizer}
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items() if jax.tree.leaves(tree)}
        items |= {"data": ocp.args.JsonSave(_plain(data)), "meta": ocp.args.JsonSave(meta)}
        self._saving = step
        try:
            saved = self._manager.save(
                step,
                args=ocp.args.Composite(**items),
                metrics={"avg_metric": avg_metric} if _finite(meta) else None,
            )
        except Exception as error:
            raise self._failure(error) from error
        if not saved:
            raise self._failure(RuntimeError("Orbax declined the save"))
        return _best(self._metas) == step

    def latest_step(self) -> int | None:
        """The latest step that is saved or being saved."""
        return self._manager.latest_step()

    def best(self) -> tuple[int, float, dict] | None:
        """(step, avg_metric in mm, meta) of the best step that is saved or being saved."""
        step = _best(self._metas)
        return None if step is None else (step, self._metas[step]["avg_metric"], self._metas[step])

    def restore_latest(self, abstract: dict) -> Restored | None:
        """Restore the latest sound step, for training to go on from it; None where nothing was saved yet.

        Damaged steps are passed over with a warning and, once a sound one is found, moved to
        `checkpoints/damaged-<step>`, so that their numbers are free again.

        Args:
            abstract: {"params", "rest", "optimizer"}: trees of `jax.ShapeDtypeStruct` with shardings.

        Raises:
            CheckpointError: shape, dtype or name of a parameter differs from the saved one (it is named), or every
                step is damaged.
        """
        self.wait()
        damaged = {}  # step: what is wrong
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = _restore(self._manager, self._folder, step, abstract)
                break
            except _Damaged as damage:
                damaged[step] = damage
        else:
            if damaged:
                raise _all_damaged(self._folder, damaged)
            return None
        while (best := _best({s: m for s, m in self._metas.items() if s not in damaged})) not in (None, restored.step):
            try:
                _verify(self._folder / str(best))
                break
            except _Damaged as damage:
                damaged[best] = damage
        self._set_aside(damaged, restored.step)
        data = _read_json(self._folder / str(restored.step) / "data" / "data.json")
        return dataclasses.replace(restored, data=data)

    def wait(self) -> None:
        """Wait for the save in the background.

        Raises:
            CheckpointError: it failed; the steps saved before it are still there.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Wait as `wait` does and end the background threads."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        """Orbax's question, after each save: which of `checkpoints`, in order of their steps, stay."""
        del context
        best, latest = _best(self._metas), [info.step for info in checkpoints[-2:]]
        every = self._every or math.inf
        return [info.step == best or info.step in latest or info.step % every == 0 for info in checkpoints]

    def _open(self) -> None:
        self._manager = _manager(
            self._folder,
            preservation_policy=self,
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._write_manifest),
        )
        self._metas = _metas(self._folder)

    def _write_manifest(self) -> None:
        """Runs in the background on the first process: all files are written, the step is not yet renamed."""
        path = next(self._folder.glob(f"{self._saving}.orbax-checkpoint-tmp*"), self._folder / str(self._saving))
        hashes = {str(f.relative_to(path)): _sha256(f) for f in sorted(path.glob("*/**/*")) if f.is_file()}
        (path / _MANIFEST).write_text(json.dumps(hashes))

    def _failure(self, error: Exception) -> CheckpointError:
        """Clear away a save that failed, so that the next can succeed, and say what happened."""
        if jax.process_index() == 0:
            for leftover in self._folder.glob(f"{self._saving}.orbax-checkpoint-tmp*"):
                shutil.rmtree(leftover, ignore_errors=True)
        self._manager.close()
        self._open()
        full = getattr(error, "errno", None) in _FULL or any(text in str(error) for text in _FULL.values())
        latest = self.latest_step()
        stays = "" if latest is None else f"; step {latest} is still there"
        reason = f"disk full ({_line(error)})" if full else _line(error)
        return CheckpointError(f"cannot write checkpoint {self._folder / str(self._saving)}: {reason}{stays}")

    def _set_aside(self, damaged: dict[int, Exception], restored_step: int) -> None:
        if not damaged:
            return
        for step, damage in damaged.items():
            aside = self._folder / f"damaged-{step}"
            if jax.process_index() == 0:
                shutil.rmtree(aside, ignore_errors=True)
                (self._folder / str(step)).rename(aside)
            self._warn(
                f"checkpoint {self._folder / str(step)} is damaged ({damage}); it is now {aside.name}, "
                f"training goes on from step {restored_step}"
            )
        _agree(True)
        self._manager.close()
        self._open()


def restore_best(
    workdir: str | Path, *, sharding: jax.sharding.Sharding | None = None, warn: Callable[[str], None] = warn
) -> Restored:
    """Restore the best step of a run for evaluation; no optimizer is read and nothing is written.

    It does not matter on how many devices the run was trained. Keys that are numbers come back as int, as
    `nnx.List` has them. A damaged step is passed over for the next best with a warning.

    Args:
        workdir: the run's folder.
        sharding: of every array; by default each is whole on this process's first device.

    Raises:
        CheckpointError: no such folder, no checkpoint in it, none with a finite avg_metric, or all of them damaged.
    """
    folder = Path(workdir).absolute() / "checkpoints"
    if not folder.parent.is_dir():
        raise CheckpointError(f"no run folder at {folder.parent}; train one: python -m jaxhand.train --workdir {workdir}")
    metas = _metas(folder)
    if not _steps(folder):
        raise CheckpointError(f"no checkpoint in {folder}; train first: python -m jaxhand.train --workdir {workdir}")
    if _best(metas) is None:
        raise CheckpointError(f"no checkpoint in {folder} has a finite avg_metric, so none is the best; train further")
    damaged = {}
    manager = _manager(folder, read_only=True)
    try:
        while (step := _best(metas)) is not None:
            try:
                restored = _restore(manager, folder, step, sharding=sharding)
            except _Damaged as damage:
                damaged[step] = damage
                del metas[step]
                continue
            for bad, damage in damaged.items():
                warn(f"checkpoint {folder / str(bad)} is damaged ({damage}); step {step} is read in its place")
            return restored
    finally:
        manager.close()
    raise _all_damaged(folder, damaged)


def _manager(folder: Path, **options) -> ocp.CheckpointManager:
    logging.getLogger("absl").addFilter(_not_from_orbax)
    tree, to_json = ocp.StandardCheckpointHandler, ocp.JsonCheckpointHandler
    return ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(
            best_fn=lambda metrics: metrics["avg_metric"],  # makes Orbax write the metrics down
            best_mode="min",
            lightweight_initialize=True,  # a damaged file must not stop the opening
            **options,
        ),
        item_handlers={name: tree() for name in ("params", "rest", "optimizer")}
        | {name: to_json(filename=f"{name}.json") for name in ("data", "meta")},
    )


def _not_from_orbax(record: logging.LogRecord) -> bool:
    """Orbax logs a traceback of every failure that it also raises, and that is told here in a line."""
    return "orbax" not in record.pathname


def _restore(
    manager: ocp.CheckpointManager,
    folder: Path,
    step: int,
    abstract: dict | None = None,
    sharding: jax.sharding.Sharding | None = None,
) -> Restored:
    """Read a step into the shapes of `abstract`, or `params` and `rest` as they were saved where it is None."""
    _verify(folder / str(step))
    error, trees = None, {}
    try:
        meta = _read_json(folder / str(step) / "meta" / "meta.json")
        saved = manager.item_metadata(step)
        saved = {name: saved.get(name) for name in abstract or ("params", "rest")}
        saved = {name: metadata.tree if metadata is not None else {} for name, metadata in saved.items()}
    except Exception as exception:
        error = exception
    if not _agree(error is None):
        raise _Damaged(_line(error) if error else "unreadable on another process")
    targets = {name: jax.tree.map(lambda leaf: _stored(leaf, sharding), tree) for name, tree in (abstract or saved).items()}
    for name, tree in targets.items():
        _check_fit(folder / str(step), name, saved[name], tree)
    args = {name: ocp.args.StandardRestore(tree) for name, tree in targets.items() if jax.tree.leaves(tree)}
    try:
        trees = targets | dict(manager.restore(step, args=ocp.args.Composite(**args)).items())
    except Exception as exception:
        error = exception
    if not _agree(error is None):
        raise _Damaged(_line(error) if error else "unreadable on another process")
    if abstract is None:
        trees = {name: _int_keys(tree) for name, tree in trees.items()}
    return Restored(step=step, meta=meta, **trees)


def _stored(leaf, sharding: jax.sharding.Sharding | None) -> jax.ShapeDtypeStruct:
    """How Orbax stores a leaf; it turns random keys into numbers, and back when it restores them."""
    place = sharding or leaf.sharding
    if not isinstance(place, jax.sharding.Sharding):
        place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    leaf = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)


def _check_fit(path: Path, name: str, saved, wanted) -> None:
    """Raise for the first parameter whose name, shape or dtype is not the saved one: Orbax would cast, or not say which."""
    saved, wanted = _leaves(saved), _leaves(wanted)
    faults = []
    for key in wanted | saved:
        have, want = saved.get(key), wanted.get(key)
        if have is None:
            faults.append(f"{name}/{key}: not saved, model wants {_shape(want)}")
        elif want is None:
            faults.append(f"{name}/{key}: saved {_shape(have)}, model has none")
        elif have.shape != want.shape:
            faults.append(f"{name}/{key}: saved {_shape(have)}, model wants {_shape(want)}")
        elif have.dtype != want.dtype:
            faults.append(f"{name}/{key}: saved {np.dtype(have.dtype).name}, model wants {np.dtype(want.dtype).name}")
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise CheckpointError(f"checkpoint {path} does not fit the model: {faults[0]}{more}")


def _leaves(tree) -> dict:
    return {jax.tree_util.keystr(key, simple=True, separator="/"): leaf for key, leaf in jax.tree.leaves_with_path(tree)}


def _shape(leaf) -> str:
    return str(tuple(leaf.shape)).replace(" ", "")


def _int_keys(tree):
    """Keys that are numbers as int: Orbax writes the int keys of `nnx.List` as text."""
    if not isinstance(tree, dict):
        return tree
    return {int(key) if key.isdecimal() else key: _int_keys(value) for key, value in tree.items()}


def _verify(path: Path) -> None:
    """Raise `_Damaged` where a file of a step is missing or is not what was written.

    A step without a manifest, written by plain Orbax, is taken as it is. The first process reads for all.
    """
    damage = None
    if jax.process_index() == 0:
        try:
            damage = _damage(path)
        except (OSError, ValueError) as error:
            damage = _line(error)
    if not _agree(damage is None):
        raise _Damaged(damage or "found by the first process")


def _damage(path: Path) -> str | None:
    if not (path / "_CHECKPOINT_METADATA").is_file():
        return "it is not a whole checkpoint"
    if not (path / _MANIFEST).exists():
        return None
    for name, sha256 in _read_json(path / _MANIFEST).items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if _sha256(path / name) != sha256:
            return f"{name} is not what was written"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _agree(ok: bool) -> bool:
    """Whether `ok` on all processes, which thus take the same branch; none passes before all have come."""
    return ok if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(ok)).all())


def _steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal() and path.is_dir())


def _metas(folder: Path) -> dict[int, dict]:
    """{step: meta} of the steps whose meta can be read."""
    metas = {}
    for step in _steps(folder):
        try:
            metas[step] = _read_json(folder / str(step) / "meta" / "meta.json")
        except (OSError, ValueError):
            continue  # damaged; said when it is restored
    return metas


def _best(metas: dict[int, dict]) -> int | None:
    """The step of the lowest finite avg_metric, of equals the earliest."""
    return min((step for step in metas if _finite(metas[step])), key=lambda s: (metas[s]["avg_metric"], s), default=None)


def _finite(meta: dict) -> bool:
    return meta.get("avg_metric") is not None and math.isfinite(meta["avg_metric"])


def _all_damaged(folder: Path, damaged: dict[int, Exception]) -> CheckpointError:
    listed = ", ".join(f"{step}: {damage}" for step, damage in damaged.items())
    return CheckpointError(f"every checkpoint in {folder} is damaged ({listed}); move the folder away to start anew")


def _plain(tree: dict) -> dict:
    """JSON's types only: numbers of NumPy and JAX become Python's, tuples lists."""
    return json.loads(json.dumps(tree, default=lambda value: value.tolist()))


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def _line(error: Exception) -> str:
    """The start of an error's first line; TensorStore's go on for a hundred."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) < 200 else f"{line[:200]}…"
