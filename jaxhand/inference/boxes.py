"""Bounding boxes of the hands in images, and files of such boxes.

A file of boxes has one entry per hand. Its format is JSON Lines (one entry per line) or JSON: a list of entries, or an
object with a list of entries under the key `hands`, such as the joints.json that `predict` writes. Keys of an entry:

- `image`: path of the image, relative to the file's folder or to the current folder. Required.
- `bbox`: x0, y0, x1, y1 in px of the image. Required.
- `hand`: "right" or "left". Default: "right".
- `K`: (3, 3) camera matrix of the whole image, in px. Optional.
- `score`: confidence of the detector, a number. Optional.
"""

import dataclasses
import math
import numbers
import os
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.config.json_text import parse_json, parse_json_once
from jaxhand.config.yaml_text import shortened
from jaxhand.data.checks import array_of, checked_bbox, checked_K


@dataclasses.dataclass(frozen=True)
class HandBoxes:
    """The bounding boxes of the n hands in one image.

    Args:
        boxes: (n, 4) x0, y0, x1, y1 in px of the image; None: no boxes, see `ImagePredictor`.
        sides: "right" or "left" for each hand; with `boxes` None one word or None.
        scores: confidence of the detector for each hand; None where it is not known.
        K: (3, 3) camera matrix of the image in px; None: unknown.
    """

    boxes: np.ndarray | None
    sides: list[str] | str | None
    scores: list[float | None] | None = None
    K: np.ndarray | None = None


NO_HANDS = HandBoxes(np.zeros((0, 4)), [], [])


def read_boxes(path: str | Path) -> dict[str, HandBoxes]:
    """Read a file of boxes; the module's docstring describes its format.

    Args:
        path: the file.

    Returns:
        Real path of an image → the hands of that image. Images and hands are in the order of the file.

    Raises:
        UserError: the file cannot be read, or an entry is wrong. The message contains the file, the line or the number
            of the entry, and the mistake.
    """
    path, entries_of_image = Path(path), {}
    for location, entry in _read_entries(path):
        try:
            hand = parse_hand(entry)
            name = entry.get("image")
            if not isinstance(name, str):
                raise UserError("missing key 'image' (path of the image)")
            hands = entries_of_image.setdefault(_real_path(name, path.parent), [])
            if hands and not _equal(hands[0].K, hand.K):
                raise UserError(
                    f"K differs from the K of an earlier hand in {name}; give all hands of an image the same K"
                )
        except UserError as error:
            raise UserError(f"{location}: {error}") from None
        hands.append(hand)
    return {image: merge_hands(hands) for image, hands in entries_of_image.items()}


def _real_path(name: str, folder: Path) -> str:
    """The real path of an image: relative to the folder if it is there, else to the current folder."""
    name = os.path.expanduser(name)
    try:
        next_to_file = folder / name
        return os.path.realpath(next_to_file if next_to_file.exists() else name)
    except (OSError, ValueError):  # too long, or with characters that no path can have
        raise UserError(f"image {shortened(repr(name), 80)} is not a path") from None


def _equal(first: np.ndarray | None, second: np.ndarray | None) -> bool:
    return first is second if first is None or second is None else np.array_equal(first, second)


def parse_hand(entry: object) -> HandBoxes:
    """Check and convert one hand, from an entry of a file of boxes or from a detector.

    Args:
        entry: a mapping with `bbox`, and optionally `hand`, `score` and `K`; see the module's docstring.

    Returns:
        A `HandBoxes` with one hand.

    Raises:
        UserError: a key is missing or a value is wrong.
    """
    if not isinstance(entry, Mapping):
        raise UserError(f"a hand must be an object with the key bbox, got {_shown(entry)}")
    if "bbox" not in entry:
        raise UserError("missing key 'bbox'")
    side, score = entry.get("hand", "right"), entry.get("score")
    if not (isinstance(side, str) and side in ("right", "left")):
        raise UserError(f'hand must be "right" or "left", got {_shown(side)}')
    K = None if entry.get("K") is None else checked_K(array_of(entry, "K", (3, 3)))
    if score is not None and not _is_finite(score):
        raise UserError(f"score must be a finite number, got {_shown(score)}")
    score = None if score is None else float(score)
    return HandBoxes(checked_bbox(array_of(entry, "bbox", (4,)))[None], [side], [score], K)


def _is_finite(score) -> bool:
    try:
        return isinstance(score, numbers.Real) and math.isfinite(score)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _shown(value) -> str:
    """A value in an error message, as one short line."""
    try:
        return shortened(" ".join(repr(value).split()), 80)
    except ValueError:  # a whole number of thousands of digits
        return f"a {type(value).__name__}"


def merge_hands(hands: list[HandBoxes]) -> HandBoxes:
    """Merge the hands of one image, which all have the same K, into one `HandBoxes`."""
    boxes = np.concatenate([np.zeros((0, 4)), *(hand.boxes for hand in hands if hand.boxes is not None)])
    sides, scores = ([value for hand in hands for value in getattr(hand, name)] for name in ("sides", "scores"))
    return HandBoxes(boxes, sides, scores, hands[0].K if hands else None)


def _read_entries(path: Path) -> Iterator[tuple[str, typing.Any]]:
    """Yield a pair for every hand of a file: its location for error messages, and its JSON entry, not yet checked."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: the boxes cannot be read ({getattr(error, 'strerror', 'the file is not text')})"
        ) from None
    try:
        parse_json(text)
    except ValueError:  # the file is JSON Lines, or invalid JSON
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield f"{path}:{number}", _parsed(line, f"{path}:{number}")
        return
    content = entries = _parsed(text, str(path))
    if isinstance(content, dict):
        entries = content.get("hands", [content])  # without `hands`: a JSON Lines file with one line
    if not isinstance(entries, list):
        raise UserError(f"{path}: must be a list of hands, or an object with the key hands")
    yield from ((f"{path}: hand {number}", entry) for number, entry in enumerate(entries))


def _parsed(text: str, location: str) -> typing.Any:
    try:
        return parse_json_once(text)
    except ValueError as error:
        raise UserError(f"{location}: not valid JSON ({error})") from None
