"""Predict the hands in image files. The model processes the hands of several files in one batch."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.data.images.depth import read_grey
from jaxhand.data.images.encoded import EncodedImage
from jaxhand.inference.arguments import ImagePredictor, central_camera, exif_camera
from jaxhand.inference.boxes import HandBoxes

IMAGES_IN_MEMORY = 16  # number of images that are read at a time, before the model runs


@dataclasses.dataclass(frozen=True)
class ImagePrediction:
    """The predicted hands of one image file.

    Args:
        path: the image file.
        image: (H, W, 3) uint8 RGB.
        hands: the arrays that `ImagePredictor` returns, one row per hand, but without `image` and with always `score`
            (N,): the confidence of the detector for each hand, or None.
        camera: where the focal length is from: "given", "exif" or "guess".
    """

    path: Path
    image: np.ndarray
    hands: dict[str, np.ndarray]
    camera: str


def predict_files(
    predictor: ImagePredictor,
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
        focal: focal length in px, for images without any K; the principal point is then the image centre. Without it
            the focal length is that of the file's EXIF data.
        depth_paths: one 16-bit PNG in mm for each image; None: no depth.

    Yields:
        One `ImagePrediction` for each file, in the order of `paths`.

    Raises:
        UserError: a file cannot be read, or its hands are wrong. The message contains the file's path.
    """
    for start in range(0, len(paths), IMAGES_IN_MEMORY):
        group = paths[start : start + IMAGES_IN_MEMORY]
        images, depths, hands, cameras, origins = [], [], [], [], []
        for number, path in enumerate(group, start=start):
            file = EncodedImage.read(path)
            image = file.pixels
            size = image.shape[1::-1]
            depths.append(read_grey(depth_paths[number], *size) if depth_paths else None)
            try:
                found = find_hands(path, image)
            except UserError as error:
                raise UserError(f"{path}: {error}") from None
            given = found.K if found.K is not None else K
            if given is None and focal is not None:
                given = central_camera(focal, *size)
            camera = exif_camera(file) if given is None else given
            cameras.append(camera)
            origins.append("given" if given is not None else "guess" if camera is None else "exif")
            images.append(image)
            hands.append(found)
        boxes, sides = [found.boxes for found in hands], [found.sides for found in hands]
        predictions = predictor(images, boxes, sides, cameras, depths, names=list(map(str, group)))
        image_of_hand = predictions.pop("image")
        for number, (path, image, found, origin) in enumerate(zip(group, images, hands, origins)):
            rows = image_of_hand == number
            of_image = {key: values[rows] for key, values in predictions.items()}
            scores = of_image.get("score", [None] * rows.sum()) if found.scores is None else found.scores
            yield ImagePrediction(path, image, of_image | {"score": np.array(scores, object)}, origin)
