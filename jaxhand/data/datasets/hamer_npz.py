"""HaMeR's evaluation files: an .npz with one row per hand, and images in another folder.

In these files `scale` is the width and height of the box in px; in the training tars it is divided by 200. Joints are
in metres, relative to an unknown origin. They are missing in data sets that are only labelled in 2D (HInt). Labels are
those of the upright image: an image is turned by its EXIF orientation when it is read.
"""

from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.data.crop_rules import RULES
from jaxhand.data.datasets import splits
from jaxhand.data.datasets.base import SizedImageDataset
from jaxhand.data.label_checks import Reasons, bone_reasons, left_out
from jaxhand.data.record import Record
from jaxhand.io import numpy_files
from jaxhand.io.files import MALFORMED

BOX_UNIT = 200  # px per unit of `scale` in the training tars
SHAPES = {"keypoints_2d": (21, 3), "keypoints_3d": (21, 4), "center": 2, "scale": 2, "hand_pose": 48, "betas": 10}


def load(path: str | Path, split: str, *, without_val: bool = False, images: str | Path | None = None) -> "HaMeRNpz":
    """Read one file. Its name does not matter: any split can be read from it.

    Args:
        path: the .npz file, such as freihand_val.npz or TEST_newdays_img_vis.npz.
        split: "train" and "test" are all hands; "val" is a part of them: blocks of neighbouring hands.
        without_val: leave the records of "val" out of "train".
        images: the folder that `imgname` is relative to; None: the folder of the file.

    Raises:
        UserError: the file is missing or damaged, has no key `imgname`, `center` or `scale`, or is not in pixels.
    """
    file = Path(path).expanduser()
    content = numpy_files.read_npz(file, objects=True)
    for key in ("imgname", "center", "scale"):
        if key not in content:
            raise UserError(f"{file}: has no key {key!r}, only {', '.join(content)}; give HaMeR's evaluation file")
    if np.ndim(content["imgname"]) != 1 or not len(content["imgname"]):
        raise UserError(f"{file}: imgname must be a list of file names")
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in content["imgname"].tolist()]
    count = len(names)
    fields = {}
    for key, shape in SHAPES.items():
        value = content.get(f"hand_{key}" if key.startswith("keypoints") else key, np.zeros((count, np.prod(shape))))
        fields[key] = _floats(file, key, value, count)
    fields["scale"] = np.broadcast_to(fields["scale"].reshape(count, -1), (count, 2))  # a square box has one number
    for key in ("right", "has_hand_pose", "has_betas"):
        fields[key] = _floats(file, key, content.get(key, np.full(count, key == "right")), count).reshape(-1)
    try:
        fields |= {key: fields[key].reshape(count, *np.atleast_1d(shape)) for key, shape in SHAPES.items()}
    except ValueError as error:
        raise UserError(f"{file}: an array has the wrong shape ({error})") from None
    wrong = np.flatnonzero(~np.isfinite(np.concatenate([fields["center"], fields["scale"]], 1)).all(1))
    if len(wrong):
        raise UserError(f"{file}: center or scale of row {wrong[0]} is not finite; download the file again")
    if np.median(fields["scale"]) < 10:
        scale = f"the median of scale is {np.median(fields['scale']):.3g}"
        raise UserError(f"{file}: {scale}; it must be in pixels in an .npz file")
    reasons = hand_reasons(fields["center"], fields["scale"], bones_are_wrong(fields["keypoints_3d"]))
    wrong, sentences = left_out(reasons, lambda i: f"hand {i} of {file}")
    kept = splits.keep(split, splits.blocks(np.arange(count), count), file, without_val)
    if wrong[kept].all():
        raise UserError(f"{file}: {sentences[0]}")
    return HaMeRNpz(Path(images).expanduser() if images else file.parent, names, fields, kept[~wrong[kept]], sentences)


def hand_reasons(center: np.ndarray, scale: np.ndarray, wrong_bones: np.ndarray) -> Reasons:
    """Return the hands (N,) bool that cannot be right, by reason, from centre and size of the boxes (N, 2)."""
    no_box = ~np.isfinite(center).all(-1) | ~np.isfinite(scale).all(-1) | ~(scale > 0).all(-1)
    return {
        "center and scale must be finite, and scale positive": no_box,
        "keypoints_3d must be in metres, but bones have the length of no hand": wrong_bones & ~no_box,
    }


def bones_are_wrong(joints: np.ndarray) -> np.ndarray:
    """Return (N,) bool: True for hands whose joints (N, 21, 4) m and confidence are complete, but in another unit."""
    whole = (joints[..., 3] > 0).all(-1) & np.isfinite(joints).all((1, 2)) & (joints[..., :3] != 0).any((1, 2))
    reasons = bone_reasons(joints[..., :3] * 1000, whole[:, None] & np.ones(21, bool))
    return np.any(list(reasons.values()), axis=0)


class HaMeRNpz(SizedImageDataset):
    """The hands of one of HaMeR's evaluation files as records."""

    def __init__(self, images: Path, names: list[str], fields: dict, kept: np.ndarray, left_out: list[str]):
        self.left_out = left_out
        self._images, self._names, self._fields, self._kept = images, names, fields, kept

    def __len__(self) -> int:
        return len(self._kept)

    def file(self, i: int) -> Path:
        """Return the path of the image of record i."""
        return self._images / self._names[self._kept[i]]

    def annotate(self, i: int, image_size: tuple[int, int]) -> Record:
        """Return record i without its image. `image_size` is width and height of the image, px."""
        row = self._kept[i]
        hand = {key: values[row] for key, values in self._fields.items()}
        pose, betas = (hand[k] if hand[f"has_{k}"] > 0 else None for k in ("hand_pose", "betas"))
        labelled = hand["keypoints_2d"][:, 2] > 0
        return hand_record(hand, hand["scale"], image_size, labelled, pose, betas, f"{self._names[row]}#{row}")


def hand_record(
    hand: dict[str, np.ndarray], box_size: np.ndarray, image_size: tuple[int, int], labelled: np.ndarray,
    pose: np.ndarray | None, betas: np.ndarray | None, name: str,
) -> Record:  # fmt: skip
    """Convert a hand in HaMeR's format to a record without its image.

    The camera is unknown: K comes from HaMeR's crop rule. The joints are translated so that their projections are as
    near as possible to the 2D labels.

    Args:
        hand: `keypoints_2d` (21,3), `keypoints_3d` (21,4) m, `center` (2,), `right`.
        box_size: (2,) width and height of the box, px.
        image_size: width and height of the image, px.
        labelled: (21,) bool, True for 2D keypoints that are used as labels.
        pose: (48,) absolute axis-angles, or None.
        betas: (10,) shape parameters, or None.
        name: name of the record.
    """
    K, pixels, joints = RULES["hamer"].camera(*image_size), hand["keypoints_2d"][:, :2], hand["keypoints_3d"]
    valid = (joints[:, 3] > 0) & np.isfinite(joints).all(-1)
    valid &= (joints[valid, :3] != 0).any()  # all 0 means no hand, for any confidence
    labelled = labelled & np.isfinite(pixels).all(-1)
    points = np.where(valid[:, None], joints[:, :3] * 1000, 0).astype(np.float64)
    if valid.any():
        points[valid] = _placed(points[valid], pixels[valid], labelled[valid], K, hand["center"], box_size)
    return Record(
        image=None,
        K=K,
        keypoints_3d=points.astype(np.float32),
        joint_valid=valid.astype(np.float32),
        hand="right" if hand["right"] > 0 else "left",
        bbox=np.concatenate([hand["center"] - box_size / 2, hand["center"] + box_size / 2]),
        mano_pose=pose,
        mano_shape=betas,
        name=name,
        keypoints_2d=np.where(labelled[:, None], pixels, 0),
        joint_valid_2d=labelled.astype(np.float32),
    )


def _placed(
    points: np.ndarray, pixels: np.ndarray, labelled: np.ndarray, K: np.ndarray, center: np.ndarray,
    box_size: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Translate points (n, 3) mm so that K projects the `labelled` (n,) points near to their `pixels` (n, 2).

    The translation t solves u (z + tz) = f (x + tx), and the same equation for v and y, by linear least squares. (u, v)
    is relative to the image's centre. If too few pixels are labelled, the points are placed so that they fill the box.
    """
    points, focal = points - points[0], K[0, 0]
    if labelled.sum() >= 4:
        u, (x, y, z) = pixels[labelled] - K[:2, 2], points[labelled].T
        one, zero = np.full(len(x), focal), np.zeros(len(x))
        rows = np.concatenate([np.stack([one, zero, -u[:, 0]], -1), np.stack([zero, one, -u[:, 1]], -1)])  # (2n, 3)
        shift = np.linalg.lstsq(rows, np.concatenate([u[:, 0] * z - focal * x, u[:, 1] * z - focal * y]), rcond=None)[0]
        if (points[:, 2] + shift[2]).min() > 0:
            return points + shift
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    distance = focal * max((high - low).max(), 1) / box_size.max()
    x, y = (center - K[:2, 2]) * distance / focal - (low + high) / 2
    return points + (x, y, distance)


def _floats(file: Path, key: str, value: object, count: int) -> np.ndarray:
    """Convert an array of the file to float32 and check that it has `count` rows."""
    try:
        value = np.asarray(np.asarray(value).tolist() if np.asarray(value).dtype == object else value, np.float32)
    except MALFORMED:
        value = np.zeros(0, np.float32)
    if value.shape[:1] != (count,):
        raise UserError(f"{file}: {key} must have {count} rows of numbers, as imgname has {count} rows")
    return value
