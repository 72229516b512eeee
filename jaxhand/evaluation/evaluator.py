"""Score predictions batch by batch. The predictions can come from any program."""

from collections.abc import Sequence
from numbers import Integral

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxhand.config import UserError
from jaxhand.metrics.epoch import COUNTS, ERRORS, formatted, sample_errors

_sample_errors = jax.jit(sample_errors, static_argnames=("root", "keypoints", "metrics"))


class Evaluator:
    """Accumulates the root-relative errors of a test set; every sample has the same weight.

    A prediction that is not finite makes the metrics infinite and is counted as `nonfinite`. A sample whose label is
    not finite or has all its joints at one point is left out and counted as `invalid`.

        evaluator = Evaluator(len(test_set))
        for batch in batches:
            evaluator(predict(batch), batch["keypoints_3d"], batch["valid"], batch["joint_valid"])
        evaluator.log()

    Args:
        dataset_length: number of samples of the test set; it is an error to add more.
        keypoint_list: indices of the joints to score, after the root is subtracted; None: all joints.
        root_joint_idx: joint that is subtracted from prediction and label; 0 is the wrist.
        metrics: names of metrics in `jaxhand.metrics.epoch.ERRORS`.
        save_predictions: keep the predictions for `get_predictions_dict`.

    Raises:
        UserError: a metric is unknown.
    """

    def __init__(
        self,
        dataset_length: int,
        keypoint_list: Sequence[int] | None = None,
        root_joint_idx: int = 0,
        metrics: Sequence[str] = ("mpjpe", "pa_mpjpe"),
        save_predictions: bool = False,
    ):
        self.dataset_length = dataset_length
        self._options = options(keypoint_list, root_joint_idx, metrics)
        self.save_predictions = save_predictions
        self.reset()

    def reset(self) -> None:
        """Remove all samples."""
        self.counter = 0  # number of added samples, with the invalid ones
        self._errors = {name: np.zeros(self.dataset_length) for name in self._options["metrics"]}  # mm
        self._labelled = np.zeros(self.dataset_length, bool)
        self._finite = np.zeros(self.dataset_length, bool)
        self._predictions = []

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
            UserError: there are more samples than `dataset_length`.
            ValueError: the shapes differ or are not (B, J, 3).
        """
        errors, labelled, finite = jax.device_get(_sample_errors(pred, gt, joint_valid, **self._options))
        rows = slice(None) if valid is None else np.asarray(valid) > 0
        end = self.counter + len(labelled[rows])
        if end > self.dataset_length:
            raise UserError(
                f"evaluator: {end} samples were added, but dataset_length is {self.dataset_length}; "
                "call reset() before another pass, or set valid=0 for the padding rows of the last batch"
            )
        here = slice(self.counter, end)
        for name, values in errors.items():
            self._errors[name][here] = values[rows]
        self._labelled[here], self._finite[here] = labelled[rows], finite[rows]
        if self.save_predictions:
            self._predictions.append(np.asarray(pred)[rows])
        self.counter = end

    def get_metrics_dict(self) -> dict[str, float]:
        """Return the mean errors in mm over all samples with a valid label, and the numbers of samples.

        Keys: the metrics, infinite without a valid sample; `avg_metric` = (mpjpe + pa_mpjpe) / 2 if both are measured;
        `count`, the number of samples in the means; `nonfinite`, the number of these samples whose prediction is not
        finite; `invalid`, the number of samples that are left out because of their label.
        """
        labelled, finite = self._labelled[: self.counter], self._finite[: self.counter]
        count = int(labelled.sum())
        means = {
            name: float(errors[: self.counter].sum() / count) if count else float("inf")
            for name, errors in self._errors.items()
        }
        if {"mpjpe", "pa_mpjpe"} <= means.keys():
            means["avg_metric"] = (means["mpjpe"] + means["pa_mpjpe"]) / 2
        counts = {"count": count, "nonfinite": int((labelled & ~finite).sum()), "invalid": self.counter - count}
        return means | counts

    def get_predictions_dict(self) -> dict[str, np.ndarray]:
        """`keypoints_3d` (counter, J, 3) mm: all predictions in the order in which they were added.

        Raises:
            UserError: `save_predictions` is False, or no batch was added.
        """
        if not self._predictions:
            raise UserError("no predictions were kept; use Evaluator(..., save_predictions=True) and add a batch")
        return {"keypoints_3d": np.concatenate(self._predictions)}

    def log(self) -> None:
        """Print one line: the metrics, and the numbers of all samples and of faulty ones."""
        values = self.get_metrics_dict()
        parts = [formatted(name, values[name], "mm") for name in values if name not in COUNTS]
        print(f"{', '.join(parts)} over {values['count']} of {self.dataset_length} samples{faults(values)}")


def options(keypoint_list: Sequence[int] | None, root_joint_idx: int, metrics: Sequence[str]) -> dict:
    """Convert the arguments of an evaluator to keyword arguments of `sample_errors`.

    Raises:
        UserError: a metric is unknown, or the list has something else than whole numbers.
    """
    unknown = [name for name in metrics if name not in ERRORS]
    if unknown:
        raise UserError(f"unknown metric {unknown[0]!r}; known metrics: {', '.join(ERRORS)}")
    keypoints = None if keypoint_list is None else tuple(keypoint_list)
    numbers_only = all(isinstance(joint, Integral) and not isinstance(joint, bool) for joint in keypoints or ())
    if keypoints is not None and not (keypoints and numbers_only):
        raise UserError(
            f"keypoint_list must be indices of joints, such as [0, 4, 8], not a mask, got {keypoint_list!r:.60}"
        )
    keypoints = keypoints and tuple(map(int, keypoints))
    return {"root": root_joint_idx, "keypoints": keypoints, "metrics": tuple(metrics)}


def faults(values: dict) -> str:
    """Text for the end of a line: the numbers of non-finite predictions and invalid labels, if there are any."""
    text = f", {values['nonfinite']} predictions NOT FINITE" if values["nonfinite"] else ""
    return text + (f", {values['invalid']} invalid labels left out" if values["invalid"] else "")
