"""Which boxes, cameras and joints cannot be right? One place for readers, `inspect`, the start of training and predict.

The functions are pure and vectorised. Each one returns a dict: reason → (N,) bool, True for the entries to which the
reason applies. A reason is a phrase, such as "outside the image". An entry without a reason is plausible.

`check_box` and `check_camera` do the same for one box and one camera, and return sentences.
"""

import typing

import numpy as np

from jaxhand.hand import anatomy
from jaxhand.hand.skeleton import JOINT_ORDERS

Reasons = dict[str, typing.Any]  # of arrays (N,) bool

MIN_BOX_PX = 4  # longer side of a box; no network finds a hand in fewer pixels
MIN_AREA_INSIDE = 0.25  # smallest plausible fraction of a box's area that is inside the image
FOCAL_RANGE = (0.2, 100)  # plausible focal length / longer side of the image: views of 136 to 0.6 degrees
MAX_ASPECT = 2  # largest plausible ratio of fx and fy
CERTAIN_SCALE_RANGE = (0.25, 5)  # bones shorter or longer than this, relative to an adult's, are in another unit
SAME_UNIT = 2.5  # bones in a unit are at most this factor longer or shorter than an adult's
MIN_JOINTS = 5  # number of labelled joints that a box is compared with, at least
BOX_MARGIN = 1.5  # a box is enlarged by this factor before it is compared with the joints
MIN_JOINTS_IN_BOX = 0.25  # smallest plausible fraction of the joints that are inside the enlarged box


def box_reasons(boxes: np.ndarray, sizes: np.ndarray) -> Reasons:
    """Compare boxes with their images.

    Args:
        boxes: (N, 4) x0, y0, x1, y1 px.
        sizes: (N, 2) width and height of each image, px; NaN if unknown.

    Returns:
        Reason → (N,) bool. Only the first reason of a box is set.
    """
    boxes, sizes = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(sizes, np.float64).reshape(-1, 2)
    finite = np.all(np.isfinite(boxes), axis=-1)
    low, high = np.where(finite[:, None], boxes, 0).reshape(-1, 2, 2).swapaxes(0, 1)  # (N, 2) each
    side, unknown = high - low, ~np.isfinite(sizes).all(-1)
    inside = np.clip(np.minimum(high, sizes) - np.maximum(low, 0), 0, None)
    share = inside.prod(-1) / np.where((side > 0).all(-1), side.prod(-1), 1)
    small_numbers = (boxes >= -0.5).all(-1) & (boxes <= 1.5).all(-1)
    return _first_only(
        {
            "not finite": ~finite,
            "in 0..1 instead of px": small_numbers & (side > 0).all(-1) & ~(sizes.max(-1) <= 2 * MIN_BOX_PX),
            "no area: must be x0, y0, x1, y1 with x0 < x1 and y0 < y1": (side <= 0).any(-1),
            "outside the image": ~unknown & (share <= 0),
            f"more than {1 - MIN_AREA_INSIDE:.0%} of its area outside the image": ~unknown & (share < MIN_AREA_INSIDE),
            f"smaller than {MIN_BOX_PX} px": (side.max(-1) < MIN_BOX_PX) & ~(sizes.max(-1) <= 2 * MIN_BOX_PX),
        }
    )


def camera_reasons(K: np.ndarray, sizes: np.ndarray) -> Reasons:
    """Compare camera matrices with their images.

    Args:
        K: (N, 3, 3) px.
        sizes: (N, 2) width and height of each image, px; NaN if unknown.

    Returns:
        Reason → (N,) bool. Only the first reason of a camera is set.
    """
    K, sizes = np.asarray(K, np.float64).reshape(-1, 3, 3), np.asarray(sizes, np.float64).reshape(-1, 2)
    longer = sizes.max(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        focal, center = K[:, (0, 1), (0, 1)], K[:, :2, 2]  # (N, 2) each
        relative, aspect = focal.min(-1) / longer, focal[:, 0] / focal[:, 1]
        outside = (center < -0.5) | (center > sizes - 0.5)
        return _first_only(
            {
                "not [[fx, skew, cx], [0, fy, cy], [0, 0, 1]] with positive fx and fy": ~valid_cameras(K),
                "in 0..1 instead of px": (np.abs(center) <= 1.5).all(-1) & (relative < FOCAL_RANGE[0]),
                "focal length too short for this image (in mm instead of px?)": (relative < FOCAL_RANGE[0]),
                "focal length too long for this image": focal.max(-1) / longer > FOCAL_RANGE[1],
                f"fx and fy differ by more than a factor of {MAX_ASPECT}": (
                    np.maximum(aspect, 1 / aspect) > MAX_ASPECT
                ),
                "principal point outside the image: of another size of image, or of a crop?": outside.any(-1),
            }
        )


def valid_cameras(K: np.ndarray) -> np.ndarray:
    """Return (N,) bool: True for matrices (N, 3, 3) that are pinhole cameras with a positive focal length."""
    finite = np.isfinite(K).all((1, 2))
    return finite & (K[:, 0, 0] > 0) & (K[:, 1, 1] > 0) & (K[:, 1, 0] == 0) & (K[:, 2] == (0, 0, 1)).all(-1)


def joint_reasons(joints: np.ndarray, valid: np.ndarray) -> Reasons:
    """Compare hands with the lengths of real bones, and with the camera's frame.

    Args:
        joints: (N, 21, 3) mm in the OpenCV camera frame, in our order.
        valid: (N, 21) labelled joints. Hands without a labelled joint are plausible.

    Returns:
        Reason → (N,) bool. Only the first reason of a hand is set.
    """
    joints, valid = np.asarray(joints), np.asarray(valid) > 0
    behind = (valid & (joints[..., 2] <= 0)).any(-1)
    return _first_only({"behind the camera (z <= 0)": behind} | bone_reasons(joints, valid))


def bone_reasons(joints: np.ndarray, valid: np.ndarray) -> Reasons:
    """Compare hands with the lengths of real bones, in any frame; see `joint_reasons` for the arguments."""
    joints, valid = np.asarray(joints, np.float64), np.asarray(valid) > 0
    finite = np.all(np.isfinite(joints).all(-1) | ~valid, axis=-1)
    joints = np.where((valid & finite[:, None])[..., None], joints, 0)
    scale = anatomy.hand_scales(joints, valid)  # (N,) NaN if no bone is labelled
    wrong = (scale < CERTAIN_SCALE_RANGE[0]) | (scale > CERTAIN_SCALE_RANGE[1])
    reasons, units = {"not finite": ~finite}, {u: mm for u, mm in anatomy.UNITS_MM.items() if u != "millimetres"}
    with np.errstate(divide="ignore", invalid="ignore"):
        off = np.abs(np.log(scale[:, None] * list(units.values())))  # (N, number of units)
    for k, unit in enumerate(units):
        known = (off.argmin(-1) == k) & (off[:, k] < np.log(SAME_UNIT))
        reasons[f"bones as long as a hand's in {unit}: must be mm"] = wrong & known
    return _first_only(reasons | {"bones of no hand, in any unit": wrong})


def left_out(reasons: Reasons, name: typing.Callable[[int], str]) -> tuple[np.ndarray, list[str]]:
    """Choose the hands that a reader leaves out, and count them for the user.

    Args:
        reasons: reason → (N,) bool.
        name: index of a hand → its name in the sentences, such as "annotation 3".

    Returns:
        (N,) bool, True for hands with a reason; and one sentence for each reason that applies.
    """
    total = len(next(iter(reasons.values())))
    found = {reason: mask for reason, mask in reasons.items() if mask.any()}
    sentences = [
        f"{mask.sum():,} of {total:,} hands are left out: {reason}, first {name(int(mask.argmax()))}"
        for reason, mask in found.items()
    ]
    return np.any([np.zeros(total, bool), *found.values()], axis=0), sentences


def in_another_order(joints: np.ndarray) -> np.ndarray:
    """Return the hands whose joints seem to have the order of another data set, by the lengths of their bones.

    Args:
        joints: (N, 21, 3) mm, all joints labelled.

    Returns:
        (N,) bool.
    """
    as_is = anatomy.bone_deviations(joints)
    found = as_is > anatomy.MAX_BONE_DEVIATION
    if found.any():
        orders = {tuple(o) for order in JOINT_ORDERS.values() for o in (order, np.argsort(order).tolist())}
        best = np.min([anatomy.bone_deviations(joints[found][:, list(order)]) for order in orders], axis=0)
        found[found] = best < anatomy.CLEARLY_BETTER * as_is[found]
    return found


def joints_inside(points: np.ndarray, valid: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the labelled joints that are inside their image.

    Args:
        points: (N, 21, 2) px.
        valid: (N, 21) labelled joints.
        sizes: (N, 2) width and height of each image, px; NaN if unknown.

    Returns:
        (N, 21) bool. False if the size is unknown.
    """
    with np.errstate(invalid="ignore"):
        return ((points > -0.5) & (points < np.asarray(sizes)[:, None] - 0.5)).all(-1) & (np.asarray(valid) > 0)


def box_misses_joints(boxes: np.ndarray, points: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return the boxes that do not fit the joints of their hands: the joints must decide the crop.

    Args:
        boxes: (N, 4) x0, y0, x1, y1 px.
        points: (N, 21, 2) px, the joints in the image.
        valid: (N, 21) labelled joints.

    Returns:
        (N,) bool. True for a box that is not finite or has no area. Also True if fewer than a quarter of the joints, at
        least `MIN_JOINTS` of them, are inside the box after it was made square and enlarged by `BOX_MARGIN`. False
        without a labelled joint.
    """
    boxes, valid = np.asarray(boxes, np.float64), np.asarray(valid) > 0
    low, high = boxes[:, :2], boxes[:, 2:]
    no_box = ~(np.isfinite(boxes).all(-1) & (low < high).all(-1))
    with np.errstate(invalid="ignore"):
        reach = BOX_MARGIN / 2 * (high - low).max(-1)  # (N,)
        inside = (np.abs(points - ((low + high) / 2)[:, None]) <= reach[:, None, None]).all(-1) & valid
    count = valid.sum(-1)
    misses = (count >= MIN_JOINTS) & (inside.sum(-1) < MIN_JOINTS_IN_BOX * count)
    return (no_box | misses) & (count > 0)


def check_box(box: np.ndarray, width: float, height: float) -> list[str]:
    """Return one sentence for each doubt about a box (4,) x0, y0, x1, y1 px in an image of width x height px."""
    found = _true(box_reasons(np.asarray(box)[None], np.array([[width, height]])))
    numbers = ", ".join(f"{value:g}" for value in np.asarray(box, np.float64))
    return [f"the box [{numbers}] (image: {width}x{height} px): {reason}" for reason in found]


def check_camera(K: np.ndarray, width: float, height: float) -> list[str]:
    """Return one sentence for each doubt about a camera matrix K (3, 3) px of an image of width x height px."""
    K = np.asarray(K, np.float64)
    found = _true(camera_reasons(K[None], np.array([[width, height]])))
    numbers = f"fx {K[0, 0]:g}, fy {K[1, 1]:g}, cx {K[0, 2]:g}, cy {K[1, 2]:g}"
    return [f"K ({numbers}; image: {width}x{height} px): {reason}" for reason in found]


def _true(reasons: Reasons) -> list[str]:
    return [reason for reason, mask in reasons.items() if mask[0]]


def _first_only(reasons: Reasons) -> Reasons:
    """Keep only the first reason of each entry."""
    done, kept = np.zeros(len(next(iter(reasons.values()))), bool), {}
    for reason, mask in reasons.items():
        kept[reason] = mask & ~done
        done = done | mask
    return kept
