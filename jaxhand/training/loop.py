"""A run from its first step to its last: train an epoch, test it, log it, save it."""

import collections
import time
from pathlib import Path

import jax
import numpy as np

from jaxhand import data, models
from jaxhand.config import Config, UserError, to_dict
from jaxhand.data import pipeline, record
from jaxhand.hand.draw import comparison_sheet, write_png
from jaxhand.metrics import MESH_METRICS, baselines
from jaxhand.training import folder, trees
from jaxhand.training.checkpoint import Checkpoints, restore_best
from jaxhand.training.logger import Logger
from jaxhand.training.runtime import TERMINATED, Interruption
from jaxhand.training.sharding import check_batch_size, make_mesh, replicated, to_global
from jaxhand.training.step import Trainer
from jaxhand.training.testing import batches_of, mesh_line, run_test

LOG_EVERY = 20  # steps between two points of the training curve
BASELINE_HANDS = 2000  # at most of each set that the baselines are computed from
SAMPLES = 8  # test images in the picture of an epoch
METRICS = ("mpjpe", "pa_mpjpe", "avg_metric", *MESH_METRICS)
NAMES = 8  # at most, of records in an error


def train(config: Config, workdir: str | Path) -> int:
    """Train in a run folder, from its latest checkpoint where it has one.

    Returns:
        The exit code: 0, or 143 after a signal to stop, when all is saved.

    Raises:
        UserError: the folder belongs to another config or cannot be written to, the data hold a mistake, or the
            loss is no longer finite.
    """
    run = Run(config, Path(workdir))
    try:
        with Interruption() as interruption:
            return run.train(interruption)
    finally:
        run.close()


class Run:
    """Everything a run holds on to: data, compiled steps, state, checkpoints and logs."""

    def __init__(self, config: Config, workdir: Path):
        check_batch_size(config.training.batch_size)
        folder.prepare(workdir, config)
        self.config, self.workdir = config, workdir
        options = config.data, config.seed, models.hand_config(config)
        self.train_set = data.load(config.data.train, "train", *options)
        self.test_set = data.load(config.data.test, config.data.test_split, *options)
        self.steps = pipeline.steps_per_epoch(self.train_set, config)
        self.batches = pipeline.train_iterator(
            self.train_set,
            config,
            hand_model=models.hand_model(config),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        self.mesh = make_mesh()
        self.trainer = Trainer(config, self.mesh, self.steps * config.training.num_epochs)
        self.test_batches = batches_of(self.test_set, self.trainer)
        self.checkpoints = Checkpoints(workdir, keep_every_steps=self.steps * config.training.save_freq)
        self.start_line = ""  # what a new run begins with
        self.state, resumed_step = self._start()
        self.logger = Logger(workdir, is_main=jax.process_index() == 0, resume_step=resumed_step)
        self.best_line = ""  # to be printed as soon as the best checkpoint is on disk

    def _start(self) -> tuple[dict, int | None]:
        """The state to go on from and its step; None where the run is new."""
        abstract = self.trainer.abstract_state()
        saved = self.checkpoints.restore_latest({name: abstract[name] for name in ("params", "rest", "optimizer")})
        if saved is not None:
            self.batches.set_state(saved.data)
            sums = {name: np.float32(saved.meta["sums"][name]) for name in abstract["sums"]}
            counted = jax.device_put({"step": np.int32(saved.step), "sums": sums}, replicated(self.mesh))
            return counted | {"params": saved.params, "rest": saved.rest, "optimizer": saved.optimizer}, saved.step
        state, source = self.trainer.init(), self.config.training.init_from
        if source:
            best = restore_best(source, sharding=replicated(self.mesh), partial=True)
            difference = trees.mismatch("params", best.params, abstract["params"], partial=best.partial)
            if difference:
                raise UserError(f"training.init_from {source} does not fit: {difference}")
            if best.partial:
                self.start_line = f"training.init_from {source}: {trees.parts(best.params, abstract['params'])}"
            state |= {name: trees.overlaid(state[name], getattr(best, name)) for name in ("params", "rest")}
        return state, None

    def close(self) -> None:
        """Close the logs, and the checkpoints where that cannot mean to wait for a process that is gone."""
        try:
            self.logger.close()
        finally:
            if jax.process_count() == 1:
                self.checkpoints.close()

    def train(self, interruption: Interruption) -> int:
        """All epochs that are left; see `train`."""
        step = int(self.state["step"])
        self._print_baselines()
        if self.start_line:
            self.logger.print(self.start_line)
        if step:
            self.logger.print(f"Going on from step {step} of {self.steps * self.config.training.num_epochs}")
        for epoch in range(step // self.steps, self.config.training.num_epochs):
            end = (epoch + 1) * self.steps
            step, seconds = self._train_to(end, epoch, interruption)
            if step < end:
                self._save(step, {"epoch": epoch}, avg_metric=None)
            else:
                self._finish_epoch(epoch, seconds)
            if step < end or interruption.reached(step):
                self._announce_best()
                self.logger.print(
                    f"Stopped by a signal at step {step}, all is saved; the same command goes on from there"
                )
                return TERMINATED
        self._announce_best()
        best = self.checkpoints.best()
        if best is None:
            self.logger.print("Best model: none, no epoch had finite metrics")
        else:
            self.logger.print(f"Best model: Epoch {best[2]['epoch']}, Avg Metric = {best[1]:.3f} mm")
        return 0

    def _train_to(self, end: int, epoch: int, interruption: Interruption) -> tuple[int, float]:
        """Train to step `end`, or until a signal comes: the step reached, and seconds a step."""
        batch_size, begin = self.config.training.batch_size, time.monotonic()
        first = int(self.state["step"])
        pending = collections.deque()  # (step, record indices, loss): looked at a step late, when it has been computed
        done = (first % self.steps) * batch_size
        with self.logger.progress(self.steps * batch_size, initial=done, desc=f"Epoch {epoch}") as progress:
            for step in range(first + 1, end + 1):
                batch = next(self.batches)
                indices = batch.pop("index")
                self.state, loss = self.trainer.train_step(self.state, to_global(batch, self.mesh))
                pending.append((step, indices, loss))
                if len(pending) > 1:
                    self._check_loss(*pending.popleft())
                progress.step(batch_size, pending[0][2])
                if self.best_line and not self.checkpoints.saving():
                    self._announce_best()
                if interruption.reached(step):
                    break
            for entry in pending:
                self._check_loss(*entry)
        return step, (time.monotonic() - begin) / (step - first)

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
            rate = float(self.trainer.learning_rate(step - 1))
            self.logger.scalars(step, {"loss/step": value, "learning_rate": rate})

    def _finish_epoch(self, epoch: int, seconds: float) -> None:
        """Test, log and save what an epoch has learned."""
        step, batch_size = (epoch + 1) * self.steps, self.config.training.batch_size
        begin = time.monotonic()
        results, samples = run_test(
            self.trainer, self.state["params"], self.state["rest"], self.test_batches, samples=SAMPLES
        )
        tested = time.monotonic() - begin
        means = {name: float(value) / self.steps for name, value in self.state["sums"].items()}
        rate = float(self.trainer.learning_rate(step - 1))
        metrics = {name: results[name] for name in ("test_loss", *METRICS) if name in results}
        summary = {"epoch": epoch, "train_loss": means["loss"], **metrics, "learning_rate": rate}

        self._announce_best()  # of the epoch before; the next save waits for it anyway
        self._log_epoch(
            step,
            summary,
            means,
            results,
            {
                "images_per_second": batch_size / seconds,
                "test_images_per_second": len(self.test_set) / tested,
            },
        )
        self._draw(epoch, step, samples)
        self.logger.print(
            f"Epoch {epoch}: Train Loss = {means['loss']:.4f}, Test Loss = {results['test_loss']:.4f}, "
            f"LR = {rate:.2e}\n"
            f"  MPJPE: {results['mpjpe']:.3f} mm, PA-MPJPE: {results['pa_mpjpe']:.3f} mm, "
            f"Avg Metric: {results['avg_metric']:.3f} mm"
        )
        if mesh_line(results):
            self.logger.print(f"  {mesh_line(results)}")
        if results["nonfinite"]:
            self.logger.print(f"  {results['nonfinite']} predictions are not finite, which makes the metrics infinite")
        if results["invalid"]:
            self.logger.print(f"  {results['invalid']} test hands have no usable 3D ground truth and are left out")

        self.state["sums"] = jax.device_put(self.trainer.zero_sums(), replicated(self.mesh))
        if self._save(step, summary, avg_metric=results["avg_metric"]):
            place = self.workdir / "checkpoints" / str(step)
            self.best_line = f"  ✓ Saved best model (avg_metric={results['avg_metric']:.3f} mm) to {place}"

    def _announce_best(self) -> None:
        """Say that the best checkpoint is on disk, once it is. Raises CheckpointError where it could not be written."""
        self.checkpoints.wait()
        if self.best_line:
            self.logger.print(self.best_line)
            self.best_line = ""

    def _save(self, step: int, meta: dict, avg_metric: float | None) -> bool:
        self.logger.flush()  # before the save: a run that dies between the two does this part again, and logs it again
        meta = meta | {
            "sums": {name: float(value) for name, value in self.state["sums"].items()},
            "schedule_step": step,
            "config": to_dict(self.config),
        }
        trees_of_state = {name: self.state[name] for name in ("params", "rest", "optimizer")}
        return self.checkpoints.save(
            step, **trees_of_state, data=self.batches.get_state(), meta=meta, avg_metric=avg_metric
        )

    def _log_epoch(self, step: int, summary: dict, means: dict, results: dict, speed: dict) -> None:
        curves = {f"loss_train/{name}": value for name, value in means.items()}
        curves |= {f"loss_test/{name}": value for name, value in results["losses"].items()}
        curves |= {f"metric/{name}": results[name] for name in METRICS if name in results}
        curves |= {f"speed/{name}": value for name, value in speed.items()}
        self.logger.scalars(step, curves)
        counts = {name: results[name] for name in ("count", "nonfinite", "invalid")}
        self.logger.epoch({"step": step} | summary | counts | speed)

    def _draw(self, epoch: int, step: int, samples: dict) -> None:
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
            write_png(self.workdir / "samples" / f"epoch_{epoch:03d}.png", sheet)

    def _print_baselines(self) -> None:
        train, train_valid = record.sample_joints(self.train_set, BASELINE_HANDS)
        test, test_valid = record.sample_joints(self.test_set, BASELINE_HANDS)
        if not (len(train) and len(test)):
            self.logger.print("Baseline: none, a set without 3D labels has none")
            return
        mean_pose = baselines.mean_pose(train, test, train_valid, test_valid)
        rigid_hand = baselines.rigid_hand(train, test, train_valid, test_valid)
        self.logger.print(f"Baseline (mean pose of the training set): MPJPE = {mean_pose:.3f} mm")
        self.logger.print(f"Baseline (one rigid hand, aligned): PA-MPJPE = {rigid_hand:.3f} mm")


def _suspects(records: list[record.Record]) -> str:
    """Names of the records with a number that is not finite, or else of all."""

    def is_finite(entry):
        values = (entry.K, entry.keypoints_3d, entry.keypoints_2d, entry.depth)
        return all(np.isfinite(value).all() for value in values if value is not None)

    names = [entry.name for entry in [entry for entry in records if not is_finite(entry)] or records]
    return ", ".join(names[:NAMES]) + (f" and {len(names) - NAMES} more" if len(names) > NAMES else "")
