"""MediaPipe's palm detector (Zhang et al., "MediaPipe Hands", 2020): a single-shot detector of palms in a square image.

It looks for palms and not for hands: a palm is rigid and nearly square, so that boxes of one shape suffice.
Weights: `python -m jaxhand.convert mediapipe`.
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

SIDE = 192  # px of the image
BLOCKS = {"full": 4, "lite": 3}  # of every stage that keep its map's size
WIDTHS = (32, 64, 128, 256, 256)  # channels of the maps of 96, 48, 24, 12 and 6 cells along a side
BLOCKS_UP = 2  # after each step back to a finer map
CELLS = ((8, 2), (16, 6))  # width in px of the cells that have anchors, and how many
POINTS = 9  # of a palm: two corners of its box, wrist, bases of index, middle, ring and little finger, two of the thumb
WRIST, MIDDLE_BASE = 2, 4  # among the points
MOST_OVERLAP = 0.3  # intersection over union of two palms above which they are one; MediaPipe's


class Palms(NamedTuple):
    """Candidates, one for each of the 2016 anchors of an image."""

    points: jax.Array  # (B, 2016, 9, 2) px of the image, integers are pixel centres
    scores: jax.Array  # (B, 2016) 0 to 1


class PalmDetector(nnx.Module):
    """Image → candidates for palms.

    Args:
        size: "full" or "lite".
        rngs: draws the parameters.

    Raises:
        ConfigError: the size is unknown.
    """

    def __init__(self, size: str, *, rngs: nnx.Rngs):
        if size not in BLOCKS:
            raise ConfigError(f"size of the palm detector must be one of {', '.join(BLOCKS)}, got {size!r}")
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
        """(B, 192, 192, 3) in 0..1 → candidates."""
        return decode(*self.read(image))

    def read(self, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(B, 192, 192, 3) in 0..1 → the network's numbers (B, 2016, 18) and logits (B, 2016), for `decode`."""
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
        B = len(image)
        numbers = [boxes.reshape(B, -1, 2 * POINTS) for boxes in (self.boxes_fine(fine), self.boxes_coarse(coarse))]
        logits = [scores.reshape(B, -1) for scores in (self.scores_fine(fine), self.scores_coarse(coarse))]
        return jnp.concatenate(numbers, 1), jnp.concatenate(logits, 1)


class Residual(nnx.Module):
    """Depthwise 5x5 and 1x1 convolution, plus the input; where strided, plus its max pooling and channels of zeros."""

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
    """A coarse map made twice as fine, plus the backbone's map of that size."""

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
    """PReLU (He et al. 2015): every channel has its own slope below zero."""

    def __init__(self, channels: int):
        self.slope = nnx.Param(jnp.full(channels, 0.25))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., C) → (..., C)."""
        return jnp.maximum(x, 0) + self.slope[...] * jnp.minimum(x, 0)


def decode(numbers: jax.Array, logits: jax.Array) -> Palms:
    """The network's numbers (B, 2016, 18) px and logits (B, 2016) → candidates.

    The numbers of an anchor are the box's centre from the anchor, its extent, and seven points from the anchor.
    """
    numbers = numbers.reshape(*numbers.shape[:-1], POINTS, 2)
    around = jnp.asarray(anchors())[:, None]  # (2016, 1, 2)
    center, half = numbers[..., :1, :] + around, numbers[..., 1:2, :] / 2
    points = jnp.concatenate([center - half, center + half, numbers[..., 2:, :] + around], -2)
    return Palms(points - 0.5, jax.nn.sigmoid(logits))  # MediaPipe counts from the corner of the first pixel


@functools.cache
def anchors() -> np.ndarray:
    """The middles of the cells that candidates start from, (2016, 2) px: 24x24 cells with 2, then 12x12 with 6."""
    rows = []
    for cell, boxes in CELLS:
        middles = np.arange(SIDE // cell, dtype=np.float32) * cell + cell / 2
        y, x = np.meshgrid(middles, middles, indexing="ij")
        rows.append(np.repeat(np.stack([x, y], -1).reshape(-1, 2), boxes, axis=0))
    return np.concatenate(rows)


def suppress(points: np.ndarray, scores: np.ndarray, *, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Weighted non-maximum suppression, as MediaPipe has it: candidates that overlap the best are averaged with it.

    Args:
        points: (n, 9, 2), of one image.
        scores: (n,).
        least: candidates of a lower score are left out.

    Returns:
        Palms (m, 9, 2), means weighted by the scores, and the best score of each, (m,); the best first.
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
