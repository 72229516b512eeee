"""MediaPipe's way from a photograph to hands, with the networks in JAX: palms → turned crops → joints → a second look.

hands = Pipeline.load("runs/mediapipe")
found = hands([image])  # (H, W, 3) uint8 RGB each
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from jaxhand import config as configs
from jaxhand import models
from jaxhand.config import Config, UserError
from jaxhand.data.crop import warp
from jaxhand.hand import roi
from jaxhand.hand.placement import place_at_distance, place_on_rays
from jaxhand.hand.roi import Roi
from jaxhand.inference.arguments import checked_batch_size
from jaxhand.interop.mediapipe_weights import HAND, PALM, convert_mediapipe
from jaxhand.models.mediapipe import CROP, HandReading, Mediapipe
from jaxhand.models.palm_detector import SIDE, PalmDetector, overlap, suppress
from jaxhand.training.checkpoint import restore_best
from jaxhand.training.step import as_float

RUN = Path("runs/mediapipe")  # `make photographs` writes it
HOW = "jaxhand convert mediapipe writes a run with all networks"
LEAST_PALM = 0.5  # score of a palm that is looked at
FURTHER = 1.3  # an image without palms is looked at once more, this much smaller: its hand may fill it
LEAST_PRESENCE = 0.5  # of a hand in the crop
DISTANCE = {"log_distance": (), "variances": (2,), "prior": (2,)}  # shapes, see `HandReading`; only of some models
SAME_HAND = 0.5  # intersection over union of the boxes of two hands above which they are one


class Pipeline:
    """Finds the hands of photographs: their joints in px, in mm, and which hand each is.

    Args:
        hand: the landmark network.
        palm: the palm detector; None for hands whose boxes are known.
        batch_size: how many images or crops go through a network together, at most, on a GPU or TPU; a power of two.
        looks: how often each hand is looked at: in the crop of its palm, then in that of the joints found before. The
            joints are the mean of all looks: their errors differ.
    """

    def __init__(self, hand: nnx.Module, palm: nnx.Module | None, *, batch_size: int = 32, looks: int = 2):
        batch_size = checked_batch_size(batch_size)
        # A CPU computes the images of a batch one by one: single ones are compiled once, while the next is being cut.
        self.batch_size, self.looks = 1 if jax.default_backend() == "cpu" else batch_size, looks
        self._hand, self._palm = _compiled(hand, "read"), palm and _compiled(palm, "__call__")

    @classmethod
    def load(cls, workdir: str | Path, **options) -> "Pipeline":
        """The networks of a run folder that `jaxhand convert mediapipe` wrote, or of a run that was trained from it.

        A training writes no palm detector: it is then that of the runs it started from, or that of `RUN`.

        Raises:
            UserError: the folder holds no such run.
        """
        restored = restore_best(workdir)
        if not _reads_hands(restored.config):
            raise UserError(f"{workdir} has the model {restored.config.model.name}, not {HAND}'s networks: {HOW}")
        folder = palm_folder(workdir)
        palm = folder and network(palm_detector, restore_best(folder))
        return cls(network(models.build, restored), palm, **options)

    @classmethod
    def convert(cls, source: str | Path, **options) -> "Pipeline":
        """The networks of a source that `jaxhand convert mediapipe` accepts, without a run folder.

        Raises:
            UserError: the source has no such networks.
        """
        found = convert_mediapipe(source)
        palm = network(palm_detector, found[PALM]) if PALM in found else None
        return cls(network(models.build, found[HAND]), palm, **options)

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

        Raises:
            UserError: there is no palm detector.
        """
        cameras = [None] * len(images) if K is None else K
        palms = self.palms(images)
        owners = [number for number, of_image in enumerate(palms) for _ in of_image]
        rois = [roi.of_palm(palm) for of_image in palms for palm in of_image]
        found = [[] for _ in images]
        for owner, hand in zip(owners, self._look([images[owner] for owner in owners], rois, LEAST_PRESENCE)):
            if hand is not None:
                found[owner].append(hand)
        return [_together(_apart(hands), camera) for hands, camera in zip(found, cameras)]

    def in_boxes(self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> list[dict]:
        """Read the hands in known boxes, whether or not there are hands.

        Args:
            images: (H, W, 3) uint8 RGB each.
            boxes: (n, 4) of every image, x0, y0, x1, y1 px around the joints.

        Returns:
            As `__call__` without K; rows in the order of the boxes.
        """
        owners = [number for number, of_image in enumerate(boxes) for _ in of_image]
        of_hand = [images[owner] for owner in owners]
        upright = self.read(of_hand, [roi.of_box(box) for of_image in boxes for box in of_image])
        rois = [roi.of_joints(reading["keypoints_2d"]) for reading in upright]  # the hand may lean
        found = [[] for _ in images]
        for owner, hand in zip(owners, self._look(of_hand, rois, 0.0)):
            found[owner].append(hand)
        return [_together(hands, None) for hands in found]

    def _look(self, images: Sequence[np.ndarray], rois: Sequence[Roi], least: float) -> list[dict | None]:
        """The hand in the crop of each image, the mean of all looks; None where a look has a presence below `least`."""
        readings = [[] for _ in rois]  # of every hand, one for each look
        kept = list(range(len(rois)))
        rois = list(rois)
        for _ in range(self.looks):
            for i, reading in zip(kept, self.read([images[i] for i in kept], [rois[i] for i in kept])):
                readings[i].append(reading)
                rois[i] = roi.of_joints(reading["keypoints_2d"])
            kept = [i for i in kept if readings[i][-1]["score"] >= least]
        return [_mean(history) if i in kept else None for i, history in enumerate(readings)]

    def palms(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The palms of every image, (n, 9, 2) px of the image: two corners of the box and seven points each."""
        if self._palm is None:
            raise UserError(f"this run has no palm detector: give boxes, or a --detector. {HOW}")
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
            if readings["log_distance"] is not None:
                zoom = np.log(CROP / square.side)  # focal length of the crop / that of the image
                found[-1] |= {key: readings[key][i] for key in DISTANCE}
                found[-1]["log_distance"] += zoom
        return found

    def _through(self, network, images: Sequence[np.ndarray], rois: Sequence[Roi], size: int) -> list:
        """What a network returns for the crops of images, in batches of powers of two: arrays, or None as it does."""
        pieces = []
        for start in range(0, len(rois), self.batch_size):
            rows = range(start, min(start + self.batch_size, len(rois)))
            batch = np.zeros((1 << (len(rows) - 1).bit_length(), size, size, 3), np.uint8)
            for row, i in enumerate(rows):
                cut(images[i], rois[i], batch[row])
            pieces.append(network(batch))  # computed while the next batch is cut
        join = lambda arrays: np.concatenate([np.asarray(array) for array in arrays])[: len(rois)]  # noqa: E731
        return [None if arrays[0] is None else join(arrays) for arrays in zip(*pieces)]


def has_networks(workdir: str | Path) -> bool:
    """Whether a run folder has MediaPipe's networks: converted ones, or those of a training on their crops."""
    path = Path(workdir) / "config.yaml"
    if not path.is_file():
        return False
    config = configs.load(path)
    return _reads_hands(config) and (path.with_name(PALM).is_dir() or config.data.crop_rule == HAND)


def _reads_hands(config: Config) -> bool:
    """Whether the model of a config has MediaPipe's heads; ImageNet's backbone does not bring them."""
    model_class = models.find(config.model.name)
    has_heads = isinstance(model_class, type) and issubclass(model_class, Mediapipe)
    return has_heads and config.model.options.get("size") != "lite0"


def _starts(workdir: str | Path) -> Iterator[Path]:
    """Yield a run folder, the one that its training started from, and so on; then `RUN`."""
    folder, seen = str(workdir), set()
    while folder and folder not in seen:
        seen.add(folder)
        yield Path(folder)
        path = Path(folder) / "config.yaml"
        folder = configs.load(path).training.init_from if path.is_file() else ""
    yield RUN


def cut(image: np.ndarray, square: Roi, out: np.ndarray) -> None:
    """Resample the square of an image (H, W, 3) uint8 into `out` (size, size, 3) uint8; black outside of the image."""
    size = len(out)
    warp(image, square.matrix(size), size / square.side, False, out)


def _compiled(network: nnx.Module, method: str):
    """A network as a compiled function of a batch of images in uint8; its parameters are arguments, not constants."""
    graphdef, state = nnx.split(network)
    forward = jax.jit(lambda state, images: getattr(nnx.merge(graphdef, state), method)(as_float(images)))
    return functools.partial(forward, state)


def palm_folder(workdir: str | Path) -> Path | None:
    """The folder of the palm detector for a run; None where there is none.

    It is inside the run, inside the run that its training started from, and so on, or inside `RUN`.
    """
    return next((folder / PALM for folder in _starts(workdir) if (folder / PALM).is_dir()), None)


def network(build, found) -> nnx.Module:
    """A network with the parameters of a run or of a converted file, which both have a `config` and `params`."""
    graphdef, params, rest = nnx.split(nnx.eval_shape(functools.partial(build, found.config)), nnx.Param, ...)
    nnx.replace_by_pure_dict(params, found.params)
    return nnx.merge(graphdef, params, rest)


def palm_detector(config: Config) -> PalmDetector:
    """The palm detector of the config of its run."""
    return PalmDetector(config.model.options["size"], rngs=nnx.Rngs(0))


def _mean(readings: list[dict]) -> dict:
    """A hand from all looks at it: the mean of its joints, presence and side of the last look."""
    averaged = [key for key in ("keypoints_2d", "world", "log_distance") if key in readings[0]]
    mean = {key: np.mean([reading[key] for reading in readings], axis=0) for key in averaged}
    joints = mean["keypoints_2d"]
    return readings[-1] | mean | {"boxes": np.concatenate([joints.min(0), joints.max(0)])}


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
    shapes |= {key: shape for key, shape in DISTANCE.items() if readings and key in readings[0]}
    found = {key: np.reshape([reading[key] for reading in readings], (-1, *shape)) for key, shape in shapes.items()}
    if K is not None:
        K = np.broadcast_to(np.asarray(K, np.float64), (len(readings), 3, 3))
        found["keypoints_3d"] = placed(found, K)
    return found


def placed(found: dict, K: np.ndarray) -> np.ndarray:
    """Place hands, as `Pipeline` found them, in front of cameras K (N, 3, 3): (N, 21, 3) mm."""
    joints = found["world"].astype(np.float64), found["keypoints_2d"], K
    if "log_distance" in found:
        return place_at_distance(*joints, *(found[key].astype(np.float64) for key in DISTANCE))
    return place_on_rays(*joints)
