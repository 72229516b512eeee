"""What goes wrong between two groups' files: units, joint order, camera frame, mirrored hands, shuffled samples."""

import numpy as np

from jaxhand.config import UserError
from jaxhand.hand.skeleton import JOINT_ORDERS, PARENTS
from jaxhand.metrics.protocols import Protocol

LOOKED_AT = 500  # samples, spread over the set, that the suspicions rest on
FAR_BETTER = 0.5  # of the error as the files are: less than that under another reading is no chance
SHORTER = 0.9  # of the length of all bones: in a wrong order they cross the hand and are 1.2 times as long or more
MANY = 0.1  # share of the samples
HAND_MM = (12, 250)  # root mean square distance of a hand's joints from their centre, with much room
ALIKE = (0.5, 2)  # size of predicted hands over that of the ground truth's
UNITS_MM = {"metres": 1000, "centimetres": 10, "millimetres": 1}
FLIPS = {
    (1, -1, -1): "y and z are negated: one file is in OpenGL's camera frame, the other in OpenCV's",
    (-1, 1, 1): "x is negated: left hands for right ones, or a mirrored image",
    (1, 1, -1): "z is negated",
    (1, -1, 1): "y is negated",
    (-1, -1, 1): "x and y are negated",
}
DEPTH_SIGN = {"freihand": 1, "dexycb": 1, "interhand": 1, "ho3d": -1}  # of z in the protocol's camera frame
ABSOLUTE = ("freihand", "ho3d", "dexycb")  # protocols with figures that compare positions
APART_MM = 150  # between the centres of a hand's joints and of its vertices


def unit_of(unit_mm: float) -> str:
    """The name of the unit of that many mm."""
    return next(name for name, mm in UNITS_MM.items() if mm == unit_mm)


def whole_hands(pred, gt, ids, valid=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The hands (M, 21, 3) whose joints are all labelled and not all in one place, and their samples' names (M,).

    Args:
        pred, gt: (N, 21 | 42, 3) joints.
        ids: (N,) names of the samples.
        valid: (N, 21 | 42) mask of the labelled joints; None takes all.
    """
    whole = np.ones(pred.shape[:2]) if valid is None else np.asarray(valid).reshape(pred.shape[:2])
    names = np.repeat(ids, pred.shape[1] // 21)
    pred, gt = pred.reshape(-1, 21, 3), gt.reshape(-1, 21, 3)
    whole = (whole.reshape(-1, 21) > 0).all(1) & (np.ptp(gt, axis=1) > 0).any(1)
    return pred[whole], gt[whole], names[whole]


def check_units(pred, gt, ids, unit_mm: float, pred_name: str, gt_name: str) -> None:
    """See that both sets of points are in the protocol's unit: the ground truth a hand's size, the other like it.

    Args:
        pred, gt: (M, P, 3) points of hands, finite.
        ids: (M,) names of the samples.
        unit_mm: the protocol's unit in mm.
        pred_name, gt_name: what the errors call the files.

    Raises:
        UserError: one file, or some samples of the predictions, are in metres, centimetres or millimetres instead.
    """
    size, target = _size(pred), _size(gt)
    ids, size, target = (values[target > 0] for values in (ids, size, target))
    if not len(target):
        return
    typical, ratio = np.median(target) * unit_mm, size / target
    unit = unit_of(unit_mm)
    for other, mm in UNITS_MM.items():
        factor = mm / unit_mm
        advice = f"looks like {other} where the protocol takes {unit}: multiply by {factor:g}"
        if not HAND_MM[0] < typical < HAND_MM[1] and HAND_MM[0] < typical * factor < HAND_MM[1]:
            raise UserError(f"{gt_name}: {advice} (a hand measures {typical:.3g} mm from its centre)")
        if factor != 1 and ALIKE[0] < np.median(ratio) * factor < ALIKE[1]:
            raise UserError(f"{pred_name}: {advice} (its hands are {np.median(ratio):.4g} times the ground truth's)")
    strange = (ratio > 300) | (ratio < 1 / 300) & (ratio > 1 / 3000)
    if strange.any():
        raise UserError(
            f"{pred_name}: sample {ids[strange][0]} is {ratio[strange][0]:.3g} times as large as its ground truth "
            f"({strange.sum()} of {len(ids)} are such); the protocol takes {unit}"
        )


def suspicions(pred, gt, ids, protocol: Protocol) -> list[str]:
    """Sentences on what may be wrong with the predictions, each with the numbers that speak for it.

    Args:
        pred, gt: (M, 21, 3) joints of hands in the protocol's order and unit, finite.
        ids: (M,) names of the samples.
        protocol: the order, unit and name.
    """
    if not len(gt):
        return []
    rows = np.unique(np.linspace(0, len(gt) - 1, min(len(gt), LOOKED_AT)).astype(int))
    pred, gt, ids = pred[rows] * protocol.unit_mm, gt[rows] * protocol.unit_mm, ids[rows]
    labels, own = _labels(gt, protocol)
    gt = gt[:, JOINT_ORDERS[own]]  # our order from here on
    order, pred = _order(pred, gt, own)
    frame, pred = _frame(pred, gt, ids)
    return labels + order + frame + _samples(pred, gt) + _position(pred, gt, protocol.name)


def apart(xyz, verts, unit_mm: float, name: str) -> list[str]:
    """The sentence on joints (N, J, 3) that do not lie in their own mesh (N, V, 3), if they do not."""
    distance = np.median(np.linalg.norm(xyz.mean(1) - verts.mean(1), axis=-1)) * unit_mm
    if distance < APART_MM:
        return []
    return [f"{name}: joints and vertices lie {distance:.0f} mm apart; they should be in the same camera frame"]


def _labels(gt, protocol: Protocol) -> tuple[list[str], str]:
    """The sentences on ground truth of another data set, and the name of the joint order it is in."""
    own, sentences, lengths = protocol.joint_order, [], {}
    for name, order in JOINT_ORDERS.items():
        joints = gt[:, order]
        lengths[name] = np.median(np.linalg.norm(joints[:, 1:] - joints[:, PARENTS[1:]], axis=-1).sum(1))
    best = min(lengths, key=lengths.get)
    if lengths[best] < SHORTER * lengths[own]:
        sentence = (
            f"the ground truth's joints seem to be in the order of {_sharing(best)}, not of {own}: its bones measure "
            f"{lengths[own]:.0f} mm in all as they are, {lengths[best]:.0f} mm reordered"
        )
        own, sentences = best, [sentence]
    depth = np.median(gt[..., 2])
    if abs(depth) > 100 and np.sign(depth) != DEPTH_SIGN.get(protocol.name, np.sign(depth)):
        frame = "OpenCV's camera frame (z > 0)" if depth > 0 else "OpenGL's camera frame (z < 0)"
        sentences.append(f"the ground truth is in {frame}, which is not that of {protocol.name}")
    return sentences, own


def _order(pred, gt, own: str) -> tuple[list[str], np.ndarray]:
    """The sentence on another data set's joint order, and the predictions in our order as far as it can be told."""
    errors = {name: np.median(_aligned_errors(pred[:, order], gt)[1]) for name, order in JOINT_ORDERS.items()}
    best = min(errors, key=errors.get)
    if errors[best] >= FAR_BETTER * errors[own]:
        return [], pred[:, JOINT_ORDERS[own]]
    sentence = (
        f"the predicted joints seem to be in the order of {_sharing(best)}, not of {own}: aligned rms error "
        f"{errors[own]:.1f} mm as they are, {errors[best]:.1f} mm reordered"
    )
    return [sentence], pred[:, JOINT_ORDERS[best]]


def _frame(pred, gt, ids) -> tuple[list[str], np.ndarray]:
    """The sentence on axes that point the other way or on mirrored hands, and the predictions turned back."""
    pose, target = pred - pred[:, :1], gt - gt[:, :1]
    errors = {flip: np.median(_rms(pose * flip - target)) for flip in [(1, 1, 1), *FLIPS]}
    best = min(errors, key=errors.get)
    as_is = errors[1, 1, 1]
    if errors[best] < FAR_BETTER * as_is:
        sentence = f"{FLIPS[best]}: wrist-relative error {as_is:.1f} mm as they are, {errors[best]:.1f} mm turned back"
        return [sentence], pred * best
    plain, mirrored = _aligned_errors(pred, gt)
    wrong = mirrored < FAR_BETTER * plain
    if wrong.mean() < MANY:
        return [], pred
    count, first = wrong.sum(), ids[wrong.argmax()]
    sentence = (
        f"{count} of the {len(wrong)} hands looked at are mirrored, the first in sample {first}: left for right? "
        "An alignment that may mirror, as FreiHAND's, HO-3D's and DexYCB's, hides it"
    )
    return [sentence], np.where(wrong[:, None, None], pred * (-1, 1, 1), pred)


def _samples(pred, gt) -> list[str]:
    """The sentence on predictions that belong to other samples."""
    own, other = (np.median(_aligned_errors(pred, target)[0]) for target in (gt, np.roll(gt, len(gt) // 2, 0)))
    if len(gt) < 20 or own < 0.8 * other:
        return []
    sentence = (
        f"hands are no nearer to their own ground truth ({own:.1f} mm aligned) than to another sample's "
        f"({other:.1f} mm): are the samples in the same order?"
    )
    return [sentence]


def _position(pred, gt, protocol: str) -> list[str]:
    """The sentence on wrist-relative predictions where the protocol compares positions."""
    away = np.median(np.linalg.norm(gt[:, 0], axis=-1))
    if protocol not in ABSOLUTE or away < 100 or np.abs(pred[:, 0]).max() > 0.01 * away:
        return []
    return ["all wrists are at the origin, and figures without alignment compare positions: read the aligned ones"]


def _sharing(name: str) -> str:
    """The data sets that order their joints as that one does."""
    return " and ".join(other for other, order in JOINT_ORDERS.items() if order == JOINT_ORDERS[name])


def _aligned_errors(pred, gt) -> tuple[np.ndarray, np.ndarray]:
    """Root mean square error after the best similarity without and with mirroring, (N,) each, by singular values.

    On the host: a few hundred hands in every order are done before `jaxhand.metrics` would have compiled.
    """
    pred, gt = pred - pred.mean(1, keepdims=True), gt - gt.mean(1, keepdims=True)
    product = np.swapaxes(pred, 1, 2) @ gt  # (N, 3, 3)
    s = np.linalg.svd(product, compute_uv=False)
    turned = s[:, 0] + s[:, 1] + s[:, 2] * np.sign(np.linalg.det(product))
    room = np.maximum(np.square(pred).sum((1, 2)), 1e-12)
    left = [np.square(gt).sum((1, 2)) - np.square(total) / room for total in (turned, s.sum(1))]
    return tuple(np.sqrt(np.maximum(square, 0) / gt.shape[1]) for square in left)


def _size(points) -> np.ndarray:
    return _rms(points - points.mean(1, keepdims=True))


def _rms(vectors) -> np.ndarray:
    """(N,) root mean square length of vectors (N, P, 3)."""
    return np.sqrt(np.square(vectors).sum(-1).mean(-1))
