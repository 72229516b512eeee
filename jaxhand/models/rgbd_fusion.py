"""The RGB-D model: a vision transformer predicts a coarse hand, and graph convolutions over the hand's mesh refine it.

The design follows UTNet. The tokens of a colour image are fused with the tokens of the depth image, or with a learned
placeholder if there is no depth image. A refinement stage samples image features at the projected vertices of the
coarse hand, and predicts corrections.
Attribute names are the parameter paths of saved checkpoints: do not change them.
"""

import typing

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxhand.config import Config, ConfigError, FusionConfig
from jaxhand.hand.camera import DEPTH_RANGE_MM, project
from jaxhand.hand.rotations import axis_angle_to_matrix, rotation_6d_to_matrix
from jaxhand.hand.skinned import NUM_JOINTS, SkinnedHand
from jaxhand.models.contract import Predictions
from jaxhand.models.layers import normal_param, output_layer
from jaxhand.models.mano_head import clamp_depth, mano_predictions
from jaxhand.models.mesh_graph import MeshGraph
from jaxhand.models.preprocess import CROP_MM, center_crop, center_crop_normalize, relative_depth
from jaxhand.models.upsample import Upsampler, sample_bilinear
from jaxhand.models.vit import PatchEmbed, ViT, center_crop_arguments

PARAM_SIZES = (96, 10, 4)  # 6D rotations of 16 joints, shape, placement
VERTEX_CHANNELS = 7  # of a vertex, besides image features: relative depth, position, position in the rest pose
HIDDEN = 256  # channels of the layer before the output layer
# Root rotation of an untrained network: the fingers point up in the image, and the thumb points at the camera. From
# here, a hand whose palm faces the camera is as far as a hand whose back faces the camera.
MEAN_ROOT = np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]], np.float32)
IDENTITY_6D = np.array([1, 0, 0, 0, 1, 0], np.float32)


class RgbdFusion(nnx.Module):
    """RGB and depth crops → joints, mesh, pose and shape. The same weights work with and without depth.

    Args:
        config: the config. Used: `model.vit`, `model.fusion`, `model.dtype` (type of the matrix products),
            `model.remat`, `data.image_size`. The network uses the middle three quarters of the image's width, so the
            image size must be a multiple of 4 patches.
        hand_model: the hand whose parameters are predicted.
        rngs: draws the parameters.

    Raises:
        ConfigError: the sizes do not fit.
    """

    has_mesh = True
    loss_terms = ("w_2d", "w_3d_joint", "w_3d_vert", "w_prior", "w_aux", "distance", "guesses")

    def __init__(self, config: Config, hand_model: SkinnedHand, rngs: nnx.Rngs):
        fusion, dtype = config.model.fusion, config.model.dtype
        self.hand_model, self.use_depth = hand_model, fusion.depth
        self.backbone = ViT(**center_crop_arguments(config, padding=0), rngs=rngs)
        tokens, width = self.backbone.positions.shape
        if fusion.depth:
            self.depth_embed = PatchEmbed(1, width, config.model.vit.patch, rngs=rngs, dtype=dtype)
            self.depth_positions = normal_param(rngs, (tokens, width), 0.02)
            self.placeholder = normal_param(rngs, (tokens, width), 0.02)  # replaces missing depth tokens
            self.metric = nnx.Linear(2, width, use_bias=False, rngs=rngs)  # embeds the width of the crop in mm
        self.queries = normal_param(rngs, (NUM_JOINTS + 2, width), 0.02)  # 16 joints, shape, placement
        sizes = (PARAM_SIZES[0] // NUM_JOINTS, *PARAM_SIZES[1:])
        self.pose, self.shape, self.camera = (output_layer(width, size, rngs) for size in sizes)
        if fusion.upsampler % 2 ** (fusion.scales - 1):
            raise ConfigError(
                f"model.fusion.upsampler must be a multiple of {2 ** (fusion.scales - 1)} for {fusion.scales} "
                f"model.fusion.scales, got {fusion.upsampler}"
            )
        self.looks = nnx.List([])
        if fusion.refine:
            self.upsampler = Upsampler(width, fusion.upsampler, fusion.scales, rngs, dtype=dtype)
            self.looks = nnx.List([RefinementStage(fusion, hand_model, dtype, rngs) for _ in range(fusion.looks)])
        else:
            self.loss_terms = tuple(name for name in self.loss_terms if name != "guesses")

    def __call__(self, batch: dict, key: jax.Array | None = None) -> Predictions:
        """Predict a hand.

        Args:
            batch: `image` (B,S,S,3) in 0..1, `depth` (B,S,S) in [-1,1], `has_depth` (B,), `depth_center` (B,) mm and
                `K` (B,3,3) of the crop.
            key: random key of stochastic depth (drop-path); batch norms then use the statistics of the batch. None:
                test mode.

        Returns:
            The predictions of `mano_predictions`, and `coarse_rotations` (B,16,3,3) and `coarse_shape` (B,10) of the
            coarse hand. With refinement also `guesses_3d` (B,G,21,3) mm and `guesses_2d` (B,G,21,2) px: the joints
            before each refinement stage.
        """
        depth_mask = batch["has_depth"] if self.use_depth else jnp.zeros(batch["image"].shape[0])  # (B,)
        tokens = self.backbone.encoder(self._fuse(batch, depth_mask), key)  # (B, 18 + T, E)
        mean = axis_angle_to_matrix(jnp.asarray(self.hand_model.mean_pose, jnp.float32).reshape(15, 3))
        mean = jnp.concatenate([MEAN_ROOT[None], mean])  # (16, 3, 3)
        rotations = apply_rotation_updates(mean, self.pose(tokens[:, :16]))  # (B, 16, 3, 3)
        shape, placement = self.shape(tokens[:, 16]), self.camera(tokens[:, 17])  # (B, 10), (B, 4)
        camera = self._camera(placement, batch, depth_mask)
        hands = [mano_predictions(self.hand_model, rotations, shape, camera, batch)]
        coarse = {"coarse_rotations": rotations, "coarse_shape": shape}
        if not self.looks:
            return typing.cast(Predictions, hands[0] | coarse)
        features = tokens[:, 18:].reshape(tokens.shape[0], *self.backbone.grid, -1)  # (B, rows, columns, E)
        feature_maps = self.upsampler(features, train=key is not None)
        for stage in self.looks:
            rotation_updates, shape_update, placement_update = stage(feature_maps, hands[-1], batch, depth_mask)
            rotations = apply_rotation_updates(rotations, rotation_updates)
            shape, placement = shape + shape_update, placement + placement_update
            camera = self._camera(placement, batch, depth_mask)
            hands.append(mano_predictions(self.hand_model, rotations, shape, camera, batch))
        intermediate = {f"guesses_{n}d": jnp.stack([h[f"keypoints_{n}d"] for h in hands[:-1]], axis=1) for n in (2, 3)}
        return typing.cast(Predictions, hands[-1] | coarse | intermediate)

    def _fuse(self, batch, depth_mask):
        """The input tokens of the transformer, (B, 18 + T, E): 18 queries, then sums of colour and depth patches."""
        queries = jnp.broadcast_to(self.queries[...], (depth_mask.shape[0], *self.queries.shape))
        patches = self.backbone.embed(center_crop_normalize(batch["image"]))  # (B, T, E)
        if not self.use_depth:
            return jnp.concatenate([queries, patches], axis=1)
        depth_patches = self.depth_embed(center_crop(batch["depth"])[..., None]) + self.depth_positions[...]
        patches += jnp.where(depth_mask[:, None, None] > 0, depth_patches, self.placeholder[...])
        # `depth` is relative to the hand, so it does not contain the size of the hand. Therefore the network also gets
        # the width of the crop in mm, measured at the distance of the hand.
        width = jnp.log(jnp.where(depth_mask > 0, crop_width_mm(batch, batch["depth_center"]) / CROP_MM, 1))
        metric = self.metric(jnp.stack([width, depth_mask], axis=-1))[:, None]  # (B, 1, E)
        return jnp.concatenate([queries[:, :16], queries[:, 16:] + metric, patches], axis=1)

    def _camera(self, placement, batch, depth_mask):
        """Placement (B, 4) → camera (B, 3) s, tx, ty in metres, as in `weak_perspective_translation`.

        The first value of a placement is the log of (width of the crop at the hand's distance / `CROP_MM`). The second
        and third are x and y of the wrist in the crop (-1..1). The fourth is the depth of the hand minus
        `depth_center`, in units of `DEPTH_RANGE_MM`. The distance of the hand follows from the fourth value if there is
        depth, else from the first.
        """
        measured = crop_width_mm(batch, jnp.maximum(batch["depth_center"] + DEPTH_RANGE_MM * placement[:, 3], 1))
        width = jnp.where(depth_mask > 0, measured, CROP_MM * jnp.exp(placement[:, 0])) / 1000  # (B,) m
        wrist = self.hand_model.template[-16, :2] / 1000  # metres, from the origin of the hand model
        return jnp.concatenate([2 / width[:, None], placement[:, 1:3] * width[:, None] / 2 - wrist], axis=-1)


class RefinementStage(nnx.Module):
    """Predict corrections of a hand from image features at its vertices, with graph convolutions over its mesh.

    Args:
        config: `upsampler` and `scales` describe the feature maps, `graph` the graph convolutions.
        hand_model: the hand with the mesh.
        dtype: type of the graph convolutions.
        rngs: draws the parameters.
    """

    def __init__(self, config: FusionConfig, hand_model: SkinnedHand, dtype: str, rngs: nnx.Rngs):
        self.hand_model, self.dtype = hand_model, jnp.dtype(dtype)
        sampled = sum(config.upsampler >> scale for scale in range(config.scales))
        self.graph = MeshGraph(hand_model, sampled + VERTEX_CHANNELS, config.graph, dtype=dtype, rngs=rngs)
        self.hidden = nnx.Linear(NUM_JOINTS * config.graph[-1], HIDDEN, rngs=rngs)
        self.correction = output_layer(HIDDEN, sum(PARAM_SIZES), rngs)

    def __call__(
        self, feature_maps: list[jax.Array], predictions: dict[str, jax.Array], batch: dict, depth_mask: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Predict corrections.

        Args:
            feature_maps: (B, rows, columns, C) each, of the image's middle three quarters.
            predictions: predictions for the hand before this stage.
            batch: as for `RgbdFusion`.
            depth_mask: (B,), 0 where depth must not be used.

        Returns:
            Updates of the 6D rotations (B, 16, 6), the shape (B, 10) and the placement (B, 4).
        """
        vertices, joints = (jax.lax.stop_gradient(predictions[name]) for name in ("vertices", "keypoints_3d"))
        pixels = project(clamp_depth(vertices), batch["K"])  # (B, V, 2) px of the crop
        crop_size = batch["image"].shape[1]
        sampled = [sample_bilinear(m, crop_to_map_pixels(pixels, m, crop_size)) for m in feature_maps]  # (B, V, C) each
        rest_vertices = self.hand_model.template[: self.hand_model.num_vertices] - self.hand_model.template[-16]
        geometry = [  # VERTEX_CHANNELS: 1 + 3 + 3
            depth_behind_vertices(vertices, pixels, batch, depth_mask)[..., None],
            (vertices - joints[:, :1]) / 100,
            rest_vertices / 100,
        ]
        geometry = [jnp.broadcast_to(values, (*vertices.shape[:2], values.shape[-1])) for values in geometry]
        features = jnp.concatenate([x.astype(self.dtype) for x in sampled + geometry], axis=-1)  # (B, V, C)
        pooled = self.graph(features)  # (B, 16, c)
        pooled = pooled.reshape(pooled.shape[0], -1).astype(jnp.float32)  # (B, 16 * c)
        updates = self.correction(jax.nn.relu(self.hidden(pooled)))  # (B, 110)
        rotation_updates, shape_update, placement_update = jnp.split(updates, np.cumsum(PARAM_SIZES)[:2], -1)
        return rotation_updates.reshape(-1, NUM_JOINTS, 6), shape_update, placement_update


def apply_rotation_updates(rotations: jax.Array, updates: jax.Array) -> jax.Array:
    """Multiply the rotation of each joint by a predicted rotation.

    Args:
        rotations: (..., 16, 3, 3).
        updates: (..., 16, 6), 6D representation of the predicted rotation minus that of the identity; 0 changes
            nothing.

    Returns:
        (..., 16, 3, 3).
    """
    updates = rotation_6d_to_matrix(updates.astype(jnp.float32) + IDENTITY_6D)
    return jnp.matmul(rotations, updates, precision="highest")


def crop_width_mm(batch: dict, distance: jax.Array) -> jax.Array:
    """Width of the crop, (B,) mm, at a distance (B,) mm."""
    focal = jnp.sqrt(jnp.abs(jnp.linalg.det(batch["K"][:, :2, :2])))
    return batch["image"].shape[1] * distance / focal


def crop_to_map_pixels(pixels: jax.Array, feature_map: jax.Array, size: int) -> jax.Array:
    """Pixels (B, N, 2) of a crop of side `size` → pixels of a feature map (B, h, w, C) of the crop's middle 3/4."""
    stride = size / feature_map.shape[1]
    return (pixels + 0.5 - jnp.array([size / 8, 0])) / stride - 0.5


def depth_behind_vertices(vertices: jax.Array, pixels: jax.Array, batch: dict, depth_mask: jax.Array) -> jax.Array:
    """Measured depth at each vertex minus the depth of the vertex.

    Args:
        vertices: (B, V, 3) mm.
        pixels: (B, V, 2), projections of the vertices in the crop.
        batch: `depth` (B, S, S) and `depth_center` (B,) mm.
        depth_mask: (B,), 0 where depth must not be used.

    Returns:
        (B, V) in [-1, 1], in the units of `relative_depth`; 0 without depth.
    """
    depth = batch["depth"]
    size = depth.shape[1]
    x, y = jnp.moveaxis(jnp.clip(jnp.round(pixels), 0, size - 1).astype(jnp.int32), -1, 0)  # (B, V) each
    measured = jnp.take_along_axis(depth.reshape(depth.shape[0], -1), y * size + x, axis=1)  # (B, S * S) → (B, V)
    vertex_depth = (vertices[..., 2] - batch["depth_center"][:, None]) / DEPTH_RANGE_MM
    return jnp.where(depth_mask[:, None] > 0, relative_depth(measured, vertex_depth), 0)
