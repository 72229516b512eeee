"""COCO-style JSON files of hands, as mmpose writes them: `images` and `annotations`, one annotation per hand.

An annotation has `image_id` and `keypoints` (21 times x, y px and visibility). It may have `joint_cam` (21x3 mm, OpenCV
camera frame), `hand_type` ("right" or "left"; default: right) and `bbox` (x, y, width, height px). With 3D labels, the
annotation or its image has `cam_param` (`focal` and `princpt`, px). Paths of images are relative to the folder of the
file; if that folder is `annotations`, to its parent.

Visibility is 0 (not labelled), 1 (hidden) or 2 (visible). Some tools write a confidence instead: a joint with less than
`LEAST_VISIBILITY` is not labelled. Labels and `width`, `height` are those of the upright image: an image is turned by
its EXIF orientation when it is read. A hand whose 3D labels cannot be right is left out; `left_out` counts such hands.
"""

import math
from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.data.checks import checked_K
from jaxhand.data.crop_rules import RULES
from jaxhand.data.datasets import label_cache, splits
from jaxhand.data.datasets.base import ImageDataset
from jaxhand.data.datasets.json_stream import entries
from jaxhand.data.label_checks import joint_reasons, left_out
from jaxhand.data.record import Record
from jaxhand.hand.skeleton import to_our_order
from jaxhand.io.files import MALFORMED, one_line

LEAST_VISIBILITY = 0.3  # as HaMeR's training for confidences
_MAX_WRONG = 0.5  # the file is refused if more hands than this fraction cannot be right


def load(file: Path, split: str, *, order: str, period: int = 0, without_val: bool = False) -> "CocoSet":
    """Read one file. Its name does not matter: any split can be read from it.

    Args:
        file: the JSON file.
        split: "train" and "test" are all images; "val" is a part of them: blocks of neighbouring images.
        order: order of the joints, a name in `JOINT_ORDERS`.
        period: images whose ids differ by this number show the same hand; 0: no such images.
        without_val: leave the records of "val" out of "train".

    Raises:
        UserError: the file or an annotation is wrong; the message names the file and the annotation.
    """
    arrays = label_cache.cached([file], lambda: _parse(file))
    ids = arrays["image_id"] % period if period else arrays["image_id"]
    kept = splits.keep(split, splits.blocks(ids, ids.max() + 1), file, without_val)
    wrong, sentences = _implausible(file, arrays, order)
    faint = (arrays["keypoints"][kept, :, 2] > 0) & (arrays["keypoints"][kept, :, 2] < LEAST_VISIBILITY)
    if faint.any():
        sentences.append(f"{faint.sum():,} joints are not labelled: their visibility is below {LEAST_VISIBILITY}")
    return CocoSet(file, arrays, order, kept[~wrong[kept]], sentences)


def _implausible(file: Path, arrays: dict[str, np.ndarray], order: str) -> tuple[np.ndarray, list[str]]:
    """Return the hands (N,) bool whose 3D labels cannot be right, and sentences that count them.

    Raises:
        UserError: most hands cannot be right.
    """
    joints, visible = (to_our_order(arrays[key], order) for key in ("joints", "keypoints"))
    labelled = ~np.any(np.isnan(arrays["joints"]), axis=(1, 2))  # (N,)
    reasons = joint_reasons(joints, labelled[:, None] & (visible[..., 2] >= LEAST_VISIBILITY))
    for reason, mask in reasons.items():
        if mask.sum() > _MAX_WRONG * labelled.sum():
            raise UserError(f"{file}: {mask.sum():,} of {labelled.sum():,} hands with joint_cam: {reason}")
    return left_out(reasons, lambda i: f"annotation {i} of {file}")


class CocoSet(ImageDataset):
    """The hands of a COCO-style file as records."""

    def __init__(self, file: Path, arrays: dict[str, np.ndarray], order: str, kept: np.ndarray, left_out: list[str]):
        self.left_out = left_out
        self._folder = file.parent.parent if file.parent.name == "annotations" else file.parent
        self._arrays, self._order, self._kept = arrays, order, kept

    def __len__(self) -> int:
        return len(self._kept)

    def file(self, i: int) -> Path:
        """Return the path of the image of record i."""
        return self._folder / self._arrays["file_name"][self._kept[i]].item().decode()

    def read_annotation(self, i: int) -> Record:
        """Return record i without its image."""
        a = {name: array[self._kept[i]] for name, array in self._arrays.items()}
        file_name, hand = a["file_name"].item().decode(), a["hand_type"].item().decode()
        only_2d = np.isnan(a["joints"]).any()
        keypoints = to_our_order(a["keypoints"], self._order)  # (21, 3) x, y, visible
        visible = (keypoints[:, 2] >= LEAST_VISIBILITY).astype(np.float32)
        return Record(
            image=None,
            K=RULES["hamer"].camera(*a["image_size"]) if only_2d else a["K"],
            keypoints_3d=np.zeros((21, 3), np.float32) if only_2d else to_our_order(a["joints"], self._order),
            joint_valid=np.zeros(21, np.float32) if only_2d else visible,
            hand=hand or "right",
            bbox=None if np.isnan(a["bbox"]).any() else a["bbox"],
            keypoints_2d=keypoints[:, :2] if only_2d else None,
            joint_valid_2d=visible if only_2d else None,
            name=f"{file_name}#{hand}" if hand else file_name,
        )


def _parse(file: Path) -> dict[str, np.ndarray]:
    images, rows = {}, []
    for number, image in enumerate(entries(file, "images")):
        images[_whole_number(image.get("id"), f"{file}: image {number}: id")] = image
    for number, annotation in enumerate(entries(file, "annotations")):
        try:
            rows.append(_row(annotation, images))
        except UserError as error:
            raise UserError(f"{file}: annotation {number}: {error}") from None
        except KeyError as error:
            raise UserError(f"{file}: annotation {number}: missing key {one_line(error)}") from None
        except MALFORMED as error:
            raise UserError(f"{file}: annotation {number} is malformed ({one_line(repr(error))})") from None
    if not rows:
        raise UserError(f"{file}: contains no annotation; give another file")
    kinds = {"image_id": np.int64, "file_name": np.bytes_, "hand_type": np.bytes_}
    try:
        return {name: np.array([row[name] for row in rows], kinds.get(name, np.float32)) for name in rows[0]}
    except MALFORMED as error:
        raise UserError(f"{file}: an id or a size is not a number ({one_line(error)})") from None


def _row(annotation: dict, images: dict) -> dict:
    """Convert one annotation to a row of the arrays; missing numbers are NaN. `_parse` completes the error messages."""
    image, hand = images.get(_whole_number(annotation["image_id"], "image_id")), annotation.get("hand_type")
    if image is None:
        raise UserError(f"image_id {annotation['image_id']} is not the id of an image in the file")
    if hand not in ("right", "left", None):
        raise UserError(f'hand_type must be "right" or "left", got {hand!r}')
    camera = annotation.get("cam_param") or image.get("cam_param") or {}
    if not camera and annotation.get("joint_cam") is not None:
        raise UserError("has joint_cam but no cam_param")
    (fx, fy), (cx, cy) = (_numbers(camera, key, (2,)) for key in ("focal", "princpt"))
    x, y, width, height = _numbers(annotation, "bbox", (4,))
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    if annotation.get("joint_cam") is not None:
        checked_K(K)
    return {
        "image_id": annotation["image_id"],
        "file_name": image["file_name"].encode(),
        "image_size": (image["width"], image["height"]),
        "hand_type": (hand or "").encode(),
        "keypoints": _numbers(annotation, "keypoints", (21, 3)),
        "joints": _numbers(annotation, "joint_cam", (21, 3)),
        "K": K,
        "bbox": (x, y, x + width, y + height),
    }


def _whole_number(value: object, name: str) -> int:
    if not isinstance(value, int) or abs(value) >= 2**62:
        raise UserError(f"{name} must be a whole number, got {value!r:.60}")
    return value


def _numbers(fields: dict, key: str, shape: tuple) -> np.ndarray:
    """Return a field (a list or nested lists of numbers) as an array of `shape`; NaN if the field is missing."""
    values = np.array(np.full(shape, np.nan) if fields.get(key) is None else fields[key], np.float64)
    if values.size != math.prod(shape):
        raise UserError(f"{key} must be {'x'.join(map(str, shape))} numbers, got {values.size} numbers")
    return values.reshape(shape)
