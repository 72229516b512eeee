"""Find common mistakes in files of predictions: units, joint order, camera frame, mirrored hands, shuffled samples."""

import numpy as np

from jaxhand.config import UserError
from jaxhand.hand.anatomy import CLEARLY_BETTER, RADIUS_RANGE_MM, UNITS_MM, bone_lengths
from jaxhand.hand.skeleton import JOINT_ORDERS
from jaxhand.metrics.numpy_align import aligned
from jaxhand.metrics.protocols import Protocol

MAX_CHECKED_HANDS = 500  # the checked hands are evenly spaced in the data set
FILE_UNITS = ("metres", "centimetres", "millimetres")  # units that occur in users' files
# Another joint order is more likely if it multiplies the total bone length by less than this factor. In a wrong order,
# bones cross the hand, and the total is at least 1.2 times as long.
CLEARLY_SHORTER = 0.9
MIN_MIRRORED_SHARE = 0.1  # a warning is printed if at least this fraction of the hands is mirrored
SIMILAR_SIZE = (0.5, 2)  # accepted range of the size of a predicted hand / size of the true hand
AXIS_FLIPS = {
    (1, -1, -1): "y and z are negated: one file is in OpenGL's camera frame, the other in OpenCV's",
    (-1, 1, 1): "x is negated: left and right hands are swapped, or the image is mirrored",
    (1, 1, -1): "z is negated",
    (1, -1, 1): "y is negated",
    (-1, -1, 1): "x and y are negated",
}
DEPTH_SIGN = {"freihand": 1, "dexycb": 1, "interhand": 1, "ho3d": -1}  # sign of z in the protocol's camera frame
ABSOLUTE_PROTOCOLS = ("freihand", "ho3d", "dexycb")  # protocols that compare absolute positions
MAX_MESH_OFFSET_MM = 150  # largest plausible distance of mean joint and mean vertex


def unit_of(unit_mm: float) -> str:
    """The name of a unit, from its size in mm: 1000 → "metres"."""
    return next(name for name, mm in UNITS_MM.items() if mm == unit_mm)


def fully_labelled_hands(
    pred: np.ndarray, gt: np.ndarray, ids: np.ndarray, valid: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Select the hands whose joints are all labelled and not all at the same point.

    Args:
        pred, gt: (N, 21 | 42, 3) joints.
        ids: (N,) names of the samples.
        valid: (N, 21 | 42) mask of the labelled joints; None: all joints are labelled.

    Returns:
        Predicted and true joints (M, 21, 3) of these hands, and the names (M,) of their samples.
    """
    labelled = np.ones(pred.shape[:2]) if valid is None else np.asarray(valid).reshape(pred.shape[:2])
    names = np.repeat(ids, pred.shape[1] // 21)
    pred, gt = pred.reshape(-1, 21, 3), gt.reshape(-1, 21, 3)
    selected = (labelled.reshape(-1, 21) > 0).all(1) & (np.ptp(gt, axis=1) > 0).any(1)
    return pred[selected], gt[selected], names[selected]


def check_units(
    pred: np.ndarray, gt: np.ndarray, ids: np.ndarray, unit_mm: float, pred_name: str, gt_name: str
) -> None:
    """Check the unit of both files: true hands must have the size of a hand, and predicted hands a similar size.

    Args:
        pred, gt: (M, P, 3) points of hands, finite.
        ids: (M,) names of the samples.
        unit_mm: the protocol's unit in mm.
        pred_name, gt_name: names of the files in error messages.

    Raises:
        UserError: a file, or some samples of the predictions, are in a wrong unit of `FILE_UNITS`.
    """
    radius, target = _rms_radius(pred), _rms_radius(gt)
    ids, radius, target = (values[target > 0] for values in (ids, radius, target))
    if not len(target):
        return
    typical, ratio = np.median(target) * unit_mm, radius / target
    unit = unit_of(unit_mm)
    for other in FILE_UNITS:
        factor = UNITS_MM[other] / unit_mm
        advice = f"seems to be in {other}, but the protocol needs {unit}; multiply by {factor:g}"
        low, high = RADIUS_RANGE_MM
        if not low < typical < high and low < typical * factor < high:
            raise UserError(f"{gt_name}: {advice} (the radius of a hand is {typical:.3g} mm)")
        if factor != 1 and SIMILAR_SIZE[0] < np.median(ratio) * factor < SIMILAR_SIZE[1]:
            raise UserError(f"{pred_name}: {advice} (predicted size / true size: {np.median(ratio):.4g})")
    wrong = (ratio > 300) | (ratio < 1 / 300) & (ratio > 1 / 3000)
    if wrong.any():
        raise UserError(
            f"{pred_name}: sample {ids[wrong][0]} is {ratio[wrong][0]:.3g} times as large as its ground truth "
            f"({wrong.sum()} of {len(ids)} samples have a wrong size); the protocol needs {unit}"
        )


def prediction_warnings(pred: np.ndarray, gt: np.ndarray, ids: np.ndarray, protocol: Protocol) -> list[str]:
    """List the likely mistakes in the predictions: one sentence per mistake, with the measured numbers.

    Args:
        pred, gt: (M, 21, 3) joints of hands in the protocol's joint order and unit, finite.
        ids: (M,) names of the samples.
        protocol: defines the joint order, unit and name.
    """
    if not len(gt):
        return []
    rows = np.unique(np.linspace(0, len(gt) - 1, min(len(gt), MAX_CHECKED_HANDS)).astype(int))
    pred, gt, ids = pred[rows] * protocol.unit_mm, gt[rows] * protocol.unit_mm, ids[rows]
    about_labels, label_order = _check_labels(gt, protocol)
    gt = gt[:, JOINT_ORDERS[label_order]]  # in our joint order from here on
    about_order, pred = _check_order(pred, gt, label_order)
    about_frame, pred = _check_frame(pred, gt, ids)
    about_samples = _check_sample_order(pred, gt)
    return about_labels + about_order + about_frame + about_samples + _check_position(pred, gt, protocol.name)


def mesh_offset_warnings(joints: np.ndarray, vertices: np.ndarray, unit_mm: float, name: str) -> list[str]:
    """Warn if joints (N, J, 3) and vertices (N, V, 3) of the same hands in file `name` are far from each other."""
    distance = np.median(np.linalg.norm(joints.mean(1) - vertices.mean(1), axis=-1)) * unit_mm
    if distance < MAX_MESH_OFFSET_MM:
        return []
    return [f"{name}: joints and vertices lie {distance:.0f} mm apart; they should be in the same camera frame"]


def _check_labels(gt: np.ndarray, protocol: Protocol) -> tuple[list[str], str]:
    """Return warnings if the ground truth seems to be of another data set, and the name of its joint order."""
    order, sentences = protocol.joint_order, []
    lengths = {name: np.median(bone_lengths(gt[:, other]).sum(1)) for name, other in JOINT_ORDERS.items()}
    best = min(lengths, key=lengths.__getitem__)
    if lengths[best] < CLEARLY_SHORTER * lengths[order]:
        sentence = (
            f"the ground truth's joints seem to be in the order of {_same_order(best)}, not of {order}: total bone "
            f"length {lengths[order]:.0f} mm as in the file, {lengths[best]:.0f} mm after reordering"
        )
        order, sentences = best, [sentence]
    depth = np.median(gt[..., 2])
    if abs(depth) > 100 and np.sign(depth) != DEPTH_SIGN.get(protocol.name, np.sign(depth)):
        frame = "OpenCV's camera frame (z > 0)" if depth > 0 else "OpenGL's camera frame (z < 0)"
        sentences.append(f"the ground truth is in {frame}, which is not that of {protocol.name}")
    return sentences, order


def _check_order(pred: np.ndarray, gt: np.ndarray, expected: str) -> tuple[list[str], np.ndarray]:
    """Return warnings if predictions have another joint order, and the predictions in our joint order."""
    errors = {
        name: np.median(_aligned_error(pred[:, order], gt, reflection=True)) for name, order in JOINT_ORDERS.items()
    }
    best = min(errors, key=errors.__getitem__)
    if errors[best] >= CLEARLY_BETTER * errors[expected]:
        return [], pred[:, JOINT_ORDERS[expected]]
    sentence = (
        f"the predicted joints seem to be in the order of {_same_order(best)}, not of {expected}: aligned RMS error "
        f"{errors[expected]:.1f} mm as in the file, {errors[best]:.1f} mm after reordering"
    )
    return [sentence], pred[:, JOINT_ORDERS[best]]


def _check_frame(pred: np.ndarray, gt: np.ndarray, ids: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Return warnings if axes are negated or hands are mirrored, and the corrected predictions."""
    pose, target = pred - pred[:, :1], gt - gt[:, :1]
    errors = {flip: np.median(_rms(pose * flip - target)) for flip in [(1, 1, 1), *AXIS_FLIPS]}
    best = min(errors, key=errors.__getitem__)
    as_is = errors[1, 1, 1]
    if errors[best] < CLEARLY_BETTER * as_is:
        numbers = f"wrist-relative RMS error {as_is:.1f} mm as in the file, {errors[best]:.1f} mm after correction"
        return [f"{AXIS_FLIPS[best]}: {numbers}"], pred * best
    plain, mirrored = _aligned_error(pred, gt), _aligned_error(pred, gt, reflection=True)
    wrong = mirrored < CLEARLY_BETTER * plain
    if wrong.mean() < MIN_MIRRORED_SHARE:
        return [], pred
    count, first = wrong.sum(), ids[wrong.argmax()]
    sentence = (
        f"{count} of the {len(wrong)} hands checked are mirrored, first in sample {first}: are left and right swapped? "
        "The aligned errors of FreiHAND, HO-3D and DexYCB do not show this, because their alignment can mirror hands"
    )
    return [sentence], np.where(wrong[:, None, None], pred * (-1, 1, 1), pred)


def _check_sample_order(pred: np.ndarray, gt: np.ndarray) -> list[str]:
    """Warn if the predictions seem to be in another order of samples than the ground truth."""
    own, other = (np.median(_aligned_error(pred, target)) for target in (gt, np.roll(gt, len(gt) // 2, 0)))
    if len(gt) < 20 or own < 0.8 * other:
        return []
    sentence = (
        f"predicted hands are not nearer to their own ground truth ({own:.1f} mm after alignment) than to that of "
        f"another sample ({other:.1f} mm): are the samples of both files in the same order?"
    )
    return [sentence]


def _check_position(pred: np.ndarray, gt: np.ndarray, protocol: str) -> list[str]:
    """Warn if predictions are relative to the wrist although the protocol compares absolute positions."""
    distance = np.median(np.linalg.norm(gt[:, 0], axis=-1))
    if protocol not in ABSOLUTE_PROTOCOLS or distance < 100 or np.abs(pred[:, 0]).max() > 0.01 * distance:
        return []
    return ["all predicted wrists are at the origin: use only metrics with alignment, the others compare positions"]


def _same_order(name: str) -> str:
    """The names of all data sets with the joint order of `name`."""
    return " and ".join(other for other, order in JOINT_ORDERS.items() if order == JOINT_ORDERS[name])


def _aligned_error(pred: np.ndarray, gt: np.ndarray, reflection: bool = False) -> np.ndarray:
    """RMS errors (N,) of (N, P, 3) after the best similarity transform, which may mirror if `reflection` is True."""
    return _rms(aligned(pred, gt, reflection=reflection) - gt)


def _rms_radius(points: np.ndarray) -> np.ndarray:
    """(N,) root mean square distance of points (N, P, 3) from their mean."""
    return _rms(points - points.mean(1, keepdims=True))


def _rms(vectors: np.ndarray) -> np.ndarray:
    """(N,) root mean square length of vectors (N, P, 3)."""
    return np.sqrt(np.square(vectors).sum(-1).mean(-1))
