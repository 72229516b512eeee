"""A run from its first step to its last: train an epoch, evaluate it, log it, save it."""

import collections
import contextlib
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxhand import data, models
from jaxhand.config import Config, UserError, to_dict
from jaxhand.data import fingerprint, pipeline, record, set_checks
from jaxhand.hand.draw import comparison_sheet, write_png
from jaxhand.io import console
from jaxhand.metrics import baselines, epoch
from jaxhand.training import optimizer, peers, pytree_checks, resume_notes, run_dir
from jaxhand.training.checkpoint import Checkpoints, restore_best
from jaxhand.training.checkpoint_files import Restored
from jaxhand.training.epoch_times import EpochTimes, advice
from jaxhand.training.epochs import Epochs
from jaxhand.training.eval_loop import batches_of, evaluate_dataset
from jaxhand.training.feed import Feed
from jaxhand.training.logger import Logger
from jaxhand.training.run_lock import RunLock
from jaxhand.training.runtime import TERMINATED, Interruption
from jaxhand.training.sharding import check_batch_size, make_mesh, replicated, to_global
from jaxhand.training.step import Trainer
from jaxhand.training.step_trace import StepTrace

LOG_EVERY = 20  # steps between two points of the training curve
BASELINE_HANDS = 2000  # hands of each set, at most, for the baselines
SAMPLES = 8  # test images in the picture of an epoch
NAMES = 8  # names of records in an error, at most
MODEL_ITEMS = {"params": "params", "rest": "batch_stats"}  # item of a checkpoint → key of the state
ITEMS = MODEL_ITEMS | {"optimizer": "optimizer"}


def train(config: Config, workdir: str | Path, allow: Collection[str] = ()) -> int:
    """Train in a run folder, from its latest checkpoint where it has one.

    Args:
        config: the experiment.
        workdir: run folder.
        allow: "config" and "data": what may differ from the run in the folder.

    Returns:
        The exit code: 0, or 143 after a signal to stop, when all is saved.

    Raises:
        UserError: the folder belongs to another config or other data, another process trains in it, or it cannot be
            written to; the data have a mistake, a loss term or a metric cannot be computed, or the loss is no longer
            finite.
    """
    with RunLock(Path(workdir)) as lock:
        run = Run(config, Path(workdir), allow, lock.check)
        try:
            start = run.restore()
            with Interruption() as interruption:
                return run.train(start, interruption)
        finally:
            run.close()


class Start(NamedTuple):
    """The state that a run starts from."""

    state: dict
    step: int | None = None  # of the checkpoint that the run continues from; None: a new run
    note: str = ""  # which parameters come from another run


class Run:
    """The parts of a run: data, compiled steps, state, checkpoints and logs.

    Args:
        config: the experiment.
        workdir: run folder.
        allow: as for `train`.
        check_lock: called before each save; raises UserError if another process has taken over the folder.

    Raises:
        UserError: as for `train`.
    """

    def __init__(
        self,
        config: Config,
        workdir: Path,
        allow: Collection[str] = (),
        check_lock: Callable[[], None] = lambda: None,
    ):
        check_batch_size(config.training.batch_size, config.training.accumulate)
        self._resume_notes = run_dir.check(workdir, config, allow)
        self.config, self.workdir, self._allow, self._check_lock = config, workdir, allow, check_lock
        options = config.data, config.seed, models.hand_config(config)
        self.train_set = data.load(config.data.train, "train", *options)
        self.test_set = data.load(config.data.test, config.data.test_split, *options)
        sets = {set_checks.TRAIN: self.train_set, "data.test": self.test_set}
        self._data_notes = set_checks.check(sets, strict=config.data.strict)
        self.steps = pipeline.steps_per_epoch(self.train_set, config)
        self._data_notes += pipeline.repetition_notes(self.train_set, config)
        self.batches = pipeline.train_iterator(
            self.train_set,
            config,
            hand_model=models.hand_model(config),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        self.device_mesh = make_mesh(config.training)
        self.epochs = Epochs(self.steps, config.training.num_epochs)
        self.trainer = Trainer(config, self.device_mesh, self.epochs.last)
        self._compiled = self.trainer.prepare()
        self.eval_batches = batches_of(self.test_set, self.trainer)
        self.fingerprints = {
            "train": fingerprint.of_source(self.train_set),
            "test": fingerprint.of_source(self.test_set),
            "hand": fingerprint.of_hand(self.trainer.hand_model),
        }
        self.checkpoints = Checkpoints(
            workdir, keep_every_steps=self.steps * config.training.save_freq, on_best=self._print_best
        )
        self._advised = False  # whether the line about slow data has been printed
        self._logger = self._trace = None  # opened by `restore`

    @property
    def logger(self) -> Logger:
        """The logs of the run; `restore` opens them."""
        assert self._logger is not None, "call `restore` first"
        return self._logger

    @property
    def trace(self) -> StepTrace:
        """The profiler trace of the run; `restore` prepares it."""
        assert self._trace is not None, "call `restore` first"
        return self._trace

    def restore(self) -> Start:
        """Restore the latest checkpoint, or draw new parameters, and open the logs at that step."""
        start = self._start()
        run_dir.write(self.workdir, self.config)
        is_main = jax.process_index() == 0
        self._logger = Logger(self.workdir, is_main=is_main, resume_step=start.step)
        traced = self.config.training.profile if is_main else None
        self._trace = StepTrace(traced, self.workdir / "tensorboard", self._logger.print)
        return start

    def _start(self) -> Start:
        abstract = self.trainer.abstract_state
        saved = self.checkpoints.restore_latest({item: abstract[key] for item, key in ITEMS.items()})
        if saved is not None:
            return self._continued(saved)
        state, source = self.trainer.init(), self.config.training.init_from
        if not source:
            return Start(state)
        best = restore_best(source, sharding=replicated(self.device_mesh), partial=True)
        optional = models.optional_parameters(self.config)
        wanted = {
            name: tree for name, tree in abstract["params"].items() if name in best.params or name not in optional
        }
        difference = pytree_checks.mismatch("params", best.params, wanted, partial=best.partial)
        if difference:
            raise UserError(f"training.init_from {source} does not fit: {difference}")
        model = {key: pytree_checks.overlaid(state[key], getattr(best, item)) for item, key in MODEL_ITEMS.items()}
        state = self.trainer.placed(self.trainer.start_from(state, **model))
        some_new = best.partial or len(wanted) < len(abstract["params"])
        taken = pytree_checks.parts(best.params, abstract["params"]) if some_new else ""
        return Start(state, note=f"training.init_from {source}: {taken}" if taken else "")

    def _continued(self, saved: Restored) -> Start:
        """The state of a checkpoint; the epoch in progress begins again if the training set is another one."""
        assert saved.data is not None, "`restore_latest` reads all items"
        before = saved.meta.get("fingerprints")
        changed = run_dir.changed_data(self.workdir, before, self.fingerprints, self._allow)
        epochs = Epochs(count=self.epochs.count, **saved.meta.get("epochs", {"steps": self.steps}))
        restarts = epochs.steps != self.steps or "train" in changed
        self.epochs = epochs.restarted(saved.step, self.steps) if restarts else epochs
        position = {"next_index": self.epochs.first * self.steps} if restarts else {}
        self.batches.set_state(saved.data | position)
        self.checkpoints.count_from(self.epochs.first_step)
        old_count = saved.meta["config"]["training"]["num_epochs"]
        old_rate = self._rate_after(saved.step, epochs._replace(count=old_count))
        if self.epochs != Epochs(self.steps, self.config.training.num_epochs):
            self.trainer = Trainer(self.config, self.device_mesh, self.epochs.last)
        new_rate = self._rate_after(saved.step, self.epochs)
        self._resume_notes += resume_notes.lines(saved, changed, epochs, self.epochs, (old_rate, new_rate))
        state = {key: getattr(saved, item) for item, key in ITEMS.items()}
        state["step"] = jax.device_put(np.int32(saved.step), replicated(self.device_mesh))
        return Start(self.trainer.with_sums(state, None if restarts else saved.meta.get("sums")), saved.step)

    def _rate_after(self, step: int, epochs: Epochs) -> float:
        """The learning rate of the step after `step`, in a schedule over these epochs."""
        schedule = optimizer.schedule(self.config.optimizer, self.config.scheduler, epochs.last)
        return np.asarray(schedule(step)).item()

    def close(self) -> None:
        """Close the logs, and also the checkpoints unless that could wait for a process that is gone."""
        try:
            if self._trace is not None:
                self._trace.stop()
            if self._logger is not None:
                self._logger.close()
        finally:
            if jax.process_count() == 1:
                self.checkpoints.close()

    def train(self, start: Start, interruption: Interruption) -> int:
        """Train the remaining epochs; see `train`."""
        self.state, self.times = start.state, EpochTimes()
        self.feed = Feed(self.batches, self._put, self.times)
        step, last = start.step or 0, self.epochs.last
        self._print_data()
        for note in (*self._resume_notes, *filter(None, [start.note])):
            self.logger.print(note)
        if (warmup := self.config.scheduler.warmup_steps) >= last:
            self.logger.print(f"The warm-up of {warmup} steps is longer than the run of {last} steps")
        if step:
            self.logger.print(f"Going on from step {step} of {last}")
        if (traced := self.config.training.profile) and traced[0] > last:
            self.logger.print(f"training.profile: the run of {last} steps ends before step {traced[0]}")
        for number in range(self.epochs.number(step), self.epochs.count):
            end = self.epochs.end(number)
            step, seconds = self._train_to(end, number, interruption)
            if step < end:
                self._save(step, {"epoch": number}, avg_metric=None)
            else:
                self._finish_epoch(number, seconds)
            if step < end or interruption.reached(step):
                self.checkpoints.wait()
                self.logger.print(
                    f"Stopped by a signal at step {step}, all is saved; the same command goes on from there"
                )
                return TERMINATED
        self.checkpoints.wait()
        best = self.checkpoints.best()
        if best is None:
            self.logger.print("Best model: none, no epoch had finite metrics")
        else:
            self.logger.print(f"Best model: Epoch {best[2]['epoch']}, Avg Metric = {best[1]:.3f} mm")
            if warning := baselines.warning(best[2]["mpjpe"], self.mean_pose):
                self.logger.print(f"  {warning}")
        return 0

    def _train_to(self, end: int, number: int, interruption: Interruption) -> tuple[int, float]:
        """Train epoch `number` to step `end` or until a signal; returns the step reached, and seconds per step."""
        batch_size, begin = self.config.training.batch_size, time.monotonic()
        first = int(self.state["step"])
        pending = collections.deque()  # (step, record indices, loss): read one step later, when it has been computed
        loss = None
        done = (first - self.epochs.begin(number)) * batch_size
        bar = self.logger.progress(self.steps * batch_size, initial=done, desc=f"Epoch {number}")
        with bar as progress, contextlib.ExitStack() as first_step:
            first_step.enter_context(console.patience("Compiling the training step; this can take minutes"))
            self._compiled.result()
            for step in range(first + 1, end + 1):
                with self.trace.step(step):
                    indices, batch = self.feed.take(loss)
                    self.state, loss = self.trainer.train_step(self.state, batch)
                first_step.close()
                pending.append((step, indices, loss))
                if len(pending) > 1:
                    self._check_loss(*pending.popleft())
                self.trace.stop_after(loss)
                progress.step(batch_size, pending[0][2])
                self.checkpoints.poll()
                if interruption.reached(step):
                    break
            for entry in pending:
                self._check_loss(*entry)
        peers.note_step(None)
        return step, (time.monotonic() - begin) / (step - first)

    def _put(self, batch: dict) -> dict:
        return to_global(batch, self.device_mesh)

    def _check_loss(self, step: int, indices: np.ndarray, loss: jax.Array) -> None:
        value = float(loss)
        if not np.isfinite(value):
            records = [self.train_set[int(i)] for i in indices]
            raise UserError(
                f"the loss or its gradient is not finite ({value}) at step {step}; nothing was saved since step "
                f"{self.checkpoints.latest_step() or 0}. Lower optimizer.learning_rate, or look at the records: "
                f"{_suspects(records)}"
            )
        if step % LOG_EVERY == 0:
            rate = np.asarray(self.trainer.learning_rate(step - 1)).item()
            self.logger.scalars(step, {"loss/step": value, "learning_rate": rate})

    def _finish_epoch(self, number: int, seconds: float) -> None:
        """Evaluate, log and save the state at the end of an epoch."""
        step, batch_size = self.epochs.end(number), self.config.training.batch_size
        begin = time.monotonic()
        with self.times.part("test"):
            results, samples = evaluate_dataset(
                self.trainer, self.state["params"], self.state["batch_stats"], self.eval_batches, samples=SAMPLES
            )
        speed = {
            "images_per_second": batch_size / seconds,
            "test_images_per_second": len(self.test_set) / (time.monotonic() - begin),
        }
        means = {name: value / self.steps for name, value in self.trainer.host_sums(self.state).items()}
        metrics = {metric.name: results[metric.name] for metric in self.trainer.metrics if metric.name in results}
        summary = {"epoch": number, "train_loss": means["loss"], "test_loss": results["test_loss"], **metrics}
        summary["learning_rate"] = np.asarray(self.trainer.learning_rate(step - 1)).item()
        with self.times.part("save"):
            self.checkpoints.wait()  # prints the best of the epoch before; the next save waits for it anyway
        epoch_seconds, shares = self.times.end_epoch()
        curves = {f"loss_train/{name}": value for name, value in means.items()}
        curves |= {f"loss_test/{name}": value for name, value in results["losses"].items()}
        curves |= {f"metric/{name}": value for name, value in metrics.items()}
        self.logger.scalars(step, curves | {f"speed/{name}": value for name, value in (speed | shares).items()})
        speed |= {f"{name}_share": value for name, value in shares.items()}
        self.logger.epoch({"step": step} | summary | {name: results[name] for name in epoch.COUNTS} | speed)
        self._draw(number, step, samples)
        self._print_epoch(summary, results)
        if not self._advised and (line := advice(epoch_seconds, shares["data_wait"], self.config.data)):
            self._advised = True
            self.logger.print(f"  {line}")
        self.state = self.trainer.with_sums(self.state)
        with self.times.part("save"):
            self._save(step, summary, avg_metric=results["avg_metric"])

    def _print_epoch(self, summary: dict, results: dict) -> None:
        self.logger.print(
            f"Epoch {summary['epoch']}: Train Loss = {summary['train_loss']:.4f}, "
            f"Test Loss = {summary['test_loss']:.4f}, LR = {summary['learning_rate']:.2e}"
        )
        for line in epoch.console_lines(self.trainer.metrics, results):
            self.logger.print(f"  {line}")
        if results["nonfinite"]:
            self.logger.print(f"  {results['nonfinite']} predictions are not finite, which makes the metrics infinite")
        if results["invalid"]:
            self.logger.print(f"  {results['invalid']} test hands have no usable 3D ground truth and are left out")

    def _print_best(self, step: int, avg_metric: float) -> None:
        place = self.workdir / "checkpoints" / str(step)
        self.logger.print(f"  ✓ Saved best model (avg_metric={avg_metric:.3f} mm) to {place}")

    def _save(self, step: int, meta: dict, avg_metric: float | None) -> None:
        self._check_lock()
        self.logger.flush()  # before the save: a run that is killed between the two repeats and logs this part again
        meta = meta | {
            "sums": self.trainer.host_sums(self.state),
            "schedule_step": step,
            "config": to_dict(self.config),
            "fingerprints": self.fingerprints,
            "epochs": {name: getattr(self.epochs, name) for name in ("steps", "first", "first_step")},
        }
        trees = {item: self.state[key] for item, key in ITEMS.items()}
        self.checkpoints.save(step, **trees, data=self.feed.get_state(), meta=meta, avg_metric=avg_metric)

    def _draw(self, number: int, step: int, samples: dict) -> None:
        """Draw the predicted and the true joints of the sample images of an epoch."""
        if jax.process_index() == 0:
            sheet = comparison_sheet(
                samples["image"],
                samples["predicted_2d"],
                samples["keypoints_2d"],
                columns=2,
                scale=max(1, 192 // self.config.data.image_size),
                valid=samples["joint_valid_2d"],
            )
            self.logger.image(step, "samples", sheet)
            write_png(self.workdir / "samples" / f"epoch_{number:03d}.png", sheet)

    def _print_data(self) -> None:
        for note in self._data_notes:
            self.logger.print(f"Data check: {note}")
        train, test = (record.sample_joints(source, BASELINE_HANDS) for source in (self.train_set, self.test_set))
        for line in baselines.lines(train, test):
            self.logger.print(line)
        self.mean_pose = baselines.mean_pose_of(train, test)


def _suspects(records: list[record.Record]) -> str:
    """Names of the records that have a number that is not finite; of all, if none has."""

    def is_finite(entry):
        values = (entry.K, entry.keypoints_3d, entry.keypoints_2d, entry.depth)
        return all(np.isfinite(value).all() for value in values if value is not None)

    names = [entry.name for entry in [entry for entry in records if not is_finite(entry)] or records]
    return ", ".join(names[:NAMES]) + (f" and {len(names) - NAMES} more" if len(names) > NAMES else "")
