"""The errors of one run, or of one file of predictions, sample by sample: what a report shows."""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxhand import data, models
from jaxhand.config import Config, UserError, to_dict
from jaxhand.data.record import Record, Source, read_annotation
from jaxhand.evaluation.run_predictions import PredictionCollector
from jaxhand.evaluation.scoring import Pair
from jaxhand.hand.skeleton import to_our_order
from jaxhand.metrics import baselines
from jaxhand.metrics.epoch import sample_errors
from jaxhand.metrics.procrustes import procrustes_align
from jaxhand.metrics.protocols.base import in_pieces

PIECE = 1024  # samples that are aligned at once


class EvaluatedModel(NamedTuple):
    """The best checkpoint of a run."""

    config: Config
    meta: dict  # of the checkpoint
    parameters: int  # how many there are
    evaluate: Callable[..., Any]  # (source, collect): calls `collect` with each host batch and its predictions


@dataclasses.dataclass(frozen=True)
class Measured:
    """Predictions and labels of N hands.

    Attributes:
        label: what was measured, such as the path of a run.
        data: name of the data set, or path of the ground truth.
        split: of the data set; empty for files.
        names: (N,) names of the hands.
        pred, gt: (N, 21, 3) joints, mm, in the camera frame.
        valid: (N, 21) labelled joints.
        pixels: (N, 21, 2) predicted joints, px of the image; None without images.
        source: the data set, for the pictures; None without images.
        epochs: lines of the run's metrics.jsonl; empty without a run.
        about: facts for the page, name → text.
        config: the run's config; empty without a run.
    """

    label: str
    data: str
    split: str
    names: np.ndarray
    pred: np.ndarray
    gt: np.ndarray
    valid: np.ndarray
    pixels: np.ndarray | None = None
    source: Source | None = None
    epochs: Sequence[dict] = ()
    about: dict[str, str] = dataclasses.field(default_factory=dict)
    config: dict = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def errors(self) -> dict[str, np.ndarray]:
        """MPJPE and PA-MPJPE of every hand, (N,) mm, as in the test of an epoch; NaN without a usable label."""

        def measure(pred, gt, valid):
            errors, labelled, _ = sample_errors(pred, gt, valid)
            return errors | {"labelled": labelled}

        found = in_pieces(measure, PIECE, *self._arrays)
        labelled = found.pop("labelled")
        return {name: np.where(labelled, values, np.nan).astype(np.float64) for name, values in found.items()}

    @functools.cached_property
    def distances(self) -> dict[str, np.ndarray]:
        """Distances of the joints, (N, 21) mm: relative to the wrist, and after Procrustes alignment."""

        def measure(pred, gt, valid):
            aligned = procrustes_align(pred, gt, valid=valid)
            relative = (pred - pred[:, :1]) - (gt - gt[:, :1])
            return {"mpjpe": np.linalg.norm(relative, axis=-1), "pa_mpjpe": np.linalg.norm(aligned - gt, axis=-1)}

        return in_pieces(measure, PIECE, *self._arrays)

    @property
    def scored(self) -> np.ndarray:
        """(N,) hands with a usable label and a finite prediction."""
        return np.isfinite(self.errors["mpjpe"]) & np.isfinite(self.errors["pa_mpjpe"])

    @functools.cached_property
    def baselines(self) -> dict[str, float]:
        """Errors in mm of the mean pose, and of one rigid hand after alignment, both made from the same labels."""
        gt, valid = self.gt[self.scored], self.valid[self.scored]
        return {
            "mpjpe": baselines.mean_pose(gt, gt, valid, valid),
            "pa_mpjpe": baselines.rigid_hand(gt, gt, valid, valid),
        }

    @functools.cached_property
    def conditions(self) -> dict[str, tuple[np.ndarray, str]]:
        """Properties of the hands that an error may depend on: name → (N,) values, and their unit.

        The view is the angle between the line of sight and the normal of the palm: 0 if the camera looks at the palm or
        the back of the hand, 90 if it looks at the edge of the hand.
        """
        wrist, index, little = (self.gt[:, joint] for joint in (0, 5, 17))
        normal = np.cross(index - wrist, little - wrist)
        valid = self.valid[..., None] > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            middle = np.where(valid, self.gt, 0).sum(1) / valid.sum(1)
            cosine = (normal * middle).sum(-1) / (np.linalg.norm(normal, axis=-1) * np.linalg.norm(middle, axis=-1))
            found = {
                "distance": (np.linalg.norm(middle, axis=-1), "mm"),
                "view": (np.degrees(np.arccos(np.clip(np.abs(cosine), 0, 1))), "degrees"),
            }
        if self.pixels is not None:
            found["size in the image"] = (np.ptp(self.pixels, axis=1).max(-1), "px")
        return {name: pair for name, pair in found.items() if np.isfinite(pair[0][self.scored]).any()}

    @property
    def _arrays(self) -> tuple[np.ndarray, ...]:
        valid = (self.valid > 0).astype(np.float32)
        # An unlabelled joint may be NaN, which the alignment would spread
        gt = np.where(valid[..., None] > 0, self.gt, 0)
        return self.pred.astype(np.float32), gt.astype(np.float32), valid


def of_run(workdir: Path, model: EvaluatedModel, name: str | None = None, split: str | None = None) -> Measured:
    """Predict a data set with the best checkpoint of a run.

    Args:
        workdir: run folder.
        model: its best checkpoint.
        name: data set, as in `data.test`; None: that of the run.
        split: of the data set; None: that of the run.

    Raises:
        UserError: the data set cannot be read or has no 3D labels.
    """
    config, meta = model.config, model.meta
    name, split = name or config.data.test, split or config.data.test_split
    source = data.load(name, split, config.data, config.seed, models.hand_config(config))
    collector = PredictionCollector()
    model.evaluate(source, collector.collect)
    records = [read_annotation(source, i) for i in range(len(source))]
    origin = meta.get("converted", {}).get("file")
    about = {
        "Weights": f"of {origin}" if origin else f"epoch {meta['epoch']}, step {meta['step']}",
        "Network": f"{config.model.name}, {model.parameters:,} parameters, images of {config.data.image_size} px",
        "Trained on": str(config.data.train),
        "Written with": ", ".join(f"{package} {version}" for package, version in meta.get("versions", {}).items()),
    }
    measured = Measured(
        label=str(workdir),
        data=name,
        split=split,
        names=np.array([record.name for record in records]),
        pred=collector.points()[0],
        gt=_stacked(records, "keypoints_3d"),
        valid=_stacked(records, "joint_valid"),
        pixels=collector.pixels(),
        source=source,
        epochs=_epochs(workdir),
        about=about,
        config=to_dict(config),
    )
    return _checked(measured)


def of_pair(pair: Pair) -> Measured:
    """The hands of a scored file of predictions.

    Raises:
        UserError: the protocol has no single 3D hands.
    """
    protocol = pair.protocol
    name = next(iter(protocol.pred))
    if protocol.joints != 21 or protocol.pred[name][-1] != 3:
        raise UserError(
            f"--report: protocol {protocol.name} has no single 3D hands; use freihand, ho3d, dexycb or hamer"
        )
    pred, gt = (
        to_our_order(np.asarray(side[key], np.float64)[..., :3] * protocol.unit_mm, protocol.joint_order)
        for side, key in ((pair.pred, name), (pair.gt, next(iter(protocol.gt))))
    )
    valid = pair.gt.get("joint_valid", np.ones(gt.shape[:2]))
    about = {"Protocol": protocol.name, "Ground truth": ", ".join(map(str, pair.gt_files))}
    label = ", ".join(map(str, pair.pred_files))
    return _checked(Measured(label, about["Ground truth"], "", pair.ids.astype(str), pred, gt, valid, about=about))


def _checked(measured: Measured) -> Measured:
    if not measured.scored.any():
        raise UserError(f"{measured.label} on {measured.data}: no hand has a 3D label and a finite prediction")
    return measured


def _stacked(records: list[Record], key: str) -> np.ndarray:
    return np.array([getattr(record, key) for record in records], np.float64)


def _epochs(workdir: Path) -> list[dict]:
    """The lines of metrics.jsonl; none if the run has no such file. A line that is cut off is left out."""
    found = []
    try:
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
    except (OSError, ValueError):
        return []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [line for line in found if isinstance(line, dict) and isinstance(line.get("epoch"), int)]
