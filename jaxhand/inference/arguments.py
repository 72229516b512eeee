"""What predictors are called with: images, and what is known about the hands and the camera of each, checked."""

import abc
import dataclasses
import numbers
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.data.checks import checked_bbox, checked_K
from jaxhand.data.crop_rules import CropRule
from jaxhand.data.images.encoded import EncodedImage
from jaxhand.data.label_checks import FOCAL_RANGE, check_box, check_camera


@dataclasses.dataclass(frozen=True)
class Photograph:
    """An image, and what is known about its hands and its camera.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        boxes: (n, 4) x0, y0, x1, y1 px, or None.
        sides: "right", "left" or None for each box; a single one of them where `boxes` is None.
        K: (3, 3) px, or None.
        depth: (H, W) float32 mm, 0 where unknown, or None.
    """

    image: np.ndarray
    boxes: np.ndarray | None
    sides: list[str | None]
    K: np.ndarray | None
    depth: np.ndarray | None

    def camera(self, rule: CropRule) -> np.ndarray:
        """The camera matrix, or the guess of a crop rule where it is not known."""
        return rule.camera(*self.image.shape[1::-1]) if self.K is None else self.K


class ImagePredictor(abc.ABC):
    """Images in, hands out: the arguments and results of every predictor. A subclass implements `predict`.

    Attributes:
        model: the name of its model.
        crop_rule: how its crops are cut, and which camera is the guess for an image without a known one.
    """

    model: str
    crop_rule: CropRule

    def __call__(self, images, boxes=None, hands=None, K=None, depth=None, *, names=None) -> dict[str, np.ndarray]:
        """Predict the hands of one image or of several.

        Args:
            images: one image (H, W, 3) uint8 RGB or the path of its file, or a list of them, of any sizes. With a list,
                each of the other arguments is a list with one entry per image, in the form described here for one
                image.
            boxes: (n, 4) x0, y0, x1, y1 in px, or (4,) for a single hand. None: a run of MediaPipe's networks detects
                the hands; for other models the image has one hand, and the whole image is its crop.
            hands: "right" or "left" for all boxes, or a list with one of them per box. None: as the network classifies
                them in a run of MediaPipe's, else right hands. One word may also stand for a list of images.
            K: (3, 3) camera matrix of the image in px. One matrix may also stand for a list of images. None: for the
                path of a JPEG, from the focal length in its EXIF data. Otherwise the focal length is a guess
                (`CropRule.camera`), and distances are as wrong as the guess.
            depth: (H, W) mm, 0 or not finite where unknown; None: no depth. Models that were trained without depth
                ignore it, except for MediaPipe's, whose hands it places.
            names: for a list of images, what error messages call them.

        Returns:
            Arrays with one row per hand, N in all: image by image, in the order of the boxes, or the most certain first
            where the hands were detected. 3D values are in the OpenCV camera frame (x right, y down, z forward) in mm.
            A left hand is returned as a left hand. From every model:

            - `keypoints_3d` (N, 21, 3) mm: wrist, thumb, index, middle, ring, little, each from base to tip.
            - `keypoints_2d` (N, 21, 2) px of the image.
            - `image` (N,) int: index of the image that the hand is in.
            - `is_right` (N,) bool.
            - `boxes` (N, 4) px and `K` (N, 3, 3) px: the boxes and cameras that were used; for a detected hand the box
              of its joints.

            From MediaPipe's networks `score` (N,), the probability that there is a hand.

            From models with a mesh, and the first two from other models that were loaded with `fit_mesh`:

            - `vertices` (N, V, 3) mm and `faces` (N, F, 3) int, outward by the right-hand rule.
            - `mano_pose` (N, 48) axis-angle in radians, `mano_shape` (N, 10) and `camera_translation` (N, 3) mm, the
              position of the hand's origin, from models that predict them.

            With `fit_mesh` also `surface_keypoints_3d` (N, 21, 3) mm, the joints of the fitted surface.

        Raises:
            UserError: an argument has another form than described, or a box lies outside its image. With a list of
                images the message names the image.
        """
        if not isinstance(images, (list, tuple)) and np.ndim(images) != 4:
            return self.predict([checked(images, boxes, hands, K, depth)])
        hands = [hands] * len(images) if isinstance(hands, str) else hands
        K = [K] * len(images) if _shape(K) == (3, 3) else K
        arguments = {"boxes": boxes, "hands": hands, "K": K, "depth": depth}
        arguments = {name: [None] * len(images) if values is None else values for name, values in arguments.items()}
        for name, values in arguments.items():
            is_list = isinstance(values, list | tuple) or isinstance(values, np.ndarray) and values.ndim > 0
            if not is_list or len(values) != len(images):
                got = len(values) if is_list else f"{values!r:.60}"
                raise UserError(f"{name} must have an entry for each of the {len(images)} images, got {got}")
        if names is not None and len(names) != len(images):
            raise UserError(f"names must have an entry for each of the {len(images)} images, got {len(names)}")
        photographs = []
        for index, of_image in enumerate(zip(images, *arguments.values())):
            try:
                photographs.append(checked(*of_image))
            except UserError as error:
                raise UserError(f"{names[index] if names else f'image {index}'}: {error}") from None
        return self.predict(photographs)

    @abc.abstractmethod
    def predict(self, photographs: Sequence[Photograph]) -> dict[str, np.ndarray]:
        """The arrays that `__call__` returns, for images with checked arguments."""


def checked(image, boxes=None, hands=None, K=None, depth=None) -> Photograph:
    """Check the arguments of `ImagePredictor.__call__` for one image.

    Raises:
        UserError: an argument has another form than described there, or a box lies outside the image.
    """
    if isinstance(image, (str, Path)):
        file = EncodedImage.read(image)
        image, K = file.pixels, exif_camera(file) if K is None else K
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise UserError(f"an image must be an array (H, W, 3) of uint8, RGB, got {got}")
    height, width = image.shape[:2]
    if not image.size:
        raise UserError(f"the image is empty: {width}x{height} px")
    K = None if K is None else checked_camera(_checked_array("K", K, (3, 3)), width, height)
    depth = None if depth is None else _checked_depth(depth, height, width)
    if boxes is not None:
        boxes = _checked_array("boxes", boxes, (-1, 4), (4,), (0,)).reshape(-1, 4)
    count = 1 if boxes is None else len(boxes)
    if not isinstance(hands, str | list | tuple | np.ndarray | None):
        raise UserError(f'hands must be "right" or "left", or a list with one of them for each box, got {hands!r:.60}')
    sides = [hands] * count if isinstance(hands, str | None) else list(hands)
    if len(sides) != count:
        raise UserError(f'hands must be "right" or "left" for each of the {count} boxes, got {len(sides)}')
    for side in sides:
        if not isinstance(side, str | None) or side not in ("right", "left", None):
            raise UserError(f'a hand must be "right" or "left", got {side!r:.60}')
    for box in () if boxes is None else boxes:
        checked_box(box, width, height)
    return Photograph(image, boxes, sides, K, depth)


def checked_box(box: np.ndarray, width: int, height: int) -> np.ndarray:
    """Check a box (4,) x0, y0, x1, y1 px of an image, and return it unchanged.

    Raises:
        UserError: the box has no area, is in 0..1 or is smaller than a hand can be, or most of it is outside the image.
    """
    x0, y0, x1, y1 = checked_bbox(box).tolist()
    if x1 <= 0 or y1 <= 0 or x0 >= width - 1 or y0 >= height - 1:
        raise UserError(
            f"the box {[x0, y0, x1, y1]} lies outside the image of {width}x{height} px; a box is x0, y0, x1, y1"
        )
    for doubt in check_box(box, width, height):
        raise UserError(doubt)
    return box


def checked_camera(K: np.ndarray, width: int, height: int) -> np.ndarray:
    """Check the camera matrix (3, 3) px of an image, and return it unchanged.

    Raises:
        UserError: K is no pinhole camera, or its focal length is not one in px for an image of this size.
    """
    relative = np.diag(checked_K(K))[:2] / max(width, height)
    if relative.min() < FOCAL_RANGE[0] or relative.max() > FOCAL_RANGE[1]:
        raise UserError(check_camera(K, width, height)[0])
    return K


def checked_batch_size(batch_size) -> int:
    """Check the largest number of hands in one batch, and return it unchanged.

    Raises:
        UserError: it is not a power of two.
    """
    if not isinstance(batch_size, numbers.Integral) or batch_size < 1 or batch_size & (batch_size - 1):
        raise UserError(f"batch_size must be a power of two, such as 32, got {batch_size!r:.60}")
    return int(batch_size)


def exif_camera(file: EncodedImage) -> np.ndarray | None:
    """K (3, 3) px of a JPEG with a focal length in its EXIF data, the principal point in the centre; else None."""
    return None if file.focal_length is None else central_camera(file.focal_length, *file.size)


def central_camera(focal: float, width: int, height: int) -> np.ndarray:
    """K (3, 3) of an image with this focal length in px and the principal point in its centre."""
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


def _checked_depth(depth, height: int, width: int) -> np.ndarray:
    """A depth image (H, W) as float32 mm, 0 where unknown."""
    is_numeric = isinstance(depth, np.ndarray) and depth.dtype.kind in "fiu"
    depth = _checked_array(
        "depth", np.nan_to_num(depth, posinf=0, neginf=0) if is_numeric else depth, (height, width)
    ).astype(np.float32)
    measured = depth[depth > 0]
    if measured.size and np.median(measured) < 10:
        raise UserError("depth seems to be in metres, but must be in mm: multiply it by 1000")
    return depth


def _checked_array(name: str, values, *shapes: tuple) -> np.ndarray:
    """Values as a finite float64 array of one of the shapes; a first axis of -1 may have any length."""
    shape = _shape(values)
    allowed = [(*(shape or ())[:1], *wanted[1:]) if wanted[0] == -1 else wanted for wanted in shapes]
    if shape not in allowed:
        wanted = str(shapes[0]).replace("-1", "n")
        raise UserError(f"{name} must be numbers of shape {wanted}, got {shape or f'{values!r:.60}'}")
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{name} must be numbers, got {values!r:.60}") from None
    if not np.isfinite(array).all():
        raise UserError(f"{name} has NaN or infinity")
    return array


def _shape(values) -> tuple | None:
    """The shape of nested lists or arrays, or None where the rows have different lengths."""
    try:
        return np.shape(values)
    except ValueError:
        return None
