"""Check the fields of a label and the form of a record. Each error names the fault and the expected form."""

from collections.abc import Mapping

import numpy as np

from jaxhand.config import UserError
from jaxhand.data.images.encoded import EncodedImage
from jaxhand.data.label_checks import valid_cameras
from jaxhand.data.record import Record
from jaxhand.io.files import MALFORMED

LABEL_SHAPES = {
    "K": (3, 3),
    "keypoints_3d": (21, 3),
    "joint_valid": (21,),
    "bbox": (4,),
    "keypoints_2d": (21, 2),
    "joint_valid_2d": (21,),
    "mano_pose": (48,),
    "mano_shape": (10,),
}  # of a `Record`
MIN_DEPTH_MM = 10  # smallest plausible median of a depth image
REQUIRED = ("K", "keypoints_3d", "joint_valid")


def array_of(fields: Mapping, key: str, shape: tuple) -> np.ndarray:
    """Return a field of a JSON object as a float64 array; null becomes NaN.

    Raises:
        UserError: the field is not an array of numbers of this shape.
    """
    try:
        array = np.array(fields[key], np.float64)
    except MALFORMED:
        array = np.zeros(0)
    if array.shape != shape:
        found = f"shape {'x'.join(map(str, array.shape))}" if array.size else "something else"
        raise UserError(f"{key} must be {'x'.join(map(str, shape))} numbers, got {found}")
    return array


def checked_K(K: np.ndarray) -> np.ndarray:
    """Check a camera matrix K (3, 3) in px and return it unchanged.

    Raises:
        UserError: K is not a pinhole camera matrix.
    """
    if not np.isfinite(K).all() or K[0, 0] <= 0 or K[1, 1] <= 0 or not np.array_equal(K[2], (0, 0, 1)):
        raise UserError(f"K must be [[fx, skew, cx], [0, fy, cy], [0, 0, 1]] in px, got {K.tolist()}")
    return K


def checked_bbox(bbox: np.ndarray) -> np.ndarray:
    """Check a box (4,) x0, y0, x1, y1 px and return it unchanged.

    Raises:
        UserError: the box is not finite or has no area.
    """
    if not np.isfinite(bbox).all() or not (bbox[:2] < bbox[2:]).all():
        raise UserError(f"bbox must be x0, y0, x1, y1 with x0 < x1 and y0 < y1, got {bbox.tolist()}")
    return bbox


def check_cameras(K: np.ndarray, location: object) -> None:
    """Check the camera matrices (N, 3, 3) of a data set.

    Raises:
        UserError: one of them is not a pinhole camera matrix; the message names `location`, its file, and its number.
    """
    wrong = ~valid_cameras(K)
    if wrong.any():
        form = "K must be [[fx, skew, cx], [0, fy, cy], [0, 0, 1]] in px"
        raise UserError(f"{location}: entry {wrong.argmax()}: {form}, got {K[wrong][0].tolist()}")


def check_form(record: Record, where: str) -> None:
    """Check the types and shapes of a record's labels and of its decoded image.

    Args:
        record: the record.
        where: what errors call it.

    Raises:
        UserError: something has another form than `Record` describes.
    """
    if not isinstance(record, Record):
        raise UserError(f"{where} must be a jaxhand.data.record.Record, got {type(record).__name__}")
    if record.hand not in ("right", "left"):
        raise UserError(f'{where}: hand must be "right" or "left", got {record.hand!r:.60}')
    for name, shape in LABEL_SHAPES.items():
        value = getattr(record, name)
        if value is None and name not in REQUIRED:
            continue
        found = np.asarray(value)
        if found.shape != shape or found.dtype.kind not in "fiub":
            raise UserError(f"{where}: {name} must be numbers of shape {shape}, got {found.dtype} {found.shape}")
        if name.startswith("joint_valid") and not np.isfinite(found).all():
            raise UserError(f"{where}: {name} must be 1 or 0 for each joint, got {found.tolist()!r:.60}")
    if record.keypoints_2d is not None and record.joint_valid_2d is None:
        raise UserError(f"{where}: keypoints_2d needs joint_valid_2d (21,)")
    image, depth = record.image, record.depth
    if not isinstance(record.name, str):
        raise UserError(f"{where}: name must be a text, got {record.name!r:.60}")
    if not isinstance(image, np.ndarray | EncodedImage | None):
        raise UserError(f"{where}: image must be an array (H, W, 3) uint8, RGB, got {type(image).__name__}")
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise UserError(f"{where}: image must be (H, W, 3) uint8, RGB, got {image.dtype} {image.shape}")
        if depth is not None and np.shape(depth) != image.shape[:2]:
            raise UserError(f"{where}: depth must be (H, W) as the image, {image.shape[:2]}, got {np.shape(depth)}")
    if depth is not None and not (isinstance(depth, np.ndarray) and depth.ndim == 2 and depth.dtype.kind in "fiu"):
        found = f"{depth.dtype} {depth.shape}" if isinstance(depth, np.ndarray) else type(depth).__name__
        raise UserError(f"{where}: depth must be an array (H, W) in mm, got {found}")


def check_depth(record: Record, where: str) -> None:
    """Check the values of a record's depth image; `where` is what errors call the record.

    Raises:
        UserError: they are not mm, 0 where unknown.
    """
    if record.depth is None:
        return
    if not np.min(record.depth, initial=0) >= 0:
        raise UserError(f"{where}: depth must be at least 0, and 0 where it is unknown, but has negative values or NaN")
    measured = record.depth[record.depth > 0]
    if measured.size and np.median(measured) < MIN_DEPTH_MM:
        raise UserError(f"{where}: depth seems to be in metres, but must be in mm")
