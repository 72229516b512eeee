"""Checkpoints of a run: Orbax writes them in the background, and their SHA-256 checksums are checked on reading.

The folder `checkpoints/<step>/` contains the items `params`, `rest`, `optimizer` (trees of arrays), `data` and `meta`
(JSON), and a file of checksums. The folder gets its name by an atomic rename, after all its files are written.
"""

import dataclasses
import functools
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax
import jax
import orbax.checkpoint as ocp

import jaxhand
from jaxhand.io import output_files
from jaxhand.training import checkpoint_files, orbax_path, pytree_checks
from jaxhand.training.checkpoint_damage import (
    CheckpointError,
    Damaged,
    SaveError,
    agree,
    as_damage,
    misfit,
    none_readable,
    of_first,
    read_metas,
    reason,
    set_aside,
    verify,
    warn,
)
from jaxhand.training.checkpoint_files import Restored

_TREES, _JSON = ("params", "rest", "optimizer"), ("data", "meta")  # names of the Orbax items of a checkpoint


class Checkpoints:
    """Writes and restores the checkpoints of one run. Every process of the run makes its own object.

    Three kinds of steps are kept: the best step, the latest two, and every multiple of `keep_every_steps`. The best
    step has the lowest finite avg_metric; if several steps have the same value, the earliest is the best. A step
    without a finite avg_metric is never the best.

    Args:
        workdir: run folder.
        keep_every_steps: every multiple of this number of steps is kept; 0: no multiples are kept.
        compress: False writes arrays without compression. The files are hardly larger, because weights look random.
            On a CPU, Orbax then needs no second copy of the arrays in memory.
        on_best: called with a new best step and its avg_metric in mm, after the step is on disk. `save`, `wait` and
            `poll` make this call.
        warn: called with one line about each damaged step.

    Raises:
        CheckpointError: the folder cannot be written to.
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        keep_every_steps: int = 0,
        compress: bool = True,
        on_best: Callable[[int, float], None] | None = None,
        warn: Callable[[str], None] = warn,
    ):
        self._folder = Path(workdir).absolute() / "checkpoints"
        if wrong := orbax_path.wrong_in(self._folder):
            raise CheckpointError(f"cannot write checkpoints to {self._folder}: the path contains {wrong!r}")
        self._every, self._from, self._compress = keep_every_steps, 0, compress
        self._on_best, self._warn = on_best, warn
        self._saving = None  # step that Orbax is writing
        self._written = None  # {file: size} of that step, when its files are written but not checked yet
        self._new_best = None  # new best step for which `on_best` has not been called yet, else None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self._folder).close()
        except OSError as error:
            raise CheckpointError(f"cannot write checkpoints to {self._folder}: {error.strerror}") from error
        self._open()

    def save(
        self, step: int, *, params: dict, rest: dict, optimizer: Any, data: dict, meta: dict, avg_metric: float | None
    ) -> bool:
        """Copy the arrays from the devices and write the copies in the background. The arrays may then be donated.

        Args:
            step: must be later than every step saved before.
            params, rest, optimizer: trees of arrays; `rest` is everything else in the model, such as batch statistics.
            data, meta: dicts for JSON; NumPy and JAX numbers are converted to Python numbers. `step`, `avg_metric` and
                `versions` are added to `meta`.
            avg_metric: error in mm by which the steps are ranked, equal on all processes; None in the middle of an
                epoch.

        Returns:
            Whether this step is the best so far.

        Raises:
            CheckpointError: `step` is not later than the latest saved step, or writing this checkpoint or the previous
                one failed.
        """
        self.wait()
        latest = self.latest_step()
        if latest is not None and step <= latest:
            raise CheckpointError(f"cannot save step {step} to {self._folder}: step {latest} exists already")
        versions = {"jaxhand": jaxhand.__version__}
        versions |= {module.__name__: module.__version__ for module in (jax, flax)} | {"orbax": ocp.__version__}
        avg_metric = None if avg_metric is None else float(avg_metric)
        meta = checkpoint_files.plain({**meta, "step": int(step), "avg_metric": avg_metric, "versions": versions})
        self._metas[step] = meta  # set before the save, because Orbax calls `should_preserve` in it
        best_step = checkpoint_files.best(self._metas)
        meta["best"] = None
        if best_step is not None and checkpoint_files.is_finite(self._metas[best_step]):
            meta["best"] = {"step": best_step, "avg_metric": self._metas[best_step]["avg_metric"]}
        named = {"params": params, "rest": rest, "optimizer": optimizer}
        form = ocp.args.StandardSave if self._compress else ocp.args.PyTreeSave
        items = {name: form(tree) for name, tree in named.items() if jax.tree.leaves(tree)}
        items |= {"data": ocp.args.JsonSave(checkpoint_files.plain(data)), "meta": ocp.args.JsonSave(meta)}
        self._saving, self._trees = step, [name for name in items if name in _TREES]
        try:
            saved = self._manager.save(
                step,
                args=ocp.args.Composite(**items),
                metrics={"avg_metric": avg_metric} if checkpoint_files.is_finite(meta) else None,
            )
        except Exception as error:
            raise self._failure(error) from error
        if not saved:
            raise self._failure(RuntimeError("Orbax did not save the step"))
        self._new_best = step if best_step == step else None
        return best_step == step

    def count_from(self, step: int) -> None:
        """Keep all steps before `step`, and from there on every `keep_every_steps`-th; for epochs of another length."""
        self._from = step

    def latest_step(self) -> int | None:
        """The latest step that is saved or being saved; None if there is none."""
        return self._manager.latest_step()

    def best(self) -> tuple[int, float, dict] | None:
        """(step, avg_metric in mm, meta) of the best step that is saved or being saved; None if there is none."""
        step = checkpoint_files.best(self._metas)
        return None if step is None else (step, self._metas[step]["avg_metric"], self._metas[step])

    def restore_latest(self, abstract: dict) -> Restored | None:
        """Restore the latest undamaged step, to continue training from it.

        Damaged steps are skipped with a warning. After an undamaged step is found, the damaged ones are renamed to
        `checkpoints/damaged-<step>`, so that their step numbers can be used again.

        Args:
            abstract: {"params", "rest", "optimizer"}: trees of `jax.ShapeDtypeStruct` with shardings.

        Returns:
            The step with its optimizer and data state; None if no step was saved yet.

        Raises:
            CheckpointError: the shape, dtype or name of a parameter differs from the saved one (the error names the
                parameter), no step can be read, or the folder contains converted weights instead of a run.
        """
        self.wait()
        if any("converted" in meta for meta in self._metas.values()):
            source = self._folder.parent
            start = f"choose another --workdir and set training.init_from={source}"
            raise CheckpointError(f"{source}: contains converted weights, not a run; {start}")
        damaged = {}  # step → error
        for step in sorted(of_first(checkpoint_files.steps(self._folder)), reverse=True):
            try:
                restored = _restore(self._manager, self._folder, step, abstract)
                break
            except Damaged as damage:
                damaged[step] = damage
        else:
            if damaged:
                raise none_readable(self._folder, damaged)
            return None
        damaged |= {step: Damaged(text) for step, text in self._unread.items() if step not in damaged}
        if missing := checkpoint_files.missing_best(self._metas, damaged):
            self._warn(f"{missing}, is gone from {self._folder}")
        sound = {step: meta for step, meta in self._metas.items() if step not in damaged}
        while (best := checkpoint_files.best(sound)) not in (None, restored.step):  # is the best undamaged, too?
            try:
                verify(self._folder / str(best), _TREES + _JSON)
                break
            except Damaged as damage:
                damaged[best] = damage
                del sound[best]
        self._set_aside(damaged, restored.step)
        data = checkpoint_files.read_json(self._folder / str(restored.step), "data")
        return dataclasses.replace(restored, data=data)

    def poll(self) -> None:
        """Call `wait` if the background save is finished. This is fast enough to be called after every step."""
        if self._new_best is not None and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Wait until the background save is finished, then call `on_best` if there is a new best step.

        Raises:
            CheckpointError: the save failed; the steps saved before are kept.
        """
        self._finish_save()
        step, self._new_best = self._new_best, None
        if step is not None and self._on_best is not None:
            self._on_best(step, self._metas[step]["avg_metric"])

    def close(self) -> None:
        """Wait until the background save is finished and stop Orbax's threads; `on_best` is not called.

        Raises:
            CheckpointError: the save failed; the steps saved before are kept.
        """
        try:
            self._finish_save()
        finally:
            self._manager.close()

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        """Whether to keep each of `checkpoints`, which are sorted by step. Orbax calls this method after each save."""
        del context
        steps = [info.step for info in checkpoints]
        stay = {checkpoint_files.best(self._metas), *steps[-2:]}
        # A step that is not in `_metas` is damaged or is not ours.
        stay |= {step for step in steps if step < self._from or step not in self._metas}
        return [step in stay or (self._every > 0 and (step - self._from) % self._every == 0) for step in steps]

    def _open(self) -> None:
        self._manager = _manager(
            self._folder,
            self._compress,
            preservation_policy=self,
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._write_manifest),
        )
        self._metas, self._unread = read_metas(self._folder)

    def _write_manifest(self) -> None:
        """Write the checksums of a step. Orbax calls this on the first process before it renames the folder."""
        path = next(self._folder.glob(f"{self._saving}.orbax-checkpoint-tmp*"), self._folder / str(self._saving))
        checkpoint_files.write_manifest(path)
        if missing := checkpoint_files.incomplete(path, self._trees):
            raise ValueError(f"{missing} after it was written")
        self._written = checkpoint_files.file_sizes(path)

    def _finish_save(self) -> None:
        try:
            self._manager.wait_until_finished()
            written, self._written = self._written, None
            if written is not None:
                if missing := checkpoint_files.incomplete(self._folder / str(self._saving), self._trees, written):
                    raise ValueError(f"{missing} after it was written")
        except Exception as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> SaveError:
        """Delete the files of a failed save, so that the next save can succeed. Returns the error to raise."""
        self._new_best = self._written = None
        if jax.process_index() == 0:
            for leftover in self._folder.glob(f"{self._saving}.orbax-checkpoint-tmp*"):
                shutil.rmtree(leftover, ignore_errors=True)
        if jax.process_count() == 1:  # several processes would block here, and the run ends anyway
            self._manager.close()
            self._open()
        earlier = [step for step in checkpoint_files.steps(self._folder) if step != self._saving]
        stays = f"; step {earlier[-1]} is still there" if earlier else ""
        return SaveError(f"cannot write checkpoint {self._folder / str(self._saving)}: {reason(error)}{stays}")

    def _set_aside(self, damaged: dict[int, Exception], restored_step: int) -> None:
        if not damaged:
            return
        self._manager.close()
        places = {step: set_aside(self._folder / str(step)) for step in damaged}
        agree(True)
        self._open()
        best_step = checkpoint_files.best(self._metas)
        best = "none" if best_step is None else f"step {best_step}"
        for step, damage in damaged.items():
            lost = f"; the best is now {best}" if step < restored_step else ""
            self._warn(
                f"checkpoint {self._folder / str(step)} is damaged ({damage}) and was renamed to {places[step].name}"
                f"{lost}; training continues from step {restored_step}"
            )


def restore_best(
    workdir: str | Path,
    *,
    sharding: jax.sharding.Sharding | None = None,
    partial: bool = False,
    warn: Callable[[str], None] = warn,
) -> Restored:
    """Restore the best step of a run for evaluation. The optimizer is not read, and nothing is written.

    The run may have been trained on another number of devices. Dict keys that are numbers become int, as in
    `nnx.List`. If the best step is damaged, a warning is printed and the next best step is restored.

    Args:
        workdir: run folder.
        sharding: sharding of every array; None: every array is complete on the first device of this process.
        partial: also accept a checkpoint that contains only a part of a model, such as a backbone.
        warn: called with one line about each damaged step.

    Returns:
        Parameters, batch statistics and metadata of the best step.

    Raises:
        CheckpointError: the folder does not exist, or contains no checkpoint; no checkpoint has a finite avg_metric,
            or none can be read; or the checkpoint contains only a part of a model and `partial` is False.
    """
    folder = Path(workdir).expanduser().absolute() / "checkpoints"
    if not folder.parent.is_dir():
        raise CheckpointError(f"no run folder at {folder.parent}; train: python -m jaxhand.train --workdir {workdir}")
    metas, unread = read_metas(folder)
    if not metas and not unread:
        run = output_files.run_around(folder.parent)
        advice = f"give the run folder, {run}" if run else f"train: python -m jaxhand.train --workdir {workdir}"
        raise CheckpointError(f"no checkpoint in {folder}; {advice}")
    damaged: dict[int, Exception] = {step: Damaged(text) for step, text in unread.items()}
    if checkpoint_files.best(metas) is None:
        if damaged:
            raise none_readable(folder, damaged)
        raise CheckpointError(f"no checkpoint in {folder} has a finite avg_metric, so none is best; train longer")
    missing = checkpoint_files.missing_best(metas, damaged)
    manager = _manager(folder, read_only=True)
    try:
        while (step := checkpoint_files.best(metas)) is not None:
            try:
                restored = _restore(manager, folder, step, sharding=sharding)
            except Damaged as damage:
                damaged[step] = damage
                del metas[step]
                continue
            for bad, damage in damaged.items():
                warn(f"checkpoint {folder / str(bad)} is damaged ({damage}); step {step} is used instead")
            if missing:
                warn(f"{missing}, is gone from {folder}; step {step} is used instead")
            if restored.partial and not partial:
                only = f"start a training from it with training.init_from={workdir}"
                raise CheckpointError(f"{workdir}: contains only a part of a model; {only}")
            return restored
    finally:
        manager.close()
    raise none_readable(folder, damaged)


def _manager(folder: Path, compress: bool = True, **options) -> ocp.CheckpointManager:
    logging.getLogger("absl").addFilter(_not_from_orbax)
    tree = ocp.StandardCheckpointHandler
    if not compress:
        tree = functools.partial(ocp.PyTreeCheckpointHandler, use_compression=False)
    return ocp.CheckpointManager(
        orbax_path.LiteralPath(folder),
        options=ocp.CheckpointManagerOptions(
            best_fn=lambda metrics: metrics["avg_metric"],  # without this function, Orbax does not write the metrics
            best_mode="min",
            lightweight_initialize=True,  # the folder must open even if a file is damaged
            **options,
        ),
        item_handlers={name: tree() for name in _TREES} | {name: ocp.JsonCheckpointHandler() for name in _JSON},
    )


def _not_from_orbax(record: logging.LogRecord) -> bool:
    """Filter out Orbax's log. Orbax logs every error with a traceback and also raises it; one line is enough."""
    return "orbax" not in record.pathname


def _restore(
    manager: ocp.CheckpointManager,
    folder: Path,
    step: int,
    abstract: dict | None = None,
    sharding: jax.sharding.Sharding | None = None,
) -> Restored:
    """Restore a step with the shapes in `abstract`; if this is None, only `params` and `rest`, as they were saved."""
    path, names = folder / str(step), tuple(abstract or ("params", "rest"))
    verify(path, (*names, *_JSON))
    with as_damage():
        meta = checkpoint_files.read_json(path, "meta")
        metadata = manager.item_metadata(step)
        unread = [name for name in names if metadata.get(name) is None and (path / name).is_dir()]
        if unread:
            raise ValueError(f"{unread[0]}/_METADATA is missing")
        # A tree without arrays is not saved; it is {} here.
        saved = {name: {} if metadata.get(name) is None else metadata[name].tree for name in names}
    targets = jax.tree.map(lambda leaf: pytree_checks.stored(leaf, sharding), abstract or saved)
    for name in names:
        if difference := pytree_checks.mismatch(name, saved[name], targets[name]):
            raise misfit(path, name, difference)
    args = {name: ocp.args.StandardRestore(tree) for name, tree in targets.items() if jax.tree.leaves(tree)}
    with as_damage():
        restored = targets | dict(manager.restore(step, args=ocp.args.Composite(**args)).items())
    return Restored(step=step, meta=meta, **(pytree_checks.int_keys(restored) if abstract is None else restored))
