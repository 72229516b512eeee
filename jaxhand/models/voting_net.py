"""The default network, `model.name=dense`: patches of the image vote for 21 joints, then each joint is refined.

Every cell of a coarse grid votes for the position of every joint. Refinement stages then use a small window of the
image around each joint, at full resolution. They exchange the features of all joints with an MLP, and correct each
joint.

Nearly all operations are matrix products over 64 to 256 channels, because every backend runs these at full speed.
Instead of a 3x3 convolution, groups of channels are shifted to the neighbour cells before a matrix product. A matrix
product over the cells adds global context.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxhand.config import Config, ConfigError, ModelConfig
from jaxhand.hand.camera import DEPTH_RANGE_MM, unproject
from jaxhand.models.contract import Predictions
from jaxhand.models.layers import (
    NUM_KEYPOINTS,
    Linear,
    MlpBlock,
    ShiftMlpBlock,
    TokenMixer,
    TokenMlp,
    normal_param,
    patchify,
)
from jaxhand.models.preprocess import CROP_MM, relative_depth

PATCH = 4  # side of a cell of the fine grid, px; a cell of the coarse grid is twice as wide
WINDOW = 12  # side of the window around each joint that a refinement stage uses, px
WINDOW_FEATURES = 128  # number of channels of the features of a window


class VotingNet(nnx.Module):
    """RGB and depth crops → joints. The same weights work with and without depth.

    Args:
        config: the config. Used: `model.width` (channels of the coarse grid; the fine grid has half as many),
            `model.blocks` (number of blocks on the coarse grid), `model.looks` (number of refinement stages), other
            sizes of `model`, `model.dtype` (type of the matrix products between input and output layers), and
            `data.image_size`, a multiple of 8.
        hand_model: not used.
        rngs: draws the parameters.

    Raises:
        ConfigError: the image size is not a multiple of 8, or is too small.
    """

    has_mesh = False
    loss_terms = ("joints_3d", "joints_2d", "depth", "distance", "size", "guesses")

    def __init__(self, config: Config, hand_model: None, rngs: nnx.Rngs):
        settings, image_size = config.model, config.data.image_size
        if image_size % (2 * PATCH) or image_size < 4 * PATCH:
            sizes = f"a multiple of {2 * PATCH}, at least {4 * PATCH},"
            raise ConfigError(f"data.image_size must be {sizes} for model {settings.name!r}, got {image_size}")
        self.image_size, width, fine = image_size, settings.width, settings.width // 2
        cells, dtype = (image_size // (2 * PATCH)) ** 2, settings.dtype
        self.stem = Linear(4 * PATCH**2, fine, rngs)
        expansion = settings.expansion
        self.fine = nnx.List([ShiftMlpBlock(fine, expansion * fine, rngs, dtype) for _ in range(settings.fine_blocks)])
        self.down = Linear(4 * fine, width, rngs)
        self.mixers = nnx.List([TokenMixer(cells, width, rngs, dtype) for _ in range(settings.blocks)])
        self.coarse = nnx.List([ShiftMlpBlock(width, expansion * width, rngs, dtype) for _ in range(settings.blocks)])
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.votes = Linear(width, NUM_KEYPOINTS * 4, rngs, scale=0.1)
        self.seen = Linear(width, settings.joint_width, rngs)  # grid features → joint features
        self.names = normal_param(rngs, (NUM_KEYPOINTS, settings.joint_width), 0.5)  # joint embedding
        self.looks = nnx.List([RefinementStage(settings, rngs) for _ in range(settings.looks)])
        self.size_norm = nnx.RMSNorm(settings.joint_width, rngs=rngs)
        # Log of (width of the crop at the hand's distance / CROP_MM)
        self.size = Linear(settings.joint_width, 1, rngs, scale=0.1)

    def __call__(self, batch: dict, key: jax.Array | None = None) -> Predictions:
        """Predict joints.

        Args:
            batch: `image` (B,h,w,3) in 0..1, `depth` (B,h,w) in [-1,1], `has_depth` (B,), `depth_center` (B,) mm,
                `K` (B,3,3).
            key: not used; the network has no random operations.

        Returns:
            `keypoints_3d` (B,21,3) mm, camera frame · `keypoints_2d` (B,21,2) px of the crop · `guesses_3d` (B,G,21,3)
            mm and `guesses_2d` (B,G,21,2) px, the joints after the vote and after every refinement stage except the
            last · `root_depth` (B,) mm, the hand's distance estimated without depth.
        """
        return self.predict_with_features(batch)[0]

    def predict_with_features(self, batch: dict) -> tuple[Predictions, jax.Array]:
        """Predict joints, as `__call__`; returns the predictions and the final features of the joints (B, 21, c)."""
        B, has_depth = batch["image"].shape[0], batch["has_depth"]
        image = jnp.concatenate([batch["image"] * 2 - 1, batch["depth"][..., None]], axis=-1)  # (B, h, w, 4)
        x = self.stem(patchify(image, PATCH))  # (B, h/4, w/4, C/2)
        for block in self.fine:
            x = block(x)
        x = self.down(patchify(x, 2))  # (B, h/8, w/8, C)
        for mixer, block in zip(self.mixers, self.coarse):
            x = block(mixer(x))
        x = self.norm(x).reshape(B, -1, x.shape[-1])  # (B, T, C)

        joints, weight = self._aggregate_votes(self.votes(x), batch["depth"])  # (B, 21, 3), (B, T, 21)
        features = self.seen(jnp.einsum("btj,btc->bjc", weight, x)) + self.names[...]  # (B, 21, c)
        stages = [joints]
        for stage in self.looks:
            features, joints = stage(features, joints, image, has_depth)
            stages.append(joints)

        crop_mm = CROP_MM * jnp.exp(self.size(self.size_norm(features).mean(1))[:, 0])  # (B,)
        estimated = batch["K"][:, 0, 0] * crop_mm / self.image_size  # (B,) mm
        distance = jnp.where(has_depth > 0, batch["depth_center"], estimated)
        points, pixels = self._unproject(jnp.stack(stages, axis=1), distance, batch["K"])  # (B, G+1, 21, 3), (…, 2)
        predictions: Predictions = {
            "keypoints_3d": points[:, -1],
            "keypoints_2d": pixels[:, -1],
            "guesses_3d": points[:, :-1],
            "guesses_2d": pixels[:, :-1],
            "root_depth": estimated,
        }
        return predictions, features

    def _aggregate_votes(self, votes, depth):
        """Average the votes of all cells, weighted by a softmax over the cells.

        Args:
            votes: (B, T, 4*21), for each cell and joint a logit and the joint's offset x, y, z from the cell.
            depth: (B, h, w) depth relative to the hand. The offset z is relative to the mean depth of the cell.

        Returns:
            Joints (B, 21, 3) in crop coordinates, [-1, 1], and the weights of the cells (B, T, 21).
        """
        B, T, _ = votes.shape
        grid, cell = self.image_size // (2 * PATCH), 2 * PATCH
        logits, x, y, z = jnp.moveaxis(votes.reshape(B, T, 4, NUM_KEYPOINTS), 2, 0)  # (B, T, 21) each
        weight = jax.nn.softmax(logits, axis=1)
        centers = (jnp.arange(grid) + 0.5) * 2 / grid - 1  # (h/8,)
        cell_x, cell_y = (center.reshape(T, 1) for center in jnp.meshgrid(centers, centers))
        cell_z = depth.reshape(B, grid, cell, grid, cell).mean((2, 4)).reshape(B, T, 1)
        votes_xyz = (cell_x + x, cell_y + y, cell_z + z)  # (B, T, 21) each
        return jnp.stack([(weight * vote).sum(1) for vote in votes_xyz], axis=-1), weight

    def _unproject(self, joints, distance, K):
        """Convert joints from crop coordinates to the camera frame and to pixels.

        Args:
            joints: (B, G, 21, 3) in crop coordinates, [-1, 1].
            distance: (B,) mm, distance of the hand.
            K: (B, 3, 3) camera matrix of the crop.

        Returns:
            (B, G, 21, 3) mm and (B, G, 21, 2) px.
        """
        pixels = (joints[..., :2] + 1) * (self.image_size / 2) - 0.5
        z = jnp.maximum(distance[:, None, None] + joints[..., 2] * DEPTH_RANGE_MM, 1.0)
        return unproject(pixels, z, K[:, None]), pixels


class RefinementStage(nnx.Module):
    """Correct every joint from the image window around it and from the features of all joints."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        width, dtype = config.joint_width, jnp.dtype(config.dtype)
        self.placed = Linear(3, width, rngs)  # joint position → features
        self.seek = Linear(width, WINDOW_FEATURES, rngs, dtype=dtype)  # joint features → window features
        self.see = Linear(4 * WINDOW**2 + 2, WINDOW_FEATURES, rngs, scale=1.4, dtype=dtype)  # window → its features
        self.tell = Linear(WINDOW_FEATURES, width, rngs, dtype=dtype)  # window features → joint features
        self.mixers = nnx.List([TokenMlp(NUM_KEYPOINTS, width, rngs, config.dtype) for _ in range(config.joint_blocks)])
        self.blocks = nnx.List([MlpBlock(width, 2 * width, rngs, config.dtype) for _ in range(config.joint_blocks)])
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.correction = Linear(width, 3, rngs, scale=0.03)

    def __call__(
        self, features: jax.Array, joints: jax.Array, image: jax.Array, has_depth: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Refine the joints.

        Args:
            features: (B, 21, c) of the joints.
            joints: (B, 21, 3) in crop coordinates, [-1, 1].
            image: (B, h, w, 4), RGB in [-1, 1] and depth relative to the hand.
            has_depth: (B,), 0 where depth must not be used.

        Returns:
            New features (B, 21, c) and joints (B, 21, 3).
        """
        windows = joint_windows(image, jax.lax.stop_gradient(joints), has_depth)  # (B, 21, 4 * WINDOW^2 + 2)
        features = features + self.placed(joints)
        features = features + self.tell(jax.nn.relu(self.see(windows) + self.seek(features)))
        for mixer, block in zip(self.mixers, self.blocks):
            features = block(mixer(features))
        return features, joints + self.correction(self.norm(features))


def joint_windows(image: jax.Array, joints: jax.Array, has_depth: jax.Array) -> jax.Array:
    """Cut the window around each joint out of the images, and convert its depth to depth relative to the joint.

    Args:
        image: (B, h, w, 4), RGB and depth relative to the hand.
        joints: (B, 21, 3) in crop coordinates, [-1, 1].
        has_depth: (B,), 0 where depth must not be used.

    Returns:
        (B, 21, 4 * WINDOW^2 + 2): colours, depth (0 without depth), and x and y of the joint relative to the middle of
        its window, px.
    """
    B, side = image.shape[0], image.shape[1]
    position = (joints[..., :2] + 1) * (side / 2)  # of the joint, px from the upper left corner of the image
    corner = jnp.clip(jnp.round(position).astype(jnp.int32), 0, side)  # of the window, in `padded`
    margin = WINDOW // 2
    padded = jnp.pad(image, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    width, steps = padded.shape[2], jnp.arange(WINDOW)
    start = corner[..., 1] * width + corner[..., 0]  # (B, 21) index of the window's first pixel among all pixels
    index = start[..., None, None] + steps[:, None] * width + steps  # (B, 21, WINDOW, WINDOW)
    pixels, index = padded.reshape(B, -1, 4), index.reshape(B, -1, 1)
    windows = jnp.take_along_axis(pixels, index, axis=1, mode="promise_in_bounds")  # (B, 21 * WINDOW^2, 4)
    windows = windows.reshape(B, NUM_KEYPOINTS, WINDOW, WINDOW, 4)
    depth = relative_depth(windows[..., 3], joints[..., 2, None, None]) * has_depth[:, None, None, None]
    colors = windows[..., :3].reshape(B, NUM_KEYPOINTS, -1)  # (B, 21, WINDOW * WINDOW * 3)
    return jnp.concatenate([colors, depth.reshape(B, NUM_KEYPOINTS, -1), position - corner], axis=-1)
