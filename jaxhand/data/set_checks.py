"""Check a sample of a data set's labels: what is certainly wrong, and what is doubtful?

The start of training, `jaxhand evaluate` and `jaxhand inspect` use the same checks, for every reader and for data sets
from outside the package. `label_checks` has the rules for one hand; this module applies them to a set.
"""

import numpy as np

from jaxhand.config import UserError
from jaxhand.data import label_checks, label_sample
from jaxhand.data.label_sample import Sample
from jaxhand.data.mix import Mix
from jaxhand.data.record import Source, spread
from jaxhand.hand import anatomy
from jaxhand.hand.camera import project

TRAIN = "data.train"  # name of the training set
MIN_INSIDE = 0.5  # smallest plausible fraction of the joints inside their image
MIN_GAIN_INSIDE = 0.05  # if more joints than this move into the image, labels are of the stored pixels, not turned
SAME_POSE = 0.003  # hands whose distances of joints differ by less than this fraction have one pose
MAX_POSES = 200  # largest number of hands whose poses are compared
MIN_HANDS = 8  # smallest number of hands for statements about a whole set
MAX_LABEL_DISTANCE = 0.3  # largest plausible distance of 2D labels and projected 3D labels / size of the hand, px / px
CENTER_RANGE = (0.7, 1.4)  # plausible principal point / centre of the image, if all cameras agree
MAX_WRONG = 0.5  # a data set is refused if more of its hands than this fraction cannot be hands
MIN_BETTER = 0.5  # another form of the boxes is assumed to be right if it at least halves the distance to the joints


def check(sets: dict[str, Source], *, strict: bool = False) -> list[str]:
    """Check a sample of each data set before it is used.

    Args:
        sets: a name for the user, such as "data.train" → the source. The first is compared with each other one. The
            set named `TRAIN` must have labelled joints; a test set for a leaderboard may have none.
        strict: a doubtful set is an error.

    Returns:
        One sentence for each doubt, and for each kind of hand that a reader has left out.

    Raises:
        UserError: labels are certainly wrong, or doubtful if `strict` is True.
    """
    found, first = [], None
    for use, source in sets.items():
        parts = zip(source.names, source.sources) if isinstance(source, Mix) else [("", source)]
        samples = {f"{use} {name}".strip(): (part, label_sample.read(part)) for name, part in parts}
        for where, (part, sample) in samples.items():
            wrong = faults(sample)
            if use == TRAIN and not sample.valid_2d.any():
                wrong.append(f"no joint is labelled in the {len(sample.names):,} hands checked, so nothing is learned")
            if wrong:
                raise UserError(f"{where}: {wrong[0]}")
            found += [f"{where}: {text}" for text in [*getattr(part, "left_out", []), *doubts(sample)]]
            found += [f"{other} and {where}: {text}" for other, seen in first or () for text in overlap(seen, sample)]
        first = first or [(where, sample) for where, (_, sample) in samples.items()]
    if strict and found:
        raise UserError(f"{found[0]}; correct the data, or set data.strict=false")
    return found


def faults(sample: Sample) -> list[str]:
    """Return one sentence for each property with which no training or test is possible."""
    labelled = np.any(sample.valid, axis=-1)
    found = []
    cameras = labelled & ~label_checks.valid_cameras(sample.K)
    if cameras.any():
        form = "K must be [[fx, skew, cx], [0, fy, cy], [0, 0, 1]] in px, with positive fx and fy"
        found.append(f"{form}; it is not for {_some(cameras, labelled, sample)}")
    reasons = label_checks.joint_reasons(sample.joints, sample.valid)
    not_finite = reasons["not finite"] | (sample.own_2d & ~_finite(sample.points, sample.valid_2d))
    if not_finite.any():
        found.append(f"labelled joints must be finite; they are not for {_some(not_finite, labelled, sample)}")
    found += [
        f"joints are not in mm in the OpenCV camera frame: {reason}, {_some(mask, labelled, sample)}"
        for reason, mask in reasons.items()
        if reason != "not finite" and mask.sum() > MAX_WRONG * labelled.sum()
    ]
    return found


def doubts(sample: Sample) -> list[str]:
    """Return one sentence for each property that real data sets do not have."""
    return [
        *_camera_doubts(sample),
        *_joint_doubts(sample),
        *_image_doubts(sample),
        *_box_doubts(sample),
        *_pose_doubts(sample),
    ]


def overlap(train: Sample, other: Sample) -> list[str]:
    """Return one sentence if hands of two data sets have the same labels."""
    labelled = np.any(other.valid_2d, axis=-1)
    known = set(_keys(train))
    shared = labelled & np.array([key in known for key in _keys(other)])
    return [f"both contain the same hands: {_some(shared, labelled, other)}"] if shared.any() else []


def _keys(sample: Sample) -> list[bytes]:
    """The labels of each record, as bytes."""
    points = np.where(sample.valid_2d[..., None], sample.points, 0)
    labels = np.concatenate([np.where(sample.valid[..., None], sample.joints, 0), points], -1).astype(np.float32)
    return [row.tobytes() for row in labels]


def _camera_doubts(sample: Sample) -> list[str]:
    labelled = np.any(sample.valid, axis=-1)  # without 3D labels, K is nominal
    reasons = label_checks.camera_reasons(sample.K, sample.sizes)
    return [
        f"K: {reason}, {_some(mask & labelled, labelled, sample)}"
        for reason, mask in reasons.items()
        if (mask & labelled).any() and not reason.startswith("principal point")  # in crops it may be outside
    ]


def _center_doubts(sample: Sample) -> list[str]:
    """Doubts about the principal points, if they are at the same place of every image."""
    ratio = (2 * sample.K[:, :2, 2] + 1) / sample.sizes  # (n, 2) principal point / centre
    ratio = ratio[np.any(sample.valid, axis=-1) & np.isfinite(ratio).all(-1)]
    if len(ratio) < MIN_HANDS or ratio.max() > 1.1 * ratio.min() or CENTER_RANGE[0] < ratio.max() < CENTER_RANGE[1]:
        return []
    return [f"K: the principal point is {ratio.max():.2g} times the image's centre: K of another size of image?"]


def _joint_doubts(sample: Sample) -> list[str]:
    labelled = np.any(sample.valid, axis=-1)
    found, single = [], np.zeros(len(labelled), bool)
    for reason, mask in label_checks.joint_reasons(sample.joints, sample.valid).items():
        single |= mask
        if mask.any():
            found.append(f"joints: {reason}, {_some(mask, labelled, sample)}")
    whole = np.all(sample.valid, axis=-1) & ~single
    joints = sample.joints * np.where(sample.left[:, None, None], (-1, 1, 1), 1)
    if whole.any():
        about_all = anatomy.label_warnings(joints[whole])
        others = whole.copy()
        others[whole] = label_checks.in_another_order(joints[whole])
        if others.any() and not about_all:
            about_all = [f"joints: in the order of another data set, by bone lengths, {_some(others, whole, sample)}"]
        found += about_all
    return found


def _image_doubts(sample: Sample) -> list[str]:
    """Doubts about the 2D position of the joints."""
    inside = label_checks.joints_inside(sample.points, sample.valid_2d, sample.sizes)  # (n, 21)
    known = np.any(sample.valid_2d, axis=-1) & np.all(np.isfinite(sample.sizes), axis=-1)
    if not known.any():
        return []
    found, share = [], inside.sum(-1) / np.maximum(sample.valid_2d.sum(-1), 1)  # (n,)
    turned = known & (sample.orientation >= 5)
    if turned.any():
        stored = label_checks.joints_inside(sample.points, sample.valid_2d, sample.sizes[:, ::-1])[turned]
        stored = stored.sum() / sample.valid_2d[turned].sum()
        upright = inside[turned].sum() / sample.valid_2d[turned].sum()
        if stored > upright + MIN_GAIN_INSIDE or _centered(sample, turned):
            return [
                f"{turned.sum():,} of {known.sum():,} images are turned by EXIF, but their labels are those of the "
                f"stored pixels ({stored:.0%} of the joints lie in them, {upright:.0%} in the upright image): "
                "turn the labels, or remove the EXIF orientation from the files"
            ]
    if share[known].mean() < MIN_INSIDE:
        outside = f"only {share[known].mean():.0%} of the joints lie in their image"
        found.append(f"{outside}: K of another size of image, or joints in another frame?")
    elif (none := known & (share == 0)).any():
        found.append(f"joints: none lies in the image, {_some(none, known, sample)}")
    found = found or _center_doubts(sample)
    both = sample.own_2d & (sample.valid & sample.valid_2d).sum(-1).astype(bool)
    if both.any():
        with np.errstate(all="ignore"):
            apart = np.linalg.norm(project(sample.joints[both], sample.K[both]) - sample.points[both], axis=-1)
        counted = (sample.valid & sample.valid_2d)[both]
        size = np.array([np.ptp(p[v], axis=0).max() for p, v in zip(sample.points[both], sample.valid_2d[both])])
        apart = np.array([np.median(d[v]) for d, v in zip(apart, counted)]) / np.maximum(size, 1)
        if np.median(apart) > MAX_LABEL_DISTANCE:
            found.append(f"2D labels and projected 3D labels are {np.median(apart):.2g} hand sizes apart: K, or units?")
    return found


def _centered(sample: Sample, turned: np.ndarray) -> bool:
    """Whether the cameras of the images that EXIF turns have the centre of the stored image, not of the upright one."""
    labelled = turned & np.any(sample.valid, axis=-1)
    off = [np.abs((2 * sample.K[:, :2, 2] + 1) / sizes - 1).max(-1) for sizes in (sample.sizes, sample.sizes[:, ::-1])]
    return bool(labelled.any() and np.median(off[1][labelled]) < MIN_BETTER * np.median(off[0][labelled]))


def _box_doubts(sample: Sample) -> list[str]:
    inside = label_checks.joints_inside(sample.points, sample.valid_2d, sample.sizes)
    inside |= sample.valid_2d & ~np.all(np.isfinite(sample.sizes), axis=-1)[:, None]
    misses = sample.boxed & label_checks.box_misses_joints(sample.boxes, sample.points, inside)
    reasons = label_checks.box_reasons(sample.boxes, sample.sizes)
    wrong = {reason: mask & sample.boxed for reason, mask in reasons.items()}
    bad = misses | np.any(list(wrong.values()), axis=0)
    labelled = sample.boxed & (inside.sum(-1) >= label_checks.MIN_JOINTS)
    better = _other_boxes(sample, inside, labelled)
    if not bad.any():
        return [f"boxes: {better}"] if better else []
    why = [f"{reason.partition(':')[0]} {mask.sum():,}" for reason, mask in wrong.items() if mask.any()]
    others = (misses & ~np.any(list(wrong.values()), axis=0)).sum()
    why += [f"away from the joints {others:,}"] if others else []
    text = f"boxes that cannot be right ({', '.join(why)}): {_some(bad, sample.boxed, sample)}"
    used = f"; the joints decide {misses.sum():,} of these crops" if misses.any() else ""
    return [f"{text}{used}{'; ' if better else ''}{better}"]


def _other_boxes(sample: Sample, inside: np.ndarray, rows: np.ndarray) -> str:
    """Return a sentence if the boxes of `rows` would be nearer to the joints in another form; else ""."""
    if rows.sum() < MIN_HANDS:
        return ""
    boxes, points, inside = sample.boxes[rows], sample.points[rows], inside[rows][..., None]
    low = np.where(inside, points, np.inf).min(1)
    tight = np.concatenate([low, np.where(inside, points, -np.inf).max(1)], -1)  # (n, 4) around the joints
    forms = {
        "": boxes,
        "x, y, width, height": np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], -1),
        "fractions of the image": boxes * np.tile(sample.sizes[rows], 2),
        "for an image of half the size": boxes * 2,
        "for an image of twice the size": boxes / 2,
    }
    side = np.maximum((tight[:, 2:] - tight[:, :2]).max(-1), 1)
    off = {form: np.median(np.abs(box - tight).max(-1) / side) for form, box in forms.items()}
    best = min(off, key=lambda form: np.nan_to_num(off[form], nan=np.inf))
    if not best or off[best] > MIN_BETTER * off[""]:
        return ""
    return f"read as {best}, they would fit the joints; they must be x0, y0, x1, y1 in px of the image"


def _pose_doubts(sample: Sample) -> list[str]:
    """Doubts about the variety of the poses."""
    joints = sample.joints[sample.valid.all(-1) & np.isfinite(sample.joints).all((1, 2))]
    if len(joints) < MIN_HANDS:
        return []
    joints = joints[spread(len(joints), MAX_POSES)]
    distance = np.linalg.norm(joints[:, :, None] - joints[:, None], axis=-1)  # (n, 21, 21)
    distance /= np.maximum(distance.mean((1, 2), keepdims=True), 1e-9)
    if distance.std(0).max() > SAME_POSE:
        return []
    return [
        f"all {len(joints):,} hands that were compared have the same pose, so one rigid hand is a perfect prediction"
    ]


def _finite(points: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return np.all(np.isfinite(points).all(-1) | ~valid, axis=-1)


def _some(mask: np.ndarray, among: np.ndarray, sample: Sample) -> str:
    return f"{mask.sum():,} of {among.sum():,} hands checked, first {sample.names[int(mask.argmax())]}"
