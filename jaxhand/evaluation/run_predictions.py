"""Collect the predictions of a run on a data set: convert them from crops to images, and for a protocol."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.data.record import Record
from jaxhand.evaluation.scoring import Pair
from jaxhand.hand.camera import FROM_OPENGL, project, uncrop
from jaxhand.hand.skeleton import from_our_order
from jaxhand.metrics.protocols import PROTOCOLS


class PredictionCollector:
    """Collects the predictions of a model on a data set, in the order of its records, batch by batch."""

    def __init__(self):
        self._batches = []

    def collect(self, batch: Mapping, predictions: Mapping) -> None:
        """Add the predictions of a batch.

        Args:
            batch: host batch with `valid` (B,), `K` and `K_image` (B,3,3), `is_right` and `rotation` (B,).
            predictions: `keypoints_2d` (B,21,2) px and `keypoints_3d` (B,21,3) mm in the crops; with a mesh also
                `vertices` (B,V,3) mm.
        """
        rows = np.flatnonzero(batch["valid"])
        points = [predictions[key][rows] for key in ("keypoints_3d", "vertices") if key in predictions]
        points = np.concatenate(points, axis=1)  # (n, 21 + V, 3)
        transform = (batch[key][rows] for key in ("K", "K_image", "is_right", "rotation"))
        self._batches.append(uncrop(predictions["keypoints_2d"][rows], points, *transform))

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Joints (N, 21, 3) and vertices (N, V, 3) in mm, in the camera frames of the images. V is 0 without a mesh."""
        points = np.concatenate([points for _, points in self._batches]).astype(np.float32)
        return points[:, :21], points[:, 21:]

    def pixels(self) -> np.ndarray:
        """Joints (N, 21, 2) in px of the images."""
        return np.concatenate([pixels for pixels, _ in self._batches])


def to_wrist(points: np.ndarray, joints: np.ndarray, records: list[Record]) -> np.ndarray:
    """Move the points of each hand, so that the predicted wrist is at the labelled wrist.

    Args:
        points: (N, M, 3) mm.
        joints: (N, 21, 3) mm, the predicted joints.
        records: labels of the N hands.

    Returns:
        (N, M, 3) mm.

    Raises:
        UserError: a record has no labelled wrist.
    """
    for record in records:
        if not record.joint_valid[0]:
            raise UserError(f"{record.name}: the wrist has no label, which HO-3D needs; download the data set again")
    wrists = np.reshape([record.keypoints_3d[0] for record in records], (-1, 1, 3)).astype(np.float32)
    return points + wrists - joints[:, :1]


def to_ho3d(joints: np.ndarray) -> np.ndarray:
    """Convert joints (N, 21, 3) from our order and camera frame to HO-3D's order and OpenGL's camera frame."""
    return from_our_order(joints, "ho3d") * FROM_OPENGL


def to_protocol(protocol: str, collector: PredictionCollector, records: list[Record], run: Path, data: str) -> Pair:
    """Convert predictions and labels of a data set to the unit, camera frame and joint order of a protocol.

    3D protocols have no mask, so hands with an unlabelled joint are left out. For "ho3d", the predictions are moved to
    the labelled wrist, which HO-3D publishes for its evaluation set.

    Args:
        protocol: a name in `PROTOCOLS`, except "interhand".
        collector: contains the predictions for all records.
        records: the labels of the data set, N.
        run: folder of the run, for the report.
        data: name of the data set, for the report.

    Returns:
        The predictions and labels to score.

    Raises:
        UserError: the protocol compares pairs of hands, or no hand has the labels that it needs.
    """
    if protocol == "interhand":
        raise UserError("protocol interhand: needs both hands of an image; write them to an .npz for --predictions")
    forms = {"hint": _in_the_image, "ho3d": _ho3d}
    rows, pred, gt = forms.get(protocol, _in_the_camera)(collector, records)
    if not len(rows):
        raise UserError(f"{data}: no hand has the labels that protocol {protocol} needs")
    chosen = PROTOCOLS[protocol]
    [name] = chosen.pred
    pred, gt = (
        {name if key == "joints" else key: values / chosen.unit_mm for key, values in side.items()}
        for side in (pred, gt)
    )
    left_out = len(records) - len(rows)
    warnings = [f"{left_out} hands are left out, because not all of their joints are labelled"] if left_out else []
    ids = np.array([records[i].name for i in rows])
    return Pair(chosen, pred, gt, ids, [run], [Path(data)], warnings)


def _in_the_camera(collector: PredictionCollector, records: list[Record]):
    """Rows of completely labelled hands, their predictions and labels: `joints`, and `verts` if both have meshes."""
    joints, vertices = collector.points()
    complete = np.flatnonzero([np.all(record.joint_valid) for record in records])
    labels = np.reshape([records[i].keypoints_3d for i in complete], (-1, *joints.shape[1:]))
    pred, gt = {"joints": joints[complete]}, {"joints": labels}
    meshes = [records[i].vertices for i in complete]
    sizes = {None if mesh is None else len(mesh) for mesh in meshes}
    if vertices.size and len(sizes) == 1 and None not in sizes:
        pred["verts"], gt["verts"] = vertices[complete], np.array(meshes)
    return complete, pred, gt


def _ho3d(collector: PredictionCollector, records: list[Record]):
    complete, pred, gt = _in_the_camera(collector, records)
    pred = {key: to_wrist(points, pred["joints"], [records[i] for i in complete]) for key, points in pred.items()}
    in_opengl = {"joints": to_ho3d, "verts": lambda points: points * FROM_OPENGL}
    return complete, *({key: in_opengl[key](points) for key, points in side.items()} for side in (pred, gt))


def _in_the_image(collector: PredictionCollector, records: list[Record]):
    labels = np.array([_labelled_pixels(record) for record in records])  # (N, 21, 3) x, y, valid
    boxes = [_box_size(record, pixels[pixels[:, 2] > 0, :2]) for record, pixels in zip(records, labels)]
    rows = np.flatnonzero(labels[..., 2].any(1))
    pred = {"joints": collector.pixels()[rows]}
    return rows, pred, {"keypoints_2d": labels[rows], "box_size": np.array(boxes)[rows]}


def _labelled_pixels(record: Record) -> np.ndarray:
    """2D labels (21, 3) of a record: x, y, valid. Without 2D labels, the projected 3D joints."""
    if record.keypoints_2d is not None and record.joint_valid_2d is not None:
        return np.concatenate([record.keypoints_2d, record.joint_valid_2d[:, None]], axis=1)
    valid = np.asarray(record.joint_valid)[:, None] > 0
    return np.concatenate([project(np.where(valid, record.keypoints_3d, (0, 0, 1)), record.K), valid], axis=1)


def _box_size(record: Record, points: np.ndarray) -> float:
    """Longer side in px of the record's box, or without a box, of the box around the labelled points (n, 2)."""
    if record.bbox is not None:
        return float(max(record.bbox[2:] - record.bbox[:2]))
    return float(np.ptp(points, axis=0).max()) if len(points) else 0.0
