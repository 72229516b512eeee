"""The default network: every cell of a coarse grid votes for every joint, then the joints look closer and agree.

Nearly all its work is matrix products over 64 to 256 channels, the one thing that every backend does at full speed: a
3x3 convolution is a shift of channel groups to the neighbours and a product, global context a product over the cells.
After the vote every joint looks at a small window around its place at full resolution, tells the other joints, and is
corrected; and again.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxhand.config import Config, ConfigError, ModelConfig
from jaxhand.hand.camera import DEPTH_RANGE_MM, unproject

JOINTS = 21
PATCH = 4  # px, side of a cell of the fine grid; a cell of the coarse grid is twice as wide
WINDOW = 12  # px, side of what a joint sees in a closer look
NEAR = 3.0  # a window's depth is relative to the joint and clipped at DEPTH_RANGE_MM / NEAR
LOOK_WIDTH = 128  # channels of what a joint makes of its window
CROP_MM = 280.0  # width of a crop at the hand's distance, before anything is learned


class Dense(nnx.Module):
    """Colour and depth crops → joints. One network serves both with and without depth.

    Args:
        config: `model.width` channels of the coarse grid (the fine grid has half), number of `model.blocks` on it,
            `data.image_size` a multiple of 8.
        hand: has no place here.
        rngs: draws the parameters.
    """

    loss_terms = ("joints_3d", "joints_2d", "depth", "distance", "size", "guesses")

    def __init__(self, config: Config, hand: None, rngs: nnx.Rngs):
        config, image_size = config.model, config.data.image_size
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
        self.seen = Linear(width, config.joint_width, rngs)
        self.names = nnx.Param(0.5 * jax.random.normal(rngs.params(), (JOINTS, config.joint_width)))
        self.looks = nnx.List([Look(config, rngs) for _ in range(config.looks)])
        self.size_norm = nnx.RMSNorm(config.joint_width, rngs=rngs)
        self.size = Linear(config.joint_width, 1, rngs, scale=0.1)

    def __call__(self, batch: dict, key: jax.Array | None = None) -> dict:
        """Predict joints.

        Args:
            batch: `image` (B,h,w,3) in 0..1, `depth` (B,h,w) in [-1,1], `has_depth` (B,), `depth_center` (B,) mm, `K` (B,3,3).
            key: nothing here is random.

        Returns:
            `keypoints_3d` (B,21,3) mm, camera frame · `keypoints_2d` (B,21,2) px of the crop · the same of the vote
            and every look before the last as `guesses_3d` (B,G,21,3), `guesses_2d` · `root_depth` (B,) mm, the hand's
            distance judged by its size alone.
        """
        return self.read(batch)[0]

    def read(self, batch: dict) -> tuple[dict, jax.Array]:
        """The predictions of a call, and what each joint knows in the end: tokens (B, 21, c)."""
        B, has_depth = batch["image"].shape[0], batch["has_depth"]
        image = jnp.concatenate([batch["image"] * 2 - 1, batch["depth"][..., None]], axis=-1)  # (B, h, w, 4)
        x = self.stem(patches(image, PATCH))  # (B, h/4, w/4, C/2)
        for block in self.fine:
            x = block(x)
        x = self.down(patches(x, 2))  # (B, h/8, w/8, C)
        for mixer, block in zip(self.mixers, self.coarse):
            x = block(mixer(x))
        x = self.norm(x).reshape(B, -1, x.shape[-1])  # (B, T, C)

        joints, weight = self._count(self.votes(x), batch["depth"])  # (B, 21, 3), (B, T, 21)
        tokens = self.seen(jnp.einsum("btj,btc->bjc", weight, x)) + self.names[...]  # (B, 21, c)
        guesses = [joints]
        for look in self.looks:
            tokens, joints = look(tokens, joints, image, has_depth)
            guesses.append(joints)

        side_mm = CROP_MM * jnp.exp(self.size(self.size_norm(tokens).mean(1))[:, 0])  # (B,)
        by_size = batch["K"][:, 0, 0] * side_mm / self.image_size
        distance = jnp.where(has_depth > 0, batch["depth_center"], by_size)
        points, pixels = self._lift(jnp.stack(guesses, axis=1), distance, batch["K"])  # (B, G+1, 21, 3), (…, 2)
        predictions = {
            "keypoints_3d": points[:, -1],
            "keypoints_2d": pixels[:, -1],
            "guesses_3d": points[:, :-1],
            "guesses_2d": pixels[:, :-1],
            "root_depth": by_size,
        }
        return predictions, tokens

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
        """Joints (B, G, 21, 3) in [-1, 1] around the crop, the hand's distance (B,) mm → (B,G,21,3) mm, (B,G,21,2) px."""
        pixels = (joints[..., :2] + 1) * (self.image_size / 2) - 0.5
        z = jnp.maximum(distance[:, None, None] + joints[..., 2] * DEPTH_RANGE_MM, 1.0)
        return unproject(pixels, z, K[:, None]), pixels


class Look(nnx.Module):
    """A closer look: every joint sees a window around its place, all joints exchange it, and each is corrected."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        width = config.joint_width
        self.placed = Linear(3, width, rngs)
        self.seek = Linear(width, LOOK_WIDTH, rngs)
        self.see = Linear(4 * WINDOW**2 + 2, LOOK_WIDTH, rngs, scale=1.4)
        self.tell = Linear(LOOK_WIDTH, width, rngs)
        self.mixers = nnx.List([JointMixer(JOINTS, width, rngs) for _ in range(config.joint_blocks)])
        self.blocks = nnx.List([Block(width, 2 * width, rngs) for _ in range(config.joint_blocks)])
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.correction = Linear(width, 3, rngs, scale=0.03)

    def __call__(self, tokens, joints, image, has_depth):
        """Tokens (B, 21, c), joints (B, 21, 3) in [-1, 1] and the image (B, h, w, 4) → new tokens and joints."""
        window = windows(image, jax.lax.stop_gradient(joints), has_depth)  # (B, 21, 4 * WINDOW^2 + 2)
        tokens = tokens + self.placed(joints)
        tokens = tokens + self.tell(jax.nn.relu(self.see(window) + self.seek(tokens)))
        for mixer, block in zip(self.mixers, self.blocks):
            tokens = block(mixer(tokens))
        return tokens, joints + self.correction(self.norm(tokens))


def windows(image, joints, has_depth):
    """What lies around joints (B, 21, 3) in [-1, 1] of images (B, h, w, 4), with depth relative to the joint.

    Returns:
        (B, 21, 4 * WINDOW^2 + 2): colours, depth (0 where none was measured), and where in its middle pixel a joint is.
    """
    B, side = image.shape[0], image.shape[1]
    place = (joints[..., :2] + 1) * (side / 2)  # from the image's edge, px
    corner = jnp.clip(jnp.round(place), 0, side).astype(jnp.int32)  # of the window in the padded image
    margin = WINDOW // 2
    padded = jnp.pad(image, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    cut = lambda picture, at: jax.lax.dynamic_slice(picture, (at[1], at[0], 0), (WINDOW, WINDOW, 4))  # noqa: E731
    window = jax.vmap(jax.vmap(cut, in_axes=(None, 0)))(padded, corner)  # (B, 21, WINDOW, WINDOW, 4)
    depth = jnp.clip((window[..., 3] - joints[..., 2, None, None]) * NEAR, -1, 1) * has_depth[:, None, None, None]
    parts = (window[..., :3].reshape(B, JOINTS, -1), depth.reshape(B, JOINTS, -1), place - corner)
    return jnp.concatenate(parts, axis=-1)


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
    """Residual product over the cells: every one reads all others, alike in all channels."""

    def __init__(self, tokens: int, width: int, rngs: nnx.Rngs):
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.mix = nnx.Param(0.3 * tokens**-0.5 * jax.random.normal(rngs.params(), (tokens, tokens)))

    def __call__(self, x):
        tokens = self.norm(x).reshape(x.shape[0], -1, x.shape[-1])  # (B, T, C)
        return x + jnp.einsum("btc,ts->bsc", tokens, self.mix[...]).reshape(x.shape)


class JointMixer(nnx.Module):
    """Residual perceptron over the joints, or other tokens, alike in all channels."""

    def __init__(self, tokens: int, width: int, rngs: nnx.Rngs):
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        draw = lambda *shape, scale: nnx.Param(scale * jax.random.normal(rngs.params(), shape))  # noqa: E731
        self.up = draw(tokens, 2 * tokens, scale=tokens**-0.5)
        self.down = draw(2 * tokens, tokens, scale=0.3 * (2 * tokens) ** -0.5)

    def __call__(self, x):
        hidden = jax.nn.relu(jnp.einsum("bjc,jk->bkc", self.norm(x), self.up[...]))  # (B, 2 * tokens, c)
        return x + jnp.einsum("bkc,kj->bjc", hidden, self.down[...])


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
