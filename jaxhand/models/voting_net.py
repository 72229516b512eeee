"""The default network, `model.name=dense`: patch-wise voting for 21 joints, then per-joint refinement.

Every cell of a coarse grid votes for the position of every joint. Refinement stages then read a small window of the
image around each joint at full resolution, exchange the features of all joints with an MLP, and correct each joint.

Nearly all of its work is matrix products over 64 to 256 channels, the one operation that every backend runs at full
speed: a 3x3 convolution is a shift of channel groups to the neighbour cells and a product; global context is a product
over the cells.
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

PATCH = 4  # px, side of a cell of the fine grid; a cell of the coarse grid is twice as wide
WINDOW = 12  # px, side of the window that a refinement stage reads around each joint
WINDOW_FEATURES = 128  # channels of the features of a window


class VotingNet(nnx.Module):
    """RGB and depth crops → joints. One set of weights works with and without depth.

    Args:
        config: `model.width` channels of the coarse grid (the fine grid has half), number of `model.blocks` on it,
            number of refinement stages `model.looks`; `data.image_size` must be a multiple of 8.
        hand_model: not used.
        rngs: draws the parameters.

    Raises:
        ConfigError: the image size does not fit.
    """

    has_mesh = False
    loss_terms = ("joints_3d", "joints_2d", "depth", "distance", "size", "guesses")

    def __init__(self, config: Config, hand_model: None, rngs: nnx.Rngs):
        settings, image_size = config.model, config.data.image_size
        if image_size % (2 * PATCH) or image_size < 4 * PATCH:
            raise ConfigError(f"data.image_size must be a multiple of {2 * PATCH} for model 'dense', got {image_size}")
        self.image_size, width, fine = image_size, settings.width, settings.width // 2
        cells = (image_size // (2 * PATCH)) ** 2
        self.stem = Linear(4 * PATCH**2, fine, rngs)
        expansion = settings.expansion
        self.fine = nnx.List([ShiftMlpBlock(fine, expansion * fine, rngs) for _ in range(settings.fine_blocks)])
        self.down = Linear(4 * fine, width, rngs)
        self.mixers = nnx.List([TokenMixer(cells, width, rngs) for _ in range(settings.blocks)])
        self.coarse = nnx.List([ShiftMlpBlock(width, expansion * width, rngs) for _ in range(settings.blocks)])
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.votes = Linear(width, NUM_KEYPOINTS * 4, rngs, scale=0.1)
        self.seen = Linear(width, settings.joint_width, rngs)  # grid features → joint features
        self.names = normal_param(rngs, (NUM_KEYPOINTS, settings.joint_width), 0.5)  # joint embedding
        self.looks = nnx.List([RefinementStage(settings, rngs) for _ in range(settings.looks)])
        self.size_norm = nnx.RMSNorm(settings.joint_width, rngs=rngs)
        self.size = Linear(settings.joint_width, 1, rngs, scale=0.1)  # log of the crop's width at the hand

    def __call__(self, batch: dict, key: jax.Array | None = None) -> Predictions:
        """Predict joints.

        Args:
            batch: `image` (B,h,w,3) in 0..1, `depth` (B,h,w) in [-1,1], `has_depth` (B,), `depth_center` (B,) mm,
                `K` (B,3,3).
            key: not used; nothing is random.

        Returns:
            `keypoints_3d` (B,21,3) mm, camera frame · `keypoints_2d` (B,21,2) px of the crop · the same from the vote
            and from every refinement stage except the last, as intermediate predictions `guesses_3d` (B,G,21,3) and
            `guesses_2d` (B,G,21,2) · `root_depth` (B,) mm, the hand's distance estimated without depth.
        """
        return self.predict_with_features(batch)[0]

    def predict_with_features(self, batch: dict) -> tuple[Predictions, jax.Array]:
        """The predictions of a call, and the final features of the joints (B, 21, c)."""
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
            votes: (B, T, 4*21), of each cell and joint a logit and the offset x, y, z from the cell.
            depth: (B, h, w), the normalised depth image; z is relative to its mean over the cell.

        Returns:
            Joints (B, 21, 3) in [-1, 1] around the crop, and the weights (B, T, 21).
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
        """Joints in crop coordinates → camera frame and pixels.

        Args:
            joints: (B, G, 21, 3) in [-1, 1] around the crop.
            distance: (B,) mm, of the hand.
            K: (B, 3, 3).

        Returns:
            (B, G, 21, 3) mm and (B, G, 21, 2) px.
        """
        pixels = (joints[..., :2] + 1) * (self.image_size / 2) - 0.5
        z = jnp.maximum(distance[:, None, None] + joints[..., 2] * DEPTH_RANGE_MM, 1.0)
        return unproject(pixels, z, K[:, None]), pixels


class RefinementStage(nnx.Module):
    """Correct every joint from the image window around it and from the features of all joints."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        width = config.joint_width
        self.placed = Linear(3, width, rngs)  # joint position → features
        self.seek = Linear(width, WINDOW_FEATURES, rngs)  # joint features → window features
        self.see = Linear(4 * WINDOW**2 + 2, WINDOW_FEATURES, rngs, scale=1.4)  # window → window features
        self.tell = Linear(WINDOW_FEATURES, width, rngs)  # window features → joint features
        self.mixers = nnx.List([TokenMlp(NUM_KEYPOINTS, width, rngs) for _ in range(config.joint_blocks)])
        self.blocks = nnx.List([MlpBlock(width, 2 * width, rngs) for _ in range(config.joint_blocks)])
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.correction = Linear(width, 3, rngs, scale=0.03)

    def __call__(
        self, features: jax.Array, joints: jax.Array, image: jax.Array, has_depth: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Refine the joints.

        Args:
            features: (B, 21, c) of the joints.
            joints: (B, 21, 3) in [-1, 1] around the crop.
            image: (B, h, w, 4), RGB in [-1, 1] and normalised depth.
            has_depth: (B,).

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
    """Cut the window around each joint out of the images, with depth relative to the joint.

    Args:
        image: (B, h, w, 4), RGB and normalised depth.
        joints: (B, 21, 3) in [-1, 1] around the crop.
        has_depth: (B,).

    Returns:
        (B, 21, 4 * WINDOW^2 + 2): colours, depth (0 where none was measured), and the joint's position within the
        middle pixel of its window, px.
    """
    B, side = image.shape[0], image.shape[1]
    position = (joints[..., :2] + 1) * (side / 2)  # from the image's edge, px
    corner = jnp.clip(jnp.round(position), 0, side).astype(jnp.int32)  # of the window in the padded image
    margin = WINDOW // 2
    padded = jnp.pad(image, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    cut = lambda picture, at: jax.lax.dynamic_slice(picture, (at[1], at[0], 0), (WINDOW, WINDOW, 4))  # noqa: E731
    windows = jax.vmap(jax.vmap(cut, in_axes=(None, 0)))(padded, corner)  # (B, 21, WINDOW, WINDOW, 4)
    depth = relative_depth(windows[..., 3], joints[..., 2, None, None]) * has_depth[:, None, None, None]
    colors = windows[..., :3].reshape(B, NUM_KEYPOINTS, -1)  # (B, 21, WINDOW * WINDOW * 3)
    return jnp.concatenate([colors, depth.reshape(B, NUM_KEYPOINTS, -1), position - corner], axis=-1)
