"""Photographs in, hands out: the best model of a run as a function of arrays."""

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
from jaxhand.training.sharding import replicated, split
from jaxhand.training.step import as_float
from jaxhand.training.testing import load_best

INPUTS = ("image", "depth", "has_depth", "depth_center", "K")  # of a model
OUTPUTS = ("keypoints_3d", "keypoints_2d", "vertices", "mano_pose", "mano_shape", "camera_translation")


class Predictor:
    """Finds the joints, and the mesh where the model has one, of hands in photographs.

    Hands go through the model together, of one image or of many. It is compiled for as few numbers of hands as there are
    powers of two up to `batch_size`: what is left of a batch is filled up.

    Args:
        workdir: run folder.
        batch_size: how many hands are looked at together, at most; a power of two.

    Raises:
        UserError: the folder holds no run, or its parameters do not fit the model of its config.
    """

    def __init__(self, workdir: str | Path, *, batch_size: int = 32):
        if batch_size < 1 or batch_size & (batch_size - 1):
            raise UserError(f"batch_size must be a power of two, such as 32, got {batch_size}")
        tester, best = load_best(workdir)
        self.config, self.batch_size = best.config, batch_size
        self.rule = RULES[self.config.data.crop_rule]
        self._mesh, self._graphdef = tester.mesh, tester.graphdef
        self._parameters = best.params, best.rest
        self._forward = jax.jit(self._see)

    def __call__(self, images, boxes=None, hands=None, K=None, depth=None) -> dict:
        """Find hands whose places are known.

        Args:
            images: an image (H, W, 3) uint8 RGB, or a list of images of any sizes. All that follows is of the one
                image, or a list with an entry an image.
            boxes: (n, 4) x0, y0, x1, y1 px, or (4,) of a single hand; None: there is a hand, and the image is its crop.
            hands: "right" or "left", or a list with one a box; None: all are right hands. A word is for all images.
            K: (3, 3) camera of the image; a single one is for all images. Where it is None, its focal length is the
                model's own guess: distances are then as wrong as that is.
            depth: (H, W) mm, 0 where unknown, or None; only models that learned from depth look at it.

        Returns:
            Arrays with a row a hand, image by image in the order of the boxes, mm in the OpenCV camera frame (x right,
            y down, z forward) of a left or right hand as it is: `keypoints_3d` (N, 21, 3) and `keypoints_2d` (N, 21, 2)
            px of the image, wrist, thumb, index, middle, ring, little, each from base to tip · `image` (N,) which image
            it is in · `is_right` (N,) bool · `boxes` (N, 4) · `K` (N, 3, 3) the camera taken.
            Of models with a mesh also `vertices` (N, V, 3) and `faces` (N, F, 3), outward by the right-hand rule; of
            those that pose a hand `mano_pose` (N, 48) axis-angle, `mano_shape` (N, 10), and `camera_translation` (N, 3),
            where the hand's origin is.

        Raises:
            UserError: an argument is not as said, or a box lies outside of its image.
        """
        if not isinstance(images, (list, tuple)) and np.ndim(images) != 4:
            records = self.records(images, boxes, hands, K, depth)
            return self.of_records(records) | {"image": np.zeros(len(records), int)}
        hands = [hands] * len(images) if isinstance(hands, str) else hands
        K = [K] * len(images) if _shape(K) == (3, 3) else K
        given = {"boxes": boxes, "hands": hands, "K": K, "depth": depth}
        given = {name: [None] * len(images) if values is None else values for name, values in given.items()}
        for name, values in given.items():
            if len(values) != len(images):
                raise UserError(f"{name} must have an entry for each of the {len(images)} images, got {len(values)}")
        records, of_image = [], []
        for number, arguments in enumerate(zip(images, *given.values())):
            try:
                found = self.records(*arguments)
            except UserError as error:
                raise UserError(f"image {number}: {error}") from None
            records += found
            of_image += [number] * len(found)
        return self.of_records(records) | {"image": np.array(of_image, int)}

    def records(self, image, boxes=None, hands=None, K=None, depth=None) -> list[Record]:
        """What is asked about one image, checked: a record without labels a hand; all else as `__call__` has it."""
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise UserError(f"an image must be an array (H, W, 3) of uint8, RGB, got {found}")
        height, width = image.shape[:2]
        if not image.size:
            raise UserError(f"an image of {width}x{height} px shows nothing")
        K = self.rule.camera(width, height) if K is None else checked_K(_array("K", K, (3, 3)))
        depth = None if depth is None else _checked_depth(depth, height, width)
        if boxes is None:
            boxes = whole_image_box(width, height, self.config.data.crop_scale)
        boxes = _array("boxes", boxes, (-1, 4), (4,), (0,)).reshape(-1, 4)
        sides = [hands or "right"] * len(boxes) if isinstance(hands, str | None) else list(hands)
        if len(sides) != len(boxes):
            raise UserError(f"hands must say which each of the {len(boxes)} boxes is of, got {len(sides)}")
        for (x0, y0, x1, y1), side in zip(map(checked_bbox, boxes), sides):
            if side not in ("right", "left"):
                raise UserError(f'a hand must be "right" or "left", got {side!r}')
            if x1 <= 0 or y1 <= 0 or x0 >= width - 1 or y0 >= height - 1:
                box = [float(x0), float(y0), float(x1), float(y1)]
                raise UserError(f"the box {box} lies outside of the image of {width}x{height} px; it is x0, y0, x1, y1")
        nothing = np.zeros((21, 3)), np.zeros(21)
        return [Record(image, K, *nothing, side, depth, box) for box, side in zip(boxes, sides)]

    def of_records(self, records: list[Record]) -> dict:
        """What `__call__` returns, without `image`, of records that have a box and whose labels are not looked at."""
        blank = Record(np.zeros((8, 8, 3), np.uint8), np.eye(3), np.zeros((21, 3)), np.zeros(21), "right")
        rows, pieces, K_crop = records or [blank], [], []
        for start in range(0, len(rows), self.batch_size):
            batch = self._batch(rows[start : start + self.batch_size])
            K_crop.append(batch["K"])
            place = split(self._mesh) if len(batch["K"]) % self._mesh.size == 0 else replicated(self._mesh)
            pieces.append(self._forward(*self._parameters, jax.device_put(batch, place)))  # while the next is cropped
        together = lambda arrays: np.concatenate([np.asarray(array) for array in arrays])[: len(records)]  # noqa: E731
        found = {key: together([piece[key] for piece in pieces]) for key in pieces[0]}
        known = {
            "K": np.reshape([record.K for record in records], (-1, 3, 3)),
            "boxes": np.reshape([record.bbox for record in records], (-1, 4)),
            "is_right": np.array([record.hand == "right" for record in records], bool),
        }
        return self._as_it_was(found, together(K_crop), known["K"], known["is_right"]) | known

    def _see(self, params, rest, batch: dict) -> dict:
        predictions = nnx.merge(self._graphdef, params, rest)(batch | {"image": as_float(batch["image"])})
        if "camera" in predictions:
            size = self.config.data.image_size
            translation = weak_perspective_translation(predictions["camera"], batch["K"], size)
            predictions["camera_translation"] = translation
        return {key: predictions[key] for key in OUTPUTS if key in predictions}

    def _batch(self, records: list[Record]) -> dict:
        """The crops of hands, and copies of the last up to a power of two."""
        data = self.config.data
        crops = [crop(record, data.image_size, data.crop_scale, rule=self.rule) for record in records]
        crops += crops[-1:] * ((1 << (len(crops) - 1).bit_length()) - len(crops))
        return {key: np.stack([one[key] for one in crops]) for key in INPUTS}

    def _as_it_was(self, found: dict, K_crop, K, is_right) -> dict:
        """Predictions of right hands in crops → of the hands as they are in their images."""
        pixels, joints = uncrop(found["keypoints_2d"], found["keypoints_3d"], K_crop, K, is_right)
        found |= {"keypoints_2d": np.float32(pixels), "keypoints_3d": np.float32(joints)}
        mirror = np.where(is_right[:, None, None], 1, np.float32([-1, 1, 1]))  # (N, 1, 3)
        if "vertices" in found:
            found["vertices"] = found["vertices"] * mirror
            faces = hand.load(self.config.hand).faces
            found["faces"] = np.where(is_right[:, None, None], faces, faces[:, ::-1])  # (N, F, 3)
        if "mano_pose" in found:
            pose = found["mano_pose"].reshape(-1, 16, 3)
            pose = np.where(is_right[:, None, None], pose, mirror_axis_angle(pose))
            found["mano_pose"] = pose.reshape(-1, 48)
        if "camera_translation" in found:
            found["camera_translation"] = found["camera_translation"] * mirror[:, 0]
        return found


def _checked_depth(depth, height: int, width: int) -> np.ndarray:
    """A depth image (H, W) as float32 mm, 0 where unknown."""
    numbers = isinstance(depth, np.ndarray) and depth.dtype.kind in "fiu"
    depth = np.float32(_array("depth", np.nan_to_num(depth) if numbers else depth, (height, width)))
    known = depth[depth > 0]
    if known.size and np.median(known) < 10:
        raise UserError("depth looks like metres, millimetres are needed: multiply by 1000")
    return depth


def _array(name: str, values, *shapes: tuple) -> np.ndarray:
    """Values as a finite array of one of the shapes, of which a first -1 is any length."""
    shape = _shape(values)
    if shape not in [(*(shape or ())[:1], *wanted[1:]) if wanted[0] == -1 else wanted for wanted in shapes]:
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
    """The shape of nested values, or None where they have none."""
    try:
        return np.shape(values)
    except ValueError:
        return None
