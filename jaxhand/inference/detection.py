"""Hand detectors: MediaPipe's networks, or a function of the user, given as `module:function`.

`mediapipe` means the networks in runs/mediapipe or, without that folder, in the installed package mediapipe. A run
folder of `jaxhand convert mediapipe` can be given, too.

A detector of your own is one function, `detect(image)`. Its argument is an image (H, W, 3) uint8 RGB. It returns a list
of hands {"bbox": (x0, y0, x1, y1) in px, "hand": "right" or "left", "score": 0 to 1}. `hand` and `score` are optional;
the default of `hand` is "right". For an image without hands, the list is empty.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.inference.boxes import HandBoxes, merge_hands, parse_hand
from jaxhand.inference.mediapipe_pipeline import RUN, Pipeline
from jaxhand.interop.mediapipe_weights import HOW as SOURCE
from jaxhand.io.plugins import call, load_object

MEDIAPIPE = "mediapipe"
OLD_NAME = "jaxhand.interop.mediapipe:detect"  # when these networks ran through LiteRT


def load_detector(spec: str) -> Callable[[np.ndarray], HandBoxes]:
    """Import a detector, and wrap it in a function that checks the returned hands.

    Args:
        spec: "mediapipe", a run folder, or "module:function". The module may be a file in the current folder.

    Returns:
        A function: image (H, W, 3) uint8 RGB → the hands of the image. It raises a UserError if the detector fails or
        does not return a list of hands.

    Raises:
        UserError: MediaPipe's networks are not there, or the module cannot be imported or has no such function; see
            `load_object`.
    """
    if spec in (MEDIAPIPE, OLD_NAME):
        return _of_pipeline(_pipeline())
    if Path(spec).is_dir():
        return _of_pipeline(Pipeline.load(spec))
    detect = load_object(spec, "detector")
    if not callable(detect):
        raise UserError(f"detector {spec} must be a function, got {type(detect).__name__}")

    def checked_detect(image: np.ndarray) -> HandBoxes:
        found = call(f"detector {spec}", detect, image)
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


def _pipeline() -> Pipeline:
    """MediaPipe's networks, where `make photographs` or the package's installation put them."""
    if RUN.is_dir():
        return Pipeline.load(RUN)
    package = importlib.util.find_spec(MEDIAPIPE)
    if package is None or not package.submodule_search_locations:
        raise UserError(
            f"--detector {MEDIAPIPE} needs its networks in {RUN}: `make photographs` brings them, or `jaxhand convert "
            f"mediapipe SOURCE {RUN}`, where {SOURCE}"
        )
    return Pipeline.convert(package.submodule_search_locations[0])


def _of_pipeline(pipeline: Pipeline) -> Callable[[np.ndarray], HandBoxes]:
    """Detection by MediaPipe's networks: boxes around the joints."""

    def detect(image: np.ndarray) -> HandBoxes:
        [found] = pipeline([image])
        sides = ["right" if right > 0.5 else "left" for right in found["right"]]
        return HandBoxes(np.asarray(found["boxes"], np.float64), sides, found["score"].tolist())

    return detect
