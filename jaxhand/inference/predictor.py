"""Images in, hands out: the best model of a run as a function of arrays."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from jaxhand import hand
from jaxhand.config import UserError
from jaxhand.data.checks import checked_bbox, checked_K
from jaxhand.data.crop import crop
from jaxhand.data.crop_rules import RULES, whole_image_box
from jaxhand.data.record import Record
from jaxhand.hand.camera import uncrop, weak_perspective_translation
from jaxhand.hand.rotations import mirror_axis_angle
from jaxhand.training.eval_loop import load_best
from jaxhand.training.sharding import replicated, split
from jaxhand.training.step import as_float

INPUTS = ("image", "depth", "has_depth", "depth_center", "K")  # the arrays of a batch that a model reads
OUTPUTS = ("keypoints_3d", "keypoints_2d", "vertices", "mano_pose", "mano_shape", "camera_translation")


class Predictor:
    """The best model of a run, as a function from images and boxes to hands in millimetres.

    All hands of a call go through the model in batches, whichever image they are in. The last batch is padded to a
    power of two, so the model is compiled for few batch sizes: 1, 2, 4, ... `batch_size`.

    Args:
        workdir: run folder.
        batch_size: the most hands in one batch; a power of two.

    Raises:
        UserError: the folder holds no run, its parameters do not fit the model of its config, or `batch_size` is not a
            power of two.
    """

    def __init__(self, workdir: str | Path, *, batch_size: int = 32):
        if batch_size < 1 or batch_size & (batch_size - 1):
            raise UserError(f"batch_size must be a power of two, such as 32, got {batch_size}")
        eval_model, best = load_best(workdir)
        self.config, self.batch_size = best.config, batch_size
        self.crop_rule = RULES[self.config.data.crop_rule]
        self._device_mesh, self._graphdef = eval_model.device_mesh, eval_model.graphdef
        self._parameters = best.params, best.rest
        self._predict_batch = jax.jit(self._apply_model)

    def __call__(self, images, boxes=None, hands=None, K=None, depth=None) -> dict[str, np.ndarray]:
        """Predict the hands of one image or of several.

        Args:
            images: one image (H, W, 3) uint8 RGB, or a list of images of any sizes. With a list, each of the other
                arguments is a list with one entry per image, in the form described here for one image.
            boxes: (n, 4) x0, y0, x1, y1 in px, or (4,) for a single hand. None: one hand, and the whole image is its
                crop.
            hands: "right" or "left" for all boxes, or a list with one of them per box. None: all are right hands. One
                word may also stand for a list of images.
            K: (3, 3) camera matrix of the image in px. One matrix may also stand for a list of images. None: unknown;
                the focal length is then a guess (`CropRule.camera`), and distances are as wrong as the guess.
            depth: (H, W) mm, 0 or NaN where unknown; None: no depth. Models that were trained without depth ignore it.

        Returns:
            Arrays with one row per hand, N in all: image by image, in the order of the boxes. 3D values are in the
            OpenCV camera frame (x right, y down, z forward) in mm. A left hand is returned as a left hand. From every
            model:

            - `keypoints_3d` (N, 21, 3) mm: wrist, thumb, index, middle, ring, little, each from base to tip.
            - `keypoints_2d` (N, 21, 2) px of the image.
            - `image` (N,) int: index of the image that the hand is in.
            - `is_right` (N,) bool.
            - `boxes` (N, 4) px and `K` (N, 3, 3) px: the boxes and cameras that were used.

            From models with a mesh:

            - `vertices` (N, V, 3) mm and `faces` (N, F, 3) int, outward by the right-hand rule.
            - `mano_pose` (N, 48) axis-angle in radians, `mano_shape` (N, 10) and `camera_translation` (N, 3) mm, the
              position of the hand's origin, from models that predict them.

        Raises:
            UserError: an argument has another form than described, or a box lies outside its image. With a list of
                images the message names the image.
        """
        if not isinstance(images, (list, tuple)) and np.ndim(images) != 4:
            records = self.records(images, boxes, hands, K, depth)
            return self.predict_records(records) | {"image": np.zeros(len(records), int)}
        hands = [hands] * len(images) if isinstance(hands, str) else hands
        K = [K] * len(images) if _shape(K) == (3, 3) else K
        arguments = {"boxes": boxes, "hands": hands, "K": K, "depth": depth}
        arguments = {name: [None] * len(images) if values is None else values for name, values in arguments.items()}
        for name, values in arguments.items():
            if len(values) != len(images):
                raise UserError(f"{name} must have an entry for each of the {len(images)} images, got {len(values)}")
        records, image_index = [], []
        for index, of_image in enumerate(zip(images, *arguments.values())):
            try:
                image_records = self.records(*of_image)
            except UserError as error:
                raise UserError(f"image {index}: {error}") from None
            records += image_records
            image_index += [index] * len(image_records)
        return self.predict_records(records) | {"image": np.array(image_index, int)}

    def records(self, image, boxes=None, hands=None, K=None, depth=None) -> list[Record]:
        """Check the arguments of one image, and make one record without labels for each hand.

        Args:
            image: (H, W, 3) uint8 RGB.
            boxes: as in `__call__`, for one image.
            hands: as in `__call__`, for one image.
            K: as in `__call__`, for one image.
            depth: as in `__call__`, for one image.

        Returns:
            One record per box, with `bbox` and `K` set.

        Raises:
            UserError: an argument has another form than `__call__` describes, or a box lies outside the image.
        """
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise UserError(f"an image must be an array (H, W, 3) of uint8, RGB, got {got}")
        height, width = image.shape[:2]
        if not image.size:
            raise UserError(f"the image is empty: {width}x{height} px")
        K = self.crop_rule.camera(width, height) if K is None else checked_K(_checked_array("K", K, (3, 3)))
        depth = None if depth is None else _checked_depth(depth, height, width)
        if boxes is None:
            boxes = whole_image_box(width, height, self.config.data.crop_scale)
        boxes = _checked_array("boxes", boxes, (-1, 4), (4,), (0,)).reshape(-1, 4)
        sides = [hands or "right"] * len(boxes) if isinstance(hands, str | None) else list(hands)
        if len(sides) != len(boxes):
            raise UserError(f'hands must be "right" or "left" for each of the {len(boxes)} boxes, got {len(sides)}')
        for (x0, y0, x1, y1), side in zip(map(checked_bbox, boxes), sides):
            if side not in ("right", "left"):
                raise UserError(f'a hand must be "right" or "left", got {side!r}')
            if x1 <= 0 or y1 <= 0 or x0 >= width - 1 or y0 >= height - 1:
                box = [float(x0), float(y0), float(x1), float(y1)]
                raise UserError(f"the box {box} lies outside the image of {width}x{height} px; a box is x0, y0, x1, y1")
        no_labels = np.zeros((21, 3)), np.zeros(21)
        return [Record(image, K, *no_labels, side, depth, box) for box, side in zip(boxes, sides)]

    def predict_records(self, records: Sequence[Record]) -> dict[str, np.ndarray]:
        """Predict the hands of records, such as `records` returns; their labels are not used.

        Args:
            records: N records, each with a `bbox`.

        Returns:
            The arrays that `__call__` returns, except `image`.
        """
        blank = Record(np.zeros((8, 8, 3), np.uint8), np.eye(3), np.zeros((21, 3)), np.zeros(21), "right")
        rows, outputs, K_crop = records or [blank], [], []
        for start in range(0, len(rows), self.batch_size):
            batch = self._make_batch(rows[start : start + self.batch_size])
            K_crop.append(batch["K"])
            divides = len(batch["K"]) % self._device_mesh.size == 0
            placement = split(self._device_mesh) if divides else replicated(self._device_mesh)
            # The device computes this batch while the next one is cropped.
            outputs.append(self._predict_batch(*self._parameters, jax.device_put(batch, placement)))
        predictions = {key: _concatenate([output[key] for output in outputs], len(records)) for key in outputs[0]}
        inputs = {
            "K": np.reshape([record.K for record in records], (-1, 3, 3)),
            "boxes": np.array([record.bbox for record in records], np.float64).reshape(-1, 4),
            "is_right": np.array([record.hand == "right" for record in records], bool),
        }
        K_crop = _concatenate(K_crop, len(records))
        return self._to_image(predictions, K_crop, inputs["K"], inputs["is_right"]) | inputs

    def _apply_model(self, params, batch_stats, batch: dict) -> dict:
        """A batch of crops → the model's predictions, all as right hands in their crops."""
        model = nnx.merge(self._graphdef, params, batch_stats)
        predictions: dict = dict(model(batch | {"image": as_float(batch["image"])}))
        if "camera" in predictions:
            image_size = self.config.data.image_size
            translation = weak_perspective_translation(predictions["camera"], batch["K"], image_size)
            predictions["camera_translation"] = translation
        return {key: predictions[key] for key in OUTPUTS if key in predictions}

    def _make_batch(self, records: Sequence[Record]) -> dict[str, np.ndarray]:
        """The crops of records; the last one is repeated up to a power of two."""
        data = self.config.data
        crops = [crop(record, data.image_size, data.crop_scale, rule=self.crop_rule) for record in records]
        crops += crops[-1:] * ((1 << (len(crops) - 1).bit_length()) - len(crops))
        return {key: np.stack([one[key] for one in crops]) for key in INPUTS}

    def _to_image(self, predictions: dict, K_crop, K, is_right) -> dict[str, np.ndarray]:
        """Predictions of N right hands in their crops → the right and left hands of the images.

        Args:
            predictions: the arrays in `OUTPUTS`, N rows each.
            K_crop: (N, 3, 3) cameras of the crops, px.
            K: (N, 3, 3) cameras of the images, px.
            is_right: (N,) bool.

        Returns:
            The same arrays in the images' cameras, and `faces` where there are `vertices`.
        """
        pixels, joints = uncrop(predictions["keypoints_2d"], predictions["keypoints_3d"], K_crop, K, is_right)
        predictions |= {"keypoints_2d": np.asarray(pixels, np.float32), "keypoints_3d": np.asarray(joints, np.float32)}
        mirror = np.where(is_right[:, None, None], 1, np.array([-1, 1, 1], np.float32))  # (N, 1, 3)
        if "vertices" in predictions:
            predictions["vertices"] = predictions["vertices"] * mirror
            faces = hand.load(self.config.hand).faces
            predictions["faces"] = np.where(is_right[:, None, None], faces, faces[:, ::-1])  # (N, F, 3)
        if "mano_pose" in predictions:
            pose = predictions["mano_pose"].reshape(-1, 16, 3)
            pose = np.where(is_right[:, None, None], pose, mirror_axis_angle(pose))
            predictions["mano_pose"] = pose.reshape(-1, 48)
        if "camera_translation" in predictions:
            predictions["camera_translation"] = predictions["camera_translation"] * mirror[:, 0]
        return predictions


def _concatenate(arrays: list, length: int) -> np.ndarray:
    """Arrays of consecutive batches as one NumPy array, cut to the rows that are no padding."""
    return np.concatenate([np.asarray(array) for array in arrays])[:length]


def _checked_depth(depth, height: int, width: int) -> np.ndarray:
    """A depth image (H, W) as float32 mm, 0 where unknown."""
    is_numeric = isinstance(depth, np.ndarray) and depth.dtype.kind in "fiu"
    depth = _checked_array("depth", np.nan_to_num(depth) if is_numeric else depth, (height, width)).astype(np.float32)
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
    except (TypeError, ValueError):
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
