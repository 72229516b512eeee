"""Predict the hands in image files. The model processes the hands of several files in one batch."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.config.json_text import parse_json
from jaxhand.data.images.depth import read_grey
from jaxhand.data.images.encoded import EncodedImage
from jaxhand.data.label_checks import check_camera
from jaxhand.inference.arguments import ImagePredictor, central_camera, checked, checked_box, exif_camera
from jaxhand.inference.boxes import HandBoxes
from jaxhand.io.files import MALFORMED

IMAGES_IN_MEMORY = 16  # number of images that are read at a time, before the model runs
JOINTS = "joints.json"  # what `predict` writes next to its pictures
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")  # of photographs


@dataclasses.dataclass(frozen=True)
class ImagePrediction:
    """The predicted hands of one image file.

    Args:
        path: the image file.
        image: (H, W, 3) uint8 RGB.
        hands: the arrays that `ImagePredictor` returns, one row per hand, but without `image` and with always `score`
            (N,): the confidence of the detector for each hand, or None.
        camera: where the focal length is from: "given", "exif" or "guess".
        doubt: what may be wrong with the given camera, or "".
    """

    path: Path
    image: np.ndarray
    hands: dict[str, np.ndarray]
    camera: str
    doubt: str = ""


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """An image, or a hand in it, that cannot be predicted.

    Args:
        path: the image file.
        reason: one line with the file's path, and why.
    """

    path: Path
    reason: str


def image_paths(given: Sequence[Path]) -> list[Path]:
    """The image files of a list of files and folders. A folder stands for the photographs directly inside it, sorted.

    The pictures that `predict` has written into a folder, which its joints.json there lists, are not photographs.

    Raises:
        UserError: a folder has no photographs.
    """
    paths = []
    for path in given:
        if path.is_dir():
            drawn = _pictures(path / JOINTS)
            inside = sorted(
                each for each in path.iterdir() if each.suffix.lower() in SUFFIXES and each.name not in drawn
            )
            if not inside:
                raise UserError(f"{path}: no images in this folder; known endings are {', '.join(SUFFIXES)}")
            paths += inside
        else:
            paths.append(path)
    return paths


def named_first(paths: Sequence[Path]) -> list[int]:
    """The indices of the paths whose file no earlier path names, not even by another spelling or a link."""
    first = {}
    for number, path in enumerate(paths):
        first.setdefault(os.path.realpath(path), number)
    return list(first.values())


def _pictures(joints: Path) -> set[str]:
    """The names of the pictures that a joints.json lists; empty if there is no such file."""
    try:
        hands = parse_json(joints.read_bytes())["hands"]
        return {str(hand[key]) for hand in hands for key in ("overlay", "mesh_overlay") if key in hand}
    except (OSError, *MALFORMED):
        return set()


def predict_files(
    predictor: ImagePredictor,
    paths: Sequence[Path],
    find_hands: Callable[[Path, np.ndarray], HandBoxes],
    *,
    K: np.ndarray | None = None,
    focal: float | None = None,
    depth_paths: Sequence[Path] | None = None,
) -> Iterator[ImagePrediction | LeftOut]:
    """Predict the hands of image files.

    Args:
        predictor: the model.
        paths: the image files.
        find_hands: function: path, image (H, W, 3) uint8 RGB → the hands of the image.
        K: (3, 3) camera matrix in px, for images for which `find_hands` returns no K.
        focal: focal length in px, for images without any K; the principal point is then the image centre. Without it
            the focal length is that of the file's EXIF data.
        depth_paths: one 16-bit PNG in mm for each image; None: no depth.

    Yields:
        One `ImagePrediction` for each image, in the order of `paths`. Instead of it, one `LeftOut` for an image that
        cannot be read or whose hands cannot be found; in addition to it, one for each box that does not fit its image.
    """
    for start in range(0, len(paths), IMAGES_IN_MEMORY):
        group = []  # per image: (path, photograph, scores, origin of its camera), or its LeftOut
        for number, path in enumerate(paths[start : start + IMAGES_IN_MEMORY], start=start):
            try:
                group += _read(path, find_hands, K, focal, depth_paths[number] if depth_paths else None)
            except UserError as error:
                group.append(LeftOut(path, str(error)))
        photographs = [each[1] for each in group if not isinstance(each, LeftOut)]
        predictions = predictor.predict(photographs) if photographs else {"image": np.zeros(0, int)}
        image_of_hand, number = predictions.pop("image"), 0
        for each in group:
            if isinstance(each, LeftOut):
                yield each
                continue
            path, photograph, scores, origin = each
            rows = image_of_hand == number
            of_image = {key: values[rows] for key, values in predictions.items()}
            scores = of_image.get("score", [None] * rows.sum()) if scores is None else scores
            (height, width), K = photograph.image.shape[:2], photograph.K
            doubts = [] if K is None else check_camera(K, width, height)
            hands = of_image | {"score": np.array(scores, object)}
            yield ImagePrediction(path, photograph.image, hands, origin, "; ".join(doubts))
            number += 1


def _read(path: Path, find_hands, K: np.ndarray | None, focal: float | None, depth_path: Path | None) -> list:
    """Read an image and find its hands: a `LeftOut` for each odd box, then (path, photograph, scores, camera)."""
    file = EncodedImage.read(path)
    image = file.pixels
    width, height = image.shape[1::-1]
    depth = None if depth_path is None else read_grey(depth_path, width, height)
    try:
        found, faults = _fitting(find_hands(path, image), width, height)
        given = found.K if found.K is not None else K
        if given is None and focal is not None:
            given = central_camera(focal, width, height)
        camera = exif_camera(file) if given is None else given
        origin = "given" if given is not None else "guess" if camera is None else "exif"
        photograph = checked(image, found.boxes, found.sides, camera, depth)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return [*(LeftOut(path, f"{path}: {fault}") for fault in faults), (path, photograph, found.scores, origin)]


def _fitting(found: HandBoxes, width: int, height: int) -> tuple[HandBoxes, list[str]]:
    """The hands whose boxes fit an image, and what is wrong with the other boxes. One box at least must fit."""
    kept, faults = [], []
    for number, box in enumerate(() if found.boxes is None else found.boxes):
        try:
            checked_box(box, width, height)
            kept.append(number)
        except UserError as error:
            faults.append(f"{error} (hand {number})")
    if not faults or found.boxes is None:
        return found, []
    if not kept:
        raise UserError("; ".join(faults[:3]) + (f"; and {len(faults) - 3} more boxes" if len(faults) > 3 else ""))
    sides = [found.sides[number] for number in kept] if isinstance(found.sides, list) else found.sides
    scores = None if found.scores is None else [found.scores[number] for number in kept]
    return HandBoxes(found.boxes[kept], sides, scores, found.K), faults
