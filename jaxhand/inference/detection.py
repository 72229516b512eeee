"""Hand detectors: functions of the user, given as `module:function`.

A detector is one function, `detect(image)`. Its argument is an image (H, W, 3) uint8 RGB. It returns a list with one
entry per hand: {"bbox": (x0, y0, x1, y1) in px, "hand": "right" or "left", "score": 0 to 1}. `hand` and `score` are
optional; the default of `hand` is "right". For an image without hands, the list is empty.
"""

import os
import traceback
from collections.abc import Callable

import numpy as np

from jaxhand.config import UserError
from jaxhand.inference.boxes import HandBoxes, merge_hands, parse_hand
from jaxhand.io.plugins import load_object


def load_detector(spec: str) -> Callable[[np.ndarray], HandBoxes]:
    """Import a detector, and wrap it in a function that checks the returned hands.

    Args:
        spec: "module:function". The module may be a file in the current folder.

    Returns:
        A function: image (H, W, 3) uint8 RGB → the hands of the image. It raises a UserError if the detector fails or
        does not return a list of hands.

    Raises:
        UserError: the module cannot be imported, or has no such function; see `load_object`.
    """
    detect = load_object(spec, "detector")
    if not callable(detect):
        raise UserError(f"detector {spec} must be a function, got {type(detect).__name__}")

    def checked_detect(image: np.ndarray) -> HandBoxes:
        try:
            found = detect(image)
        except UserError:
            raise
        except Exception as error:  # an error in the user's function
            raise UserError(f"detector {spec} failed: {_describe(error)}") from error
        if not isinstance(found, (list, tuple)):
            raise UserError(f"detector {spec} must return a list of hands, got {type(found).__name__}")
        hands = []
        for number, entry in enumerate(found):
            try:
                hands.append(parse_hand(entry))
            except UserError as error:
                raise UserError(f"detector {spec}, hand {number}: {error}") from None
        return merge_hands(hands)

    return checked_detect


def _describe(error: Exception) -> str:
    """Describe an error in one line of text, with the file and line number of the user's code that raised it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    place = f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
