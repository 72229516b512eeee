"""Score any number of predictions in constant memory, on the devices where the predictions are."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxhand.evaluation.evaluator import faults, options
from jaxhand.metrics.epoch import sample_errors
from jaxhand.metrics.streaming import QUANTILES, merge, start, summary, update


class StreamingEvaluator:
    """Accumulates the root-relative errors of millions of hands, with the same rules as `Evaluator`.

    The memory is 80 kB per metric, because sums and histograms (`jaxhand.metrics.streaming`) replace the samples.
    Adding a batch does not wait for the device. Batches may be split over devices in any way; the means do not change.
    Errors of 16 km and more are treated as not finite. The limits are 2^32 hands, and 2^20 hands per batch.

        evaluator = StreamingEvaluator()
        for batch in batches:
            evaluator(predict(batch), batch["keypoints_3d"], batch["valid"], batch["joint_valid"])
        evaluator.log()

    Args:
        keypoint_list: indices of the joints to score, after the root is subtracted; None: all joints.
        root_joint_idx: joint that is subtracted from prediction and label; 0 is the wrist.
        metrics: names of metrics in `jaxhand.metrics.epoch.ERRORS`.

    Raises:
        UserError: a metric is unknown.
    """

    def __init__(
        self,
        keypoint_list: Sequence[int] | None = None,
        root_joint_idx: int = 0,
        metrics: Sequence[str] = ("mpjpe", "pa_mpjpe"),
    ):
        self._options = options(keypoint_list, root_joint_idx, metrics)
        self.reset()

    def reset(self) -> None:
        """Remove all samples."""
        self.state = {"errors": start(self._options["metrics"]), "invalid": np.uint32(0)}

    def __call__(
        self, pred: ArrayLike, gt: ArrayLike, valid: ArrayLike | None = None, joint_valid: ArrayLike | None = None
    ) -> None:
        """Add a batch.

        Args:
            pred: (B, J, 3) joints, mm.
            gt: (B, J, 3) joints, mm.
            valid: (B,) 0 for padding rows, else 1; None: there are no padding rows.
            joint_valid: (B, J) mask of the labelled joints; None: all joints are labelled.

        Raises:
            ValueError: the shapes differ or are not (B, J, 3).
        """
        self.add(_state_of(pred, gt, valid, joint_valid, **self._options))

    def add(self, state: dict) -> None:
        """Add the `state` of another evaluator with the same metrics, for example from another process."""
        self.state = _sum(self.state, state)

    def get_metrics_dict(self) -> dict[str, float]:
        """Return the dict of `Evaluator.get_metrics_dict`, and quantiles of the errors. Waits for all batches.

        Additional keys for each metric: `{name}_median`, `_p90`, `_p95` and `_p99` in mm, with an error of at most
        0.051 mm, and infinite from 1000 mm on; `{name}_max`. A prediction that is not finite makes the means and maxima
        infinite.
        """
        summaries = summary(self.state["errors"])
        values: dict[str, float] = {name: found["mean"] for name, found in summaries.items()}
        if {"mpjpe", "pa_mpjpe"} <= values.keys():
            values["avg_metric"] = (values["mpjpe"] + values["pa_mpjpe"]) / 2
        spread = {f"{name}_{key}": found[key] for name, found in summaries.items() for key in (*QUANTILES, "max")}
        counts = {key: max(found[key] for found in summaries.values()) for key in ("count", "nonfinite")}
        return values | spread | counts | {"invalid": int(self.state["invalid"])}

    def log(self) -> None:
        """Print one line per metric, and one line with the numbers of all samples and of faulty ones."""
        values = self.get_metrics_dict()
        for name in self._options["metrics"]:
            spread = ", ".join(f"{key} {values[f'{name}_{key}']:.2f}" for key in (*QUANTILES, "max"))
            print(f"{name}: {values[name]:.3f} mm ({spread})")
        print(f"over {values['count']} samples{faults(values)}")


@partial(jax.jit, static_argnames=("root", "keypoints", "metrics"))
def _state_of(pred, gt, valid, joint_valid, root, keypoints, metrics):
    """The state of an evaluator to which only this batch was added."""
    errors, labelled, _ = sample_errors(pred, gt, joint_valid, root=root, keypoints=keypoints, metrics=metrics)
    real = jnp.ones(labelled.shape, bool) if valid is None else jnp.asarray(valid) > 0
    invalid = (real & ~labelled).sum(dtype=jnp.uint32)
    return {"errors": update(start(metrics), errors, real & labelled), "invalid": invalid}


@jax.jit
def _sum(first, second):
    return {"errors": merge(first["errors"], second["errors"]), "invalid": first["invalid"] + second["invalid"]}
