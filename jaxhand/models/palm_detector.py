"""MediaPipe's palm detector (Zhang et al., "MediaPipe Hands", 2020): a single-shot detector of palms in a square image.

It detects palms, not hands: a palm is rigid and nearly square, so square boxes are sufficient.
The command `jaxhand convert mediapipe` converts the weights.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxhand.config import ConfigError
from jaxhand.models.depthwise import each_image
from jaxhand.models.efficientnet_lite import Conv, Depthwise, Pointwise, max_pool

SIDE = 192  # side of the image, px
BLOCKS = {"full": 4, "lite": 3}  # number of residual blocks per stage that do not change the size of the map
WIDTHS = (32, 64, 128, 256, 256)  # channels of each stage; the sides of the maps are 96, 48, 24, 12 and 6 cells
BLOCKS_UP = 2  # number of residual blocks after each upsampling
CELLS = ((8, 2), (16, 6))  # (side of a cell in px, number of anchors per cell) of the two output maps
POINTS = 9  # points per palm: 2 corners of its box, wrist, bases of index, middle, ring, little finger, 2 of the thumb
WRIST, MIDDLE_BASE = 2, 4  # indices of these points
MOST_OVERLAP = 0.3  # MediaPipe's limit on the intersection over union of the boxes of two palms


class Palms(NamedTuple):
    """Candidate palms, one for each of the 2016 anchors of an image."""

    points: jax.Array  # (B, 2016, 9, 2) px of the image, integers are pixel centres
    scores: jax.Array  # (B, 2016) 0 to 1


class PalmDetector(nnx.Module):
    """Image → candidate palms.

    Args:
        size: "full" or "lite".
        rngs: draws the parameters.

    Raises:
        ConfigError: the size is unknown.
    """

    def __init__(self, size: str, *, rngs: nnx.Rngs):
        if size not in BLOCKS:
            raise ConfigError(f"the size of the palm detector must be one of {', '.join(BLOCKS)}, got {size!r}")
        self.stem = Conv(5, 3, WIDTHS[0], stride=2, rngs=rngs)
        self.stem_slope = Slope(WIDTHS[0])
        stages, inputs = [], WIDTHS[0]
        for number, width in enumerate(WIDTHS):
            strided = [Residual(inputs, width, stride=2, rngs=rngs)] if number else []
            stages.append(nnx.List(strided + [Residual(width, width, rngs=rngs) for _ in range(BLOCKS[size])]))
            inputs = width
        self.stages = nnx.List(stages)
        (fine, fine_boxes), (coarse, coarse_boxes) = zip((WIDTHS[2], WIDTHS[3]), (boxes for _, boxes in CELLS))
        self.up_coarse = Up(WIDTHS[4], coarse, rngs=rngs)
        self.scores_coarse = Pointwise(coarse, coarse_boxes, rngs=rngs)
        self.boxes_coarse = Pointwise(coarse, coarse_boxes * 2 * POINTS, rngs=rngs)
        self.up_fine = Up(coarse, fine, rngs=rngs)
        self.scores_fine = Pointwise(fine, fine_boxes, rngs=rngs)
        self.boxes_fine = Pointwise(fine, fine_boxes * 2 * POINTS, rngs=rngs)

    def __call__(self, image: jax.Array) -> Palms:
        """Image (B, 192, 192, 3) in 0..1 → candidate palms."""
        return decode(*self.read(image))

    def read(self, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Image (B, 192, 192, 3) in 0..1 → arguments of `decode`: boxes and points (B, 2016, 18), logits (B, 2016)."""
        return each_image(self._numbers, image)

    def _numbers(self, image):
        x = self.stem_slope(self.stem(image))
        maps = []
        for stage in self.stages:
            for block in stage:
                x = block(x)
            maps.append(x)
        coarse = self.up_coarse(x, maps[3])  # (B, 12, 12, 256)
        fine = self.up_fine(coarse, maps[2])  # (B, 24, 24, 128)
        B = image.shape[0]
        numbers = [boxes.reshape(B, -1, 2 * POINTS) for boxes in (self.boxes_fine(fine), self.boxes_coarse(coarse))]
        logits = [scores.reshape(B, -1) for scores in (self.scores_fine(fine), self.scores_coarse(coarse))]
        return jnp.concatenate(numbers, 1), jnp.concatenate(logits, 1)


class Residual(nnx.Module):
    """Residual block: depthwise 5x5, then 1x1 convolution. Max pooling and zero padding fit the shortcut's size."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, rngs: nnx.Rngs):
        self.depthwise = Depthwise(5, inputs, stride, rngs=rngs)
        self.project = Pointwise(inputs, outputs, rngs=rngs)
        self.slope = Slope(outputs)
        self.stride, self.wider = stride, outputs - inputs

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, inputs) → (B, H / stride, W / stride, outputs)."""
        shortcut = x if self.stride == 1 else max_pool(x)
        if self.wider:
            shortcut = jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (0, self.wider)))
        return self.slope(shortcut + self.project(self.depthwise(x)))


class Up(nnx.Module):
    """Upsample a coarse map by 2, add the backbone's map of the new size, then apply residual blocks."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.project = Pointwise(inputs, outputs, rngs=rngs)
        self.slope = Slope(outputs)
        self.blocks = nnx.List([Residual(outputs, outputs, rngs=rngs) for _ in range(BLOCKS_UP)])

    def __call__(self, x: jax.Array, fine: jax.Array) -> jax.Array:
        """(B, H, W, inputs) and (B, 2H, 2W, outputs) → (B, 2H, 2W, outputs)."""
        x = jax.image.resize(x, (*fine.shape[:3], x.shape[-1]), "bilinear")
        x = fine + self.slope(self.project(x))
        for block in self.blocks:
            x = block(x)
        return x


class Slope(nnx.Module):
    """PReLU (He et al. 2015): each channel has a learned slope for negative inputs."""

    def __init__(self, channels: int):
        self.slope = nnx.Param(jnp.full(channels, 0.25))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., C) → (..., C)."""
        return jnp.maximum(x, 0) + self.slope[...] * jnp.minimum(x, 0)


def decode(numbers: jax.Array, logits: jax.Array) -> Palms:
    """Raw outputs of the network, (B, 2016, 18) px and logits (B, 2016) → candidate palms.

    The 18 numbers of an anchor are the centre of the box relative to the anchor, width and height of the box, and seven
    points relative to the anchor.
    """
    numbers = numbers.reshape(*numbers.shape[:-1], POINTS, 2)
    around = jnp.asarray(anchors())[:, None]  # (2016, 1, 2)
    center, half = numbers[..., :1, :] + around, numbers[..., 1:2, :] / 2
    points = jnp.concatenate([center - half, center + half, numbers[..., 2:, :] + around], -2)
    # MediaPipe's origin is the corner of the first pixel, ours is its centre
    return Palms(points - 0.5, jax.nn.sigmoid(logits))


@functools.cache
def anchors() -> np.ndarray:
    """Anchors (2016, 2) px: centres of 24x24 cells with two anchors each, then of 12x12 cells with six each."""
    rows = []
    for cell, boxes in CELLS:
        middles = np.arange(SIDE // cell, dtype=np.float32) * cell + cell / 2
        y, x = np.meshgrid(middles, middles, indexing="ij")
        rows.append(np.repeat(np.stack([x, y], -1).reshape(-1, 2), boxes, axis=0))
    return np.concatenate(rows)


def suppress(points: np.ndarray, scores: np.ndarray, *, least: float) -> tuple[np.ndarray, np.ndarray]:
    """MediaPipe's weighted non-maximum suppression: overlapping candidates are averaged to one palm.

    Args:
        points: (n, 9, 2) px, candidates of one image.
        scores: (n,).
        least: candidates with a lower score are not used.

    Returns:
        Palms (m, 9, 2) px, each the mean of candidates, weighted by their scores; and the best score of each palm,
        (m,). The palm with the best score is first.
    """
    likely = np.flatnonzero(scores >= least)
    likely = likely[np.argsort(-scores[likely], kind="stable")]
    points, scores = points[likely], scores[likely]
    palms, best = [np.zeros((0, POINTS, 2), points.dtype)], []
    while len(scores):
        same = overlap(points[0, :2].reshape(4), points[:, :2].reshape(-1, 4)) > MOST_OVERLAP
        same[0] = True
        palms.append(np.average(points[same], axis=0, weights=scores[same])[None])
        best.append(scores[0])
        points, scores = points[~same], scores[~same]
    return np.concatenate(palms), np.array(best, np.float32)


def overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of a box (4,) x0, y0, x1, y1 with boxes (n, 4): (n,)."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])  # (n, 2)
    both = np.prod(np.maximum(sides, 0), axis=1)
    areas = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    return both / np.maximum(np.prod(np.maximum(box[2:] - box[:2], 0)) + areas - both, 1e-9)
