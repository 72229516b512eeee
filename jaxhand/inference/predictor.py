"""Images in, hands out: the best model of a run as a function of arrays."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from jaxhand import hand
from jaxhand.data.crop import crop
from jaxhand.data.crop_rules import RULES, whole_image_box
from jaxhand.data.record import Record
from jaxhand.hand.camera import uncrop, weak_perspective_translation
from jaxhand.hand.rotations import mirror_axis_angle
from jaxhand.inference.arguments import ImagePredictor, Photograph, checked_batch_size
from jaxhand.models.contract import Model
from jaxhand.training.eval_loop import load_best
from jaxhand.training.sharding import replicated, split
from jaxhand.training.step import as_float

INPUTS = ("image", "depth", "has_depth", "depth_center", "K")  # the arrays of a batch that a model reads
OUTPUTS = ("keypoints_3d", "keypoints_2d", "vertices", "mano_pose", "mano_shape", "camera_translation")


class Predictor(ImagePredictor):
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
        self.batch_size = checked_batch_size(batch_size)
        eval_model, best = load_best(workdir)
        self.config = best.config
        self.model = self.config.model.name
        self.crop_rule = RULES[self.config.data.crop_rule]
        self._device_mesh, self._graphdef = eval_model.device_mesh, eval_model.graphdef
        self._parameters = best.params, best.rest
        self._predict_batch = jax.jit(self._apply_model)

    def predict(self, photographs: Sequence[Photograph]) -> dict[str, np.ndarray]:
        """The arrays that `__call__` returns, for images with checked arguments."""
        records = [self._records(photograph) for photograph in photographs]
        image = np.repeat(np.arange(len(records)), [len(of_image) for of_image in records])
        return self.predict_records([record for of_image in records for record in of_image]) | {"image": image}

    def _records(self, photograph: Photograph) -> list[Record]:
        """One record without labels for each box; without boxes, of the hand whose crop is the whole image."""
        boxes, (height, width) = photograph.boxes, photograph.image.shape[:2]
        if boxes is None:
            boxes = [whole_image_box(width, height, self.config.data.crop_scale)]
        K = photograph.camera(self.crop_rule)
        return [
            Record(photograph.image, K, np.zeros((21, 3)), np.zeros(21), side or "right", photograph.depth, box)
            for box, side in zip(boxes, photograph.sides)
        ]

    def predict_records(self, records: Sequence[Record]) -> dict[str, np.ndarray]:
        """Predict the hands of records; their labels are not used.

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
        predictions = predict_crops(nnx.merge(self._graphdef, params, batch_stats), batch)
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


def predict_crops(model: Model, batch: dict) -> dict[str, jax.Array]:
    """Predictions of a model for a batch of crops in uint8; with a camera, also `camera_translation` (B, 3) mm."""
    predictions: dict = dict(model(batch | {"image": as_float(batch["image"])}))
    if "camera" in predictions:
        image_size = batch["image"].shape[1]
        translation = weak_perspective_translation(predictions["camera"], batch["K"], image_size)
        predictions["camera_translation"] = translation
    return predictions


def _concatenate(arrays: list, length: int) -> np.ndarray:
    """Arrays of consecutive batches as one NumPy array, cut to the rows that are no padding."""
    return np.concatenate([np.asarray(array) for array in arrays])[:length]
