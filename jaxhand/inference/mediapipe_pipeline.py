"""MediaPipe's way from a photograph to hands, with the networks in JAX: palms → turned crops → joints → a second look.

hands = Pipeline.load("runs/mediapipe")
found = hands([image])  # (H, W, 3) uint8 RGB each
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from jaxhand import models
from jaxhand.config import Config, UserError
from jaxhand.data.crop import warp
from jaxhand.hand import roi
from jaxhand.hand.placement import place_on_rays
from jaxhand.hand.roi import Roi
from jaxhand.models.mediapipe import CROP, HandReading
from jaxhand.models.palm_detector import SIDE, PalmDetector, overlap, suppress
from jaxhand.training.checkpoint import restore_best
from jaxhand.training.step import as_float

PALM_FOLDER = "palm_detector"  # in the run folder of a converted network
LEAST_PALM = 0.5  # score of a palm that is looked at
FURTHER = 1.3  # an image without palms is looked at once more, this much smaller: its hand may fill it
LEAST_PRESENCE = 0.5  # of a hand in the crop
SAME_HAND = 0.5  # intersection over union of the boxes of two hands above which they are one


class Pipeline:
    """Finds the hands of photographs: their joints in px, in mm, and which hand each is.

    Args:
        hand: the landmark network.
        palm: the palm detector.
        batch_size: how many images or crops go through a network together, at most; a power of two.
        looks: how often each hand is looked at: in the crop of its palm, then in that of the joints found before. The
            joints are the mean of all looks: their errors differ.
    """

    def __init__(self, hand: nnx.Module, palm: nnx.Module, *, batch_size: int = 32, looks: int = 2):
        if batch_size < 1 or batch_size & (batch_size - 1):
            raise UserError(f"batch_size must be a power of two, such as 32, got {batch_size}")
        self.batch_size, self.looks = batch_size, looks
        self._hand, self._palm = _compiled(hand, "read"), _compiled(palm, "__call__")

    @classmethod
    def load(cls, workdir: str | Path, **options) -> "Pipeline":
        """The networks of a run folder that `python -m jaxhand.convert mediapipe` wrote.

        Raises:
            UserError: the folder holds no such run.
        """
        hand = _restored(workdir, models.build)
        palm = _restored(Path(workdir) / PALM_FOLDER, _palm_detector)
        return cls(hand, palm, **options)

    def __call__(self, images: Sequence[np.ndarray], K: Sequence[np.ndarray | None] | None = None) -> list[dict]:
        """Find the hands of photographs.

        Args:
            images: (H, W, 3) uint8 RGB each, of any sizes.
            K: (3, 3) camera of every image, or None where it is not known.

        Returns:
            For every image a dictionary of arrays with one row per hand, the most certain first: `keypoints_2d`
            (N, 21, 2) px of the image · `world` (N, 21, 3) mm around the hand's middle, axes of the image's camera ·
            `score` (N,) how likely there is a hand · `right` (N,) how likely it is a right one · `boxes` (N, 4) around
            the joints. Where K is known also `keypoints_3d` (N, 21, 3) mm in the camera's frame.
        """
        cameras = [None] * len(images) if K is None else K
        palms = self.palms(images)
        owners = [number for number, of_image in enumerate(palms) for _ in of_image]
        rois = [roi.of_palm(palm) for of_image in palms for palm in of_image]
        readings: list[list[dict]] = [[] for _ in owners]  # of every hand, one for each look
        for _ in range(self.looks):
            for history, reading in zip(readings, self.read([images[owner] for owner in owners], rois)):
                history.append(reading)
            kept = [i for i, history in enumerate(readings) if history[-1]["score"] >= LEAST_PRESENCE]
            owners, readings = [owners[i] for i in kept], [readings[i] for i in kept]
            rois = [roi.of_joints(history[-1]["keypoints_2d"]) for history in readings]
        found = [[] for _ in images]
        for owner, history in zip(owners, readings):
            found[owner].append(_mean(history))
        return [_together(_apart(hands), camera) for hands, camera in zip(found, cameras)]

    def palms(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The palms of every image, (n, 9, 2) px of the image: two corners of the box and seven points each."""
        rois = [roi.whole(*image.shape[1::-1]) for image in images]
        found = self._palms(images, rois)
        missing = [i for i, palms in enumerate(found) if not len(palms)]
        further = [dataclasses.replace(rois[i], side=FURTHER * rois[i].side) for i in missing]
        for i, palms in zip(missing, self._palms([images[i] for i in missing], further)):
            found[i] = palms
        return found

    def _palms(self, images: Sequence[np.ndarray], rois: Sequence[Roi]) -> list[np.ndarray]:
        """The palms in the square of each image, as `palms` has them."""
        if not rois:
            return []
        points, scores = self._through(self._palm, images, rois, SIDE)
        found = []
        for square, candidates, likely in zip(rois, points, scores):
            palms, _ = suppress(candidates, likely, least=LEAST_PALM)
            A = square.matrix(SIDE)
            found.append(roi.to_image(palms.reshape(-1, 2), A).reshape(palms.shape))
        return found

    def read(self, images: Sequence[np.ndarray], rois: Sequence[Roi]) -> list[dict]:
        """The hand in the crop of each image: as `__call__`, of one hand, whether or not it is likely one."""
        if not rois:
            return []
        readings = dict(zip(HandReading._fields, self._through(self._hand, images, rois, CROP)))
        found = []
        for i, square in enumerate(rois):
            joints = roi.to_image(readings["pixels"][i], square.matrix(CROP))
            found.append(
                {
                    "keypoints_2d": joints,
                    "world": readings["world"][i] @ square.rotation(),  # R^T of every joint
                    "score": readings["presence"][i],
                    "right": readings["right"][i],
                    "boxes": np.concatenate([joints.min(0), joints.max(0)]),
                }
            )
        return found

    def _through(self, network, images: Sequence[np.ndarray], rois: Sequence[Roi], size: int) -> list[np.ndarray]:
        """What a network returns for the crops of images, in batches whose sizes are powers of two."""
        pieces = []
        for start in range(0, len(rois), self.batch_size):
            rows = range(start, min(start + self.batch_size, len(rois)))
            batch = np.zeros((1 << (len(rows) - 1).bit_length(), size, size, 3), np.uint8)
            for row, i in enumerate(rows):
                cut(images[i], rois[i], batch[row])
            pieces.append([array[: len(rows)] for array in network(batch)])
        return [np.concatenate([np.asarray(array) for array in arrays]) for arrays in zip(*pieces)]


def cut(image: np.ndarray, square: Roi, out: np.ndarray) -> None:
    """Resample the square of an image (H, W, 3) uint8 into `out` (size, size, 3) uint8; black outside of the image."""
    size = len(out)
    warp(image, square.matrix(size), size / square.side, False, out)


def _compiled(network: nnx.Module, method: str):
    """A network as a compiled function of a batch of images in uint8; its parameters are arguments, not constants."""
    graphdef, state = nnx.split(network)
    forward = jax.jit(lambda state, images: getattr(nnx.merge(graphdef, state), method)(as_float(images)))
    return functools.partial(forward, state)


def _restored(workdir: str | Path, build) -> nnx.Module:
    """The network of a run folder, with its parameters."""
    restored = restore_best(workdir)
    graphdef, params, rest = nnx.split(nnx.eval_shape(functools.partial(build, restored.config)), nnx.Param, ...)
    for state, values in ((params, restored.params), (rest, restored.rest)):
        nnx.replace_by_pure_dict(state, values)
    return nnx.merge(graphdef, params, rest)


def _palm_detector(config: Config) -> PalmDetector:
    return PalmDetector(config.model.options["size"], rngs=nnx.Rngs(0))


def _mean(readings: list[dict]) -> dict:
    """A hand from all looks at it: the mean of its joints, presence and side of the last look."""
    joints, world = (np.mean([reading[key] for reading in readings], axis=0) for key in ("keypoints_2d", "world"))
    box = np.concatenate([joints.min(0), joints.max(0)])
    return readings[-1] | {"keypoints_2d": joints, "world": world, "boxes": box}


def _apart(readings: list[dict]) -> list[dict]:
    """The hands of an image, the most certain first; those that overlap a more certain one are left out."""
    kept = []
    for reading in sorted(readings, key=lambda reading: -reading["score"]):
        others = np.reshape([other["boxes"] for other in kept], (-1, 4))
        if not (overlap(reading["boxes"], others) > SAME_HAND).any():
            kept.append(reading)
    return kept


def _together(readings: list[dict], K: np.ndarray | None) -> dict:
    """Hands of an image as arrays with one row per hand, with their places before the camera K where it is known."""
    shapes = {"keypoints_2d": (21, 2), "world": (21, 3), "score": (), "right": (), "boxes": (4,)}
    found = {key: np.reshape([reading[key] for reading in readings], (-1, *shape)) for key, shape in shapes.items()}
    if K is not None:
        K = np.broadcast_to(np.asarray(K, np.float64), (len(readings), 3, 3))
        found["keypoints_3d"] = place_on_rays(found["world"].astype(np.float64), found["keypoints_2d"], K)
    return found
