"""Where the hands of a photograph are: a file of boxes, or a detector that the user names as `module:function`.

A file of boxes is JSON Lines, one hand a line, or JSON: a list of hands, or an object whose `hands` is one, such as the
joints.json of `predict`. A hand has `image` (a path, from the file's folder or the current one), `bbox` (x0, y0, x1, y1
px), and may have `hand` ("right" or "left"; else right) and `K` (3x3, of the whole image).

A detector is one function, `detect(image)`, that gets an image (H, W, 3) uint8 RGB and returns a list of
{"bbox": (x0, y0, x1, y1), "hand": "right" or "left", "score": 0 to 1}; `score` may be missing.
"""

import dataclasses
import importlib
import json
import numbers
import os
import sys
import typing
from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.data.checks import array_of, checked_bbox, checked_K


@dataclasses.dataclass(frozen=True)
class Hands:
    """The n hands of one image."""

    boxes: np.ndarray  # (n, 4) x0, y0, x1, y1 px
    sides: list[str]  # "right" or "left" each
    scores: list[float | None]  # how sure the detector was
    K: np.ndarray | None = None  # (3, 3) of the image, where it is known


NONE = Hands(np.zeros((0, 4)), [], [])


def read(path: str | Path) -> dict[str, Hands]:
    """The hands in a file of boxes, by the real path of their image, in the file's order.

    Raises:
        UserError: naming the file, its line or the number of the hand, and the fault.
    """
    path, images = Path(path), {}
    for where, entry in _entries(path):
        try:
            hand = _hand(entry)
            name = entry.get("image")
            if not isinstance(name, str):
                raise UserError("missing key 'image', the path of the photograph")
            beside = path.parent / name
            image = images.setdefault(os.path.realpath(beside if beside.exists() else name), [])
            if image and not np.array_equal(image[0].K, hand.K):
                raise UserError(f"K is not that of an earlier hand of {name}: an image has one camera")
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        image.append(hand)
    return {image: _together(hands) for image, hands in images.items()}


def detector(name: str) -> typing.Callable[[np.ndarray], Hands]:
    """The detector "module:function" as a function of an image (H, W, 3) uint8 RGB, with what it returns checked.

    The module is looked for in the current folder, too.

    Raises:
        UserError: there is no such function. When called: what it returns is no list of hands.
    """
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise UserError(f"--detector must be module:function, such as my_detector:detect, got {name!r}")
    sys.path.append(os.getcwd())
    try:
        detect = getattr(importlib.import_module(module), function)
    except ImportError as error:
        raise UserError(f"detector {name}: cannot import {module} ({error})") from None
    except AttributeError:
        raise UserError(f"detector {name}: {module} has no {function}") from None
    finally:
        sys.path.pop()

    def hands_of(image: np.ndarray) -> Hands:
        found = detect(image)
        if not isinstance(found, (list, tuple)):
            raise UserError(f"detector {name} must return a list of hands, got {type(found).__name__}")
        hands = []
        for number, entry in enumerate(found):
            try:
                hands.append(_hand(entry))
            except UserError as error:
                raise UserError(f"detector {name}, hand {number}: {error}") from None
        return _together(hands)

    return hands_of


def _entries(path: Path):
    """Every hand of a file as it is written there, after what errors call it."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read boxes {path}: {getattr(error, 'strerror', 'it is not text')}") from None
    try:
        content = json.loads(text)
    except ValueError:  # more than one line of JSON Lines, or broken
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    yield f"{path}:{number}", json.loads(line)
                except ValueError as error:
                    raise UserError(f"{path}:{number}: not valid JSON ({error})") from None
        return
    hands = content
    if isinstance(content, dict):
        hands = content.get("hands", [content])  # a lone line of JSON Lines is an object, too
    if not isinstance(hands, list):
        raise UserError(f"{path}: neither a list of hands nor an object with `hands`")
    yield from ((f"{path}: hand {number}", hand) for number, hand in enumerate(hands))


def _hand(entry) -> Hands:
    """A hand as it is written, checked."""
    if not isinstance(entry, dict):
        raise UserError(f"a hand must be an object with bbox, got {entry!r}")
    if "bbox" not in entry:
        raise UserError("missing key 'bbox'")
    side, score = entry.get("hand", "right"), entry.get("score")
    if side not in ("right", "left"):
        raise UserError(f'hand must be "right" or "left", got {side!r}')
    K = None if entry.get("K") is None else checked_K(array_of(entry, "K", (3, 3)))
    if not isinstance(score, numbers.Real | None):
        raise UserError(f"score must be a number, got {score!r}")
    score = None if score is None else float(score)
    return Hands(checked_bbox(array_of(entry, "bbox", (4,)))[None], [side], [score], K)


def _together(hands: list[Hands]) -> Hands:
    """Hands of one image."""
    boxes = np.concatenate([np.zeros((0, 4)), *(hand.boxes for hand in hands)])
    sides, scores = ([value for hand in hands for value in getattr(hand, name)] for name in ("sides", "scores"))
    return Hands(boxes, sides, scores, hands[0].K if hands else None)
