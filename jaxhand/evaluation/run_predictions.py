"""Predictions of a run on a test set, brought back from the crops to the images, and scored by a benchmark's protocol."""

from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.data.record import Record, read_annotation
from jaxhand.evaluation.scoring import Pair
from jaxhand.hand.camera import FROM_OPENGL, project, uncrop
from jaxhand.hand.skeleton import from_our_order
from jaxhand.metrics.protocols import PROTOCOLS


class Gathered:
    """What a run predicts on a source, in its order: `collect` is for `run_test`, the rest after it.

    Args:
        source: the test set.
    """

    def __init__(self, source):
        self.source, self._batches = source, []

    def collect(self, batch: dict, predictions: dict) -> None:
        """Add a host batch of the source and its predictions: `keypoints_2d`, `keypoints_3d`, maybe `vertices`."""
        rows = np.flatnonzero(batch["valid"])
        K = np.array([read_annotation(self.source, i).K for i in batch["index"][rows]])
        points = [predictions[key][rows] for key in ("keypoints_3d", "vertices") if key in predictions]
        points = np.concatenate(points, axis=1)  # (n, 21 + V, 3)
        arrays = predictions["keypoints_2d"][rows], points, batch["K"][rows], K, batch["is_right"][rows]
        self._batches.append(uncrop(*arrays))

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Joints (N, 21, 3) and vertices (N, V, 3), V 0 without a mesh: mm in the camera frame of the images."""
        points = np.concatenate([points for _, points in self._batches]).astype(np.float32)
        return points[:, :21], points[:, 21:]

    def pixels(self) -> np.ndarray:
        """Joints (N, 21, 2) in px of the images."""
        return np.concatenate([pixels for pixels, _ in self._batches])


def to_wrist(points: np.ndarray, joints: np.ndarray, records: list[Record]) -> np.ndarray:
    """Points (N, …, 3) moved by what brings the wrist of `joints` (N, 21, 3) to the records'.

    Raises:
        UserError: a record has no wrist.
    """
    for record in records:
        if not record.joint_valid[0]:
            raise UserError(f"{record.name}: has no wrist to move the results to; download it again")
    wrists = np.reshape([record.keypoints_3d[0] for record in records], (-1, 1, 3)).astype(np.float32)
    return points + wrists - joints[:, :1]


def to_ho3d(joints: np.ndarray) -> np.ndarray:
    """Joints (N, 21, 3) in the camera frame and our order → in OpenGL's frame and HO-3D's order."""
    return from_our_order(joints, "ho3d") * FROM_OPENGL


def pair(protocol: str, gathered: Gathered, run: Path, data: str) -> Pair:
    """The predictions beside the labels of the set, in the unit, frame and joint order of a protocol.

    Hands without a label of every joint are left out: the protocols in 3D know no mask. For "ho3d" predictions are moved
    to the labelled wrist, as its evaluation gives it.

    Args:
        protocol: a name in `PROTOCOLS`, except "interhand".
        gathered: of the whole set.
        run, data: folder and name, for the report.

    Raises:
        UserError: the protocol compares pairs of hands, or no hand has the labels that it needs.
    """
    if protocol == "interhand":
        raise UserError("protocol interhand compares both hands of an image: write them to an .npz for --predictions")
    records = [read_annotation(gathered.source, i) for i in range(len(gathered.source))]
    forms = {"hint": _in_the_image, "ho3d": _ho3d}
    rows, pred, gt = forms.get(protocol, _in_the_camera)(gathered, records)
    if not len(rows):
        raise UserError(f"{data}: no hand has the labels that protocol {protocol} needs")
    chosen = PROTOCOLS[protocol]
    [name] = chosen.pred
    pred, gt = (
        {name if key == "joints" else key: values / chosen.unit_mm for key, values in side.items()}
        for side in (pred, gt)
    )
    left_out = len(records) - len(rows)
    warnings = [f"{left_out} hands are left out, not all of their joints are labelled"] if left_out else []
    ids = np.array([records[i].name for i in rows])
    return Pair(chosen, pred, gt, ids, [run], [Path(data)], warnings)


def _in_the_camera(gathered: Gathered, records: list[Record]):
    """Rows that count, predictions and labels of these: `joints`, and `verts` where there are meshes on both sides."""
    joints, vertices = gathered.points()
    whole = np.flatnonzero([np.all(record.joint_valid) for record in records])
    labels = np.reshape([records[i].keypoints_3d for i in whole], (-1, *joints.shape[1:]))
    pred, gt = {"joints": joints[whole]}, {"joints": labels}
    meshes = [records[i].vertices for i in whole]
    if vertices.size and all(mesh is not None for mesh in meshes) and len({len(mesh) for mesh in meshes}) == 1:
        pred["verts"], gt["verts"] = vertices[whole], np.array(meshes)
    return whole, pred, gt


def _ho3d(gathered: Gathered, records: list[Record]):
    whole, pred, gt = _in_the_camera(gathered, records)
    pred = {key: to_wrist(points, pred["joints"], [records[i] for i in whole]) for key, points in pred.items()}
    in_opengl = {"joints": to_ho3d, "verts": lambda points: points * FROM_OPENGL}
    return whole, *({key: in_opengl[key](points) for key, points in side.items()} for side in (pred, gt))


def _in_the_image(gathered: Gathered, records: list[Record]):
    labels = np.array([_pixels(record) for record in records])  # (N, 21, 3) x, y, valid
    boxes = np.array([_longer_side(record, found[found[:, 2] > 0, :2]) for record, found in zip(records, labels)])
    rows = np.flatnonzero(labels[..., 2].any(1))
    return rows, {"joints": gathered.pixels()[rows]}, {"keypoints_2d": labels[rows], "box_size": boxes[rows]}


def _pixels(record: Record) -> np.ndarray:
    """The 2D labels and which are valid, (21, 3): given, or projected."""
    if record.keypoints_2d is not None:
        return np.concatenate([record.keypoints_2d, record.joint_valid_2d[:, None]], axis=1)
    valid = np.asarray(record.joint_valid)[:, None] > 0
    return np.concatenate([project(np.where(valid, record.keypoints_3d, (0, 0, 1)), record.K), valid], axis=1)


def _longer_side(record: Record, points: np.ndarray) -> float:
    """Of the record's box, else of that around its labelled points (n, 2); px."""
    if record.bbox is not None:
        return float(max(record.bbox[2:] - record.bbox[:2]))
    return float(np.ptp(points, axis=0).max()) if len(points) else 0.0
