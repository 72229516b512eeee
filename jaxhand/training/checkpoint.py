"""Checkpoints of a run over Orbax: written in the background, checked by SHA-256 when read, kept by avg_metric.

A step's folder `checkpoints/<step>/` holds the items `params`, `rest`, `optimizer` (trees of arrays), `data` and
`meta` (JSON). Its manifest of checksums is part of the same atomic rename, so no committed step is without one.
"""

import contextlib
import dataclasses
import errno
import functools
import json
import logging
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
from jaxhand.training import step_files, trees

_TREES, _JSON = ("params", "rest", "optimizer"), ("data", "meta")  # items of a step
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
    def partial(self) -> bool:
        """Whether it is a part of a model, such as a backbone, for `training.init_from` alone."""
        return self.meta.get("converted", {}).get("partial", False)

    @property
    def config(self) -> Config:
        """The experiment that wrote the checkpoint."""
        return from_dict(self.meta["config"], source=f"config of checkpoint {self.step}")


def warn(line: str) -> None:
    """Print a line to stderr, on the first process only."""
    if jax.process_index() == 0:
        print(f"warning: {line}", file=sys.stderr, flush=True)


class Checkpoints:
    """The checkpoints of one run, for the process that trains it (every process, where there are several).

    Kept together: the best step, the latest two, and every multiple of `keep_every_steps` (0: none). The best has
    the lowest finite avg_metric, of equals the earliest; a step without a finite one is never the best.

    Args:
        compress: False writes arrays as they are. Random-looking weights are hardly larger so, and on a CPU Orbax then
            writes from the arrays themselves, instead of from a second copy of all of them in memory.

    Raises:
        CheckpointError: the folder cannot be written to.
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        keep_every_steps: int = 0,
        compress: bool = True,
        warn: Callable[[str], None] = warn,
    ):
        self._folder = Path(workdir).absolute() / "checkpoints"
        self._every, self._compress = keep_every_steps, compress
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
        named = {"params": params, "rest": rest, "optimizer": optimizer}
        form = ocp.args.StandardSave if self._compress else ocp.args.PyTreeSave
        items = {name: form(tree) for name, tree in named.items() if jax.tree.leaves(tree)}
        items |= {"data": ocp.args.JsonSave(_plain(data)), "meta": ocp.args.JsonSave(meta)}
        self._saving = step
        try:
            saved = self._manager.save(
                step,
                args=ocp.args.Composite(**items),
                metrics={"avg_metric": avg_metric} if step_files.is_finite(meta) else None,
            )
        except Exception as error:
            raise self._failure(error) from error
        if not saved:
            raise self._failure(RuntimeError("Orbax declined the save"))
        return step_files.best(self._metas) == step

    def latest_step(self) -> int | None:
        """The latest step that is saved or being saved."""
        return self._manager.latest_step()

    def best(self) -> tuple[int, float, dict] | None:
        """(step, avg_metric in mm, meta) of the best step that is saved or being saved."""
        step = step_files.best(self._metas)
        return None if step is None else (step, self._metas[step]["avg_metric"], self._metas[step])

    def restore_latest(self, abstract: dict) -> Restored | None:
        """Restore the latest sound step, for training to go on from it; None where nothing was saved yet.

        Damaged steps are passed over with a warning and, once a sound one is found, moved to
        `checkpoints/damaged-<step>`, so that their numbers are free again.

        Args:
            abstract: {"params", "rest", "optimizer"}: trees of `jax.ShapeDtypeStruct` with shardings.

        Raises:
            CheckpointError: shape, dtype or name of a parameter differs from the saved one (it is named), no step can
                be read, or the folder holds converted weights and not a run.
        """
        self.wait()
        if any("converted" in meta for meta in self._metas.values()):
            source = self._folder.parent
            start = f"choose another --workdir, with training.init_from={source}"
            raise CheckpointError(f"{source} holds converted weights, not a run: {start}")
        damaged = {}  # step: what is wrong
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = _restore(self._manager, self._folder, step, abstract)
                break
            except _Damaged as damage:
                damaged[step] = damage
        else:
            if damaged:
                raise _none_readable(self._folder, damaged)
            return None
        sound = {step: meta for step, meta in self._metas.items() if step not in damaged}
        while (best := step_files.best(sound)) not in (None, restored.step):  # the best has to be sound as well
            try:
                _verify(self._folder / str(best))
                break
            except _Damaged as damage:
                damaged[best] = damage
                del sound[best]
        self._set_aside(damaged, restored.step)
        data = step_files.read_json(self._folder / str(restored.step), "data")
        return dataclasses.replace(restored, data=data)

    def saving(self) -> bool:
        """Whether a save is going on in the background."""
        return self._manager.is_saving_in_progress()

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
        steps = [info.step for info in checkpoints]
        stay = {step_files.best(self._metas), *steps[-2:]}
        return [step in stay or (self._every > 0 and step % self._every == 0) for step in steps]

    def _open(self) -> None:
        self._manager = _manager(
            self._folder,
            self._compress,
            preservation_policy=self,
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._write_manifest),
        )
        self._metas = step_files.metas(self._folder)

    def _write_manifest(self) -> None:
        """Runs in the background on the first process: all files are written, the step is not yet renamed."""
        path = next(self._folder.glob(f"{self._saving}.orbax-checkpoint-tmp*"), self._folder / str(self._saving))
        step_files.write_manifest(path)

    def _failure(self, error: Exception) -> CheckpointError:
        """Clear away a save that failed, so that the next can succeed, and say what happened."""
        if jax.process_index() == 0:
            for leftover in self._folder.glob(f"{self._saving}.orbax-checkpoint-tmp*"):
                shutil.rmtree(leftover, ignore_errors=True)
        if jax.process_count() == 1:  # several would wait here for each other, and they stop anyway
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
    workdir: str | Path,
    *,
    sharding: jax.sharding.Sharding | None = None,
    partial: bool = False,
    warn: Callable[[str], None] = warn,
) -> Restored:
    """Restore the best step of a run for evaluation; no optimizer is read and nothing is written.

    It does not matter on how many devices the run was trained. Keys that are numbers come back as int, as
    `nnx.List` has them. A damaged step is passed over for the next best with a warning.

    Args:
        workdir: the run's folder.
        sharding: of every array; by default each is whole on this process's first device.
        partial: take what is only a part of a model, too.

    Raises:
        CheckpointError: no such folder, no checkpoint in it, none with a finite avg_metric, none that can be read, or a
            part of a model that is not asked for.
    """
    folder = Path(workdir).absolute() / "checkpoints"
    if not folder.parent.is_dir():
        raise CheckpointError(f"no run folder at {folder.parent}; train: python -m jaxhand.train --workdir {workdir}")
    metas = step_files.metas(folder)
    if not step_files.steps(folder):
        raise CheckpointError(f"no checkpoint in {folder}; train: python -m jaxhand.train --workdir {workdir}")
    if step_files.best(metas) is None:
        raise CheckpointError(f"no checkpoint in {folder} has a finite avg_metric, so none is the best; train further")
    damaged = {}
    manager = _manager(folder, read_only=True)
    try:
        while (step := step_files.best(metas)) is not None:
            try:
                restored = _restore(manager, folder, step, sharding=sharding)
            except _Damaged as damage:
                damaged[step] = damage
                del metas[step]
                continue
            for bad, damage in damaged.items():
                warn(f"checkpoint {folder / str(bad)} is damaged ({damage}); step {step} is read in its place")
            if restored.partial and not partial:
                only = f"start a training with training.init_from={workdir}"
                raise CheckpointError(f"{workdir} holds a part of a model: {only}")
            return restored
    finally:
        manager.close()
    raise _none_readable(folder, damaged)


def _manager(folder: Path, compress: bool = True, **options) -> ocp.CheckpointManager:
    logging.getLogger("absl").addFilter(_not_from_orbax)
    tree, to_json = ocp.StandardCheckpointHandler, ocp.JsonCheckpointHandler
    if not compress:
        tree = functools.partial(ocp.PyTreeCheckpointHandler, use_compression=False)
    return ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(
            best_fn=lambda metrics: metrics["avg_metric"],  # makes Orbax write the metrics down
            best_mode="min",
            lightweight_initialize=True,  # a damaged file must not stop the opening
            **options,
        ),
        item_handlers={name: tree() for name in _TREES} | {name: to_json(filename=f"{name}.json") for name in _JSON},
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
    path, names = folder / str(step), tuple(abstract or ("params", "rest"))
    _verify(path, (*names, *_JSON))
    with _as_damage():
        meta = step_files.read_json(path, "meta")
        metadata = manager.item_metadata(step)
        unread = [name for name in names if metadata.get(name) is None and (path / name).is_dir()]
        if unread:
            raise ValueError(f"{unread[0]}/_METADATA is missing")
        saved = {name: {} if metadata.get(name) is None else metadata[name].tree for name in names}  # {}: no arrays
    targets = jax.tree.map(lambda leaf: trees.stored(leaf, sharding), abstract or saved)
    for name in names:
        if difference := trees.mismatch(name, saved[name], targets[name]):
            raise CheckpointError(f"checkpoint {path} does not fit the model: {difference}")
    args = {name: ocp.args.StandardRestore(tree) for name, tree in targets.items() if jax.tree.leaves(tree)}
    with _as_damage():
        restored = targets | dict(manager.restore(step, args=ocp.args.Composite(**args)).items())
    return Restored(step=step, meta=meta, **(trees.int_keys(restored) if abstract is None else restored))


@contextlib.contextmanager
def _as_damage():
    """Turn whatever Orbax raises over a step's files, here or on another process, into `_Damaged`."""
    error = None
    try:
        yield
    except Exception as exception:
        error = exception
    if not _agree(error is None):
        raise _Damaged(_line(error) if error else "unreadable on another process") from error


def _verify(path: Path, items: tuple[str, ...] = _TREES + _JSON) -> None:
    """Raise `_Damaged` where a file of a step's items is not what was written; the first process reads for all."""
    damage = step_files.damage(path, items) if jax.process_index() == 0 else None
    if not _agree(damage is None):
        raise _Damaged(damage or "found by the first process")


def _agree(ok: bool) -> bool:
    """Whether `ok` on all processes, which thus take the same branch; none passes before all have come."""
    return ok if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(ok)).all())


def _none_readable(folder: Path, damaged: dict[int, Exception]) -> CheckpointError:
    listed = ", ".join(f"{step}: {damage}" for step, damage in damaged.items())
    return CheckpointError(f"no checkpoint in {folder} can be read ({listed}); move the folder away to start anew")


def _plain(tree: dict) -> dict:
    """JSON's types only: numbers of NumPy and JAX become Python's, tuples lists."""
    return json.loads(json.dumps(tree, default=lambda value: value.tolist()))


def _line(error: Exception) -> str:
    """The start of an error's first line; TensorStore's go on for a hundred."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) < 200 else f"{line[:200]}…"
