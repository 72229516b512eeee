"""The default network: every cell of a coarse grid votes for every joint, then the joints correct each other.

All its work is matrix products over 64 to 256 channels, the one thing that every backend does at full speed: a 3x3
convolution is a shift of channel groups to the neighbours and a product, global context is a product over the cells.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxhand.config import ConfigError, ModelConfig
from jaxhand.hand.camera import DEPTH_RANGE_MM, unproject

JOINTS = 21
PATCH = 4  # px, side of a cell of the fine grid; a cell of the coarse grid is twice as wide
CROP_MM = 280.0  # width of a crop at the hand's distance, before anything is learned


class Dense(nnx.Module):
    """Colour and depth crops → joints. One network serves both with and without depth.

    Args:
        config: `width` channels of the coarse grid (the fine grid has half), number of `blocks` on it.
        image_size: side of the crop in px, a multiple of 8.
        rngs: draws the parameters.
    """

    def __init__(self, config: ModelConfig, image_size: int, rngs: nnx.Rngs):
        if image_size % (2 * PATCH) or image_size < 4 * PATCH:
            raise ConfigError(f"data.image_size must be a multiple of {2 * PATCH} for model 'dense', got {image_size}")
        self.image_size, width, fine = image_size, config.width, config.width // 2
        cells = (image_size // (2 * PATCH)) ** 2
        self.stem = Linear(4 * PATCH**2, fine, rngs)
        self.fine = nnx.List([ShiftBlock(fine, config.expansion * fine, rngs) for _ in range(config.fine_blocks)])
        self.down = Linear(4 * fine, width, rngs)
        self.mixers = nnx.List([Mixer(cells, width, rngs) for _ in range(config.blocks)])
        self.coarse = nnx.List([ShiftBlock(width, config.expansion * width, rngs) for _ in range(config.blocks)])
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.votes = Linear(width, JOINTS * 4, rngs, scale=0.1)
        self.joints = JointHead(width, config, rngs)

    def __call__(self, batch: dict) -> dict:
        """Predict joints.

        Args:
            batch: `image` (B,h,w,3) in 0..1, `depth` (B,h,w) in [-1,1], `has_depth` (B,), `depth_center` (B,) mm, `K` (B,3,3).

        Returns:
            `keypoints_3d` (B,21,3) mm, camera frame · `keypoints_2d` (B,21,2) px of the crop · the same by the votes
            alone as `voted_3d`, `voted_2d` · `root_depth` (B,) mm, the hand's distance judged by its size alone.
        """
        B = batch["image"].shape[0]
        x = jnp.concatenate([batch["image"] * 2 - 1, batch["depth"][..., None]], axis=-1)  # (B, h, w, 4)
        x = self.stem(patches(x, PATCH))  # (B, h/4, w/4, C/2)
        for block in self.fine:
            x = block(x)
        x = self.down(patches(x, 2))  # (B, h/8, w/8, C)
        for mixer, block in zip(self.mixers, self.coarse):
            x = block(mixer(x))
        x = self.norm(x).reshape(B, -1, x.shape[-1])  # (B, T, C)

        voted, weight = self._count(self.votes(x), batch["depth"])  # (B, 21, 3), (B, T, 21)
        corrected, side_mm = self.joints(jnp.einsum("btj,btc->bjc", weight, x), voted)
        by_size = batch["K"][:, 0, 0] * side_mm / self.image_size  # (B,) mm
        distance = jnp.where(batch["has_depth"] > 0, batch["depth_center"], by_size)
        voted_3d, voted_2d = self._lift(voted, distance, batch["K"])
        keypoints_3d, keypoints_2d = self._lift(corrected, distance, batch["K"])
        return {
            "keypoints_3d": keypoints_3d,
            "keypoints_2d": keypoints_2d,
            "voted_3d": voted_3d,
            "voted_2d": voted_2d,
            "root_depth": by_size,
        }

    def _count(self, votes, depth):
        """Votes (B, T, 21*4) and the depth image → joints (B, 21, 3) in [-1, 1] around the crop, weights (B, T, 21)."""
        B, T, _ = votes.shape
        grid, cell = self.image_size // (2 * PATCH), 2 * PATCH
        logits, x, y, z = jnp.moveaxis(votes.reshape(B, T, 4, JOINTS), 2, 0)  # (B, T, 21) each
        weight = jax.nn.softmax(logits, axis=1)
        middle = (jnp.arange(grid) + 0.5) * 2 / grid - 1
        cell_x, cell_y = (middles.reshape(T, 1) for middles in jnp.meshgrid(middle, middle))
        measured = depth.reshape(B, grid, cell, grid, cell).mean((2, 4)).reshape(B, T, 1)
        places = (cell_x + x, cell_y + y, measured + z)
        return jnp.stack([(weight * place).sum(1) for place in places], axis=-1), weight

    def _lift(self, joints, distance, K):
        """Joints (B, 21, 3) in [-1, 1] around the crop and the hand's distance (B,) mm → (B,21,3) mm, (B,21,2) px."""
        pixels = (joints[..., :2] + 1) * (self.image_size / 2) - 0.5
        z = jnp.maximum(distance[:, None] + joints[..., 2] * DEPTH_RANGE_MM, 1.0)
        return unproject(pixels, z, K), pixels


class JointHead(nnx.Module):
    """The joints as 21 tokens: what each saw where it was voted to be, mixed with all others, corrects its place."""

    def __init__(self, features: int, config: ModelConfig, rngs: nnx.Rngs):
        width = config.joint_width
        self.seen = Linear(features, width, rngs)
        self.placed = Linear(3, width, rngs)
        self.names = nnx.Param(0.5 * jax.random.normal(rngs.params(), (JOINTS, width)))
        self.mixers = nnx.List([Mixer(JOINTS, width, rngs) for _ in range(config.joint_blocks)])
        self.blocks = nnx.List([Block(width, 2 * width, rngs) for _ in range(config.joint_blocks)])
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.correction = Linear(width, 3, rngs, scale=0.03)
        self.size = Linear(width, 1, rngs, scale=0.1)

    def __call__(self, seen, voted):
        """Features (B, 21, C) and places (B, 21, 3) → corrected places (B, 21, 3), width of the crop (B,) in mm."""
        x = self.seen(seen) + self.placed(voted) + self.names[...]
        for mixer, block in zip(self.mixers, self.blocks):
            x = block(mixer(x))
        x = self.norm(x)
        return voted + self.correction(x), CROP_MM * jnp.exp(self.size(x.mean(1))[:, 0])


class Block(nnx.Module):
    """Residual two-layer perceptron on the channels."""

    def __init__(self, width: int, hidden: int, rngs: nnx.Rngs):
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.up = Linear(width, hidden, rngs, scale=1.4)
        self.down = Linear(hidden, width, rngs, scale=0.3)

    def __call__(self, x):
        return x + self.down(jax.nn.relu(self.up(self.norm(x))))


class ShiftBlock(Block):
    """A `Block` that reads a fifth of its channels from each neighbour cell and a fifth from its own."""

    def __call__(self, x):
        return x + self.down(jax.nn.relu(self.up(shift(self.norm(x)))))


class Mixer(nnx.Module):
    """Residual product over the cells (or joints): every one reads all others, alike in all channels."""

    def __init__(self, tokens: int, width: int, rngs: nnx.Rngs):
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.mix = nnx.Param(0.3 * tokens**-0.5 * jax.random.normal(rngs.params(), (tokens, tokens)))

    def __call__(self, x):
        tokens = self.norm(x).reshape(x.shape[0], -1, x.shape[-1])  # (B, T, C)
        return x + jnp.einsum("btc,ts->bsc", tokens, self.mix[...]).reshape(x.shape)


class Linear(nnx.Linear):
    """A product over the last axis. Flat rows: XLA:CPU takes the weight's gradient 1.5 times faster than over (B, h, w)."""

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs, scale: float = 1.0):
        spread = jax.nn.initializers.variance_scaling(scale**2, "fan_in", "normal")
        super().__init__(inputs, outputs, kernel_init=spread, rngs=rngs)

    def __call__(self, x):
        return super().__call__(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], self.out_features)


def patches(x, side: int):
    """(B, h, w, C) → (B, h/side, w/side, side*side*C)."""
    B, h, w, C = x.shape
    x = x.reshape(B, h // side, side, w // side, side, C).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(B, h // side, w // side, side * side * C)


def shift(x):
    """Move four fifths of the channels of (B, h, w, C) by one cell, a fifth in each direction; zeros come in."""
    C, h, w = x.shape[-1], *x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    corners = ((1, 1), (2, 1), (0, 1), (1, 2), (1, 0))
    return jnp.concatenate(
        [padded[:, i : i + h, j : j + w, C * k // 5 : C * (k + 1) // 5] for k, (i, j) in enumerate(corners)], axis=-1
    )
