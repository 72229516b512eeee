"""Convert the fields of a label to arrays and check them. Each error names the fault and the expected form."""

from collections.abc import Mapping

import numpy as np

from jaxhand.config import UserError
from jaxhand.data.label_checks import valid_cameras
from jaxhand.io.files import MALFORMED


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
