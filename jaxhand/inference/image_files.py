"""Predict the hands in image files. The model processes the hands of several files in one batch."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.data.images.depth import read_grey
from jaxhand.data.images.encoded import read_image
from jaxhand.inference.boxes import HandBoxes
from jaxhand.inference.predictor import Predictor

IMAGES_IN_MEMORY = 16  # number of images that are read at a time, before the model runs


@dataclasses.dataclass(frozen=True)
class ImagePrediction:
    """The predicted hands of one image file.

    Args:
        path: the image file.
        image: (H, W, 3) uint8 RGB.
        hands: the arrays that `Predictor` returns, one row per hand, but without `image` and with `score` (N,): the
            confidence of the detector for each hand, or None.
        camera_known: whether the focal length was given. If not, distances from the camera are only rough estimates.
    """

    path: Path
    image: np.ndarray
    hands: dict[str, np.ndarray]
    camera_known: bool


def predict_files(
    predictor: Predictor,
    paths: Sequence[Path],
    find_hands: Callable[[Path, np.ndarray], HandBoxes],
    *,
    K: np.ndarray | None = None,
    focal: float | None = None,
    depth_paths: Sequence[Path] | None = None,
) -> Iterator[ImagePrediction]:
    """Predict the hands of image files.

    Args:
        predictor: the model.
        paths: the image files.
        find_hands: function: path, image (H, W, 3) uint8 RGB → the hands of the image.
        K: (3, 3) camera matrix in px, for images for which `find_hands` returns no K.
        focal: focal length in px, for images without any K; the principal point is then the image centre.
        depth_paths: one 16-bit PNG in mm for each image; None: no depth.

    Yields:
        One `ImagePrediction` for each file, in the order of `paths`.

    Raises:
        UserError: a file cannot be read, or its hands are wrong. The message contains the file's path.
    """
    for start in range(0, len(paths), IMAGES_IN_MEMORY):
        records, scores, images = [], [], []
        for number, path in enumerate(paths[start : start + IMAGES_IN_MEMORY], start=start):
            image = read_image(path)
            depth = read_grey(depth_paths[number], *image.shape[1::-1]) if depth_paths else None
            try:
                found = find_hands(path, image)
                camera = found.K if found.K is not None else K
                if camera is None and focal is not None:
                    camera = predictor.crop_rule.camera(*image.shape[1::-1])
                    camera[0, 0] = camera[1, 1] = focal
                hands = predictor.records(image, found.boxes, found.sides, camera, depth)
            except UserError as error:
                raise UserError(f"{path}: {error}") from None
            images.append((path, image, camera is not None, slice(len(records), len(records) + len(hands))))
            records += hands
            scores += found.scores
        predictions = predictor.predict_records(records) | {"score": np.array(scores, object)}
        for path, image, camera_known, rows in images:
            hands = {key: values[rows] for key, values in predictions.items()}
            yield ImagePrediction(path, image, hands, camera_known)
