"""The RGB-D model: a vision transformer over colour and depth poses a coarse hand, a graph over its mesh corrects it.

After UTNet: each sample is fused with its depth, or with a learned placeholder where it has none; the coarse hand says
where to look, and what is seen at its vertices says how it is wrong.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxhand.config import Config, ConfigError, FusionConfig
from jaxhand.hand.camera import DEPTH_RANGE_MM, project
from jaxhand.hand.rotations import axis_angle_to_matrix, rotation_6d_to_matrix
from jaxhand.hand.skinned import SkinnedHand
from jaxhand.models.hamer import CROP_MM, readout, visible, vit_arguments
from jaxhand.models.mano_head import in_front, place
from jaxhand.models.mesh_graph import MeshGraph
from jaxhand.models.upsample import Upsampler, sample
from jaxhand.models.vit import PatchEmbed, ViT

NUMBERS = (96, 10, 4)  # of the pose (six a joint), the shape, and where the hand is
NEAR = 3.0  # how far a vertex lies from what was measured is clipped at DEPTH_RANGE_MM / NEAR
KNOWN = 7  # channels of a vertex beside what the maps show there: what lies behind it, where it is, which one it is
HIDDEN = 256  # channels of the corrections
# Before anything is learned the fingers point up in the picture and the thumb at the camera: as far from a palm that
# faces the camera as from a back that does.
MEAN_ROOT = np.float32([[0, 1, 0], [1, 0, 0], [0, 0, -1]])
SAME = np.float32([1, 0, 0, 0, 1, 0])  # no turn, in six numbers


class RgbdFusion(nnx.Module):
    """Colour and depth crops → joints, mesh, pose and shape. One network serves both with and without depth.

    Args:
        config: `model.vit`, `model.fusion`, `model.dtype` of the products and `model.remat`; `data.image_size` a multiple
            of 4 patches, as the middle three quarters of the width are seen.
        hand: whose mesh it is.
        rngs: draws the parameters.
    """

    loss_terms = ("w_2d", "w_3d_joint", "w_3d_vert", "w_prior", "w_aux", "distance", "guesses")

    def __init__(self, config: Config, hand: SkinnedHand, rngs: nnx.Rngs):
        fusion, dtype = config.model.fusion, config.model.dtype
        self.hand, self.use_depth = hand, fusion.depth
        self.backbone = ViT(**vit_arguments(config) | {"padding": 0}, rngs=rngs)
        tokens, width = self.backbone.positions.shape
        draw = lambda *shape: nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))
        if fusion.depth:
            self.depth_embed = PatchEmbed(1, width, config.model.vit.patch, rngs=rngs, dtype=dtype)
            self.depth_positions, self.placeholder = draw(tokens, width), draw(tokens, width)
            self.metric = nnx.Linear(2, width, use_bias=False, rngs=rngs)
        self.queries = draw(18, width)  # 16 of the pose, shape, camera
        self.pose, self.shape, self.camera = (readout(width, n, rngs) for n in (NUMBERS[0] // 16, *NUMBERS[1:]))
        if fusion.upsampler % 2 ** (fusion.scales - 1):
            raise ConfigError(
                f"model.fusion.upsampler must be a multiple of {2 ** (fusion.scales - 1)} for {fusion.scales} "
                f"model.fusion.scales, got {fusion.upsampler}"
            )
        self.looks = nnx.List([])
        if fusion.refine:
            self.upsampler = Upsampler(width, fusion.upsampler, fusion.scales, rngs, dtype=dtype)
            self.looks = nnx.List([Look(fusion, hand, dtype, rngs) for _ in range(fusion.looks)])
        else:
            self.loss_terms = tuple(name for name in self.loss_terms if name != "guesses")

    def __call__(self, batch: dict, key: jax.Array | None = None) -> dict:
        """Predict a hand.

        Args:
            batch: `image` (B,S,S,3) in 0..1, `depth` (B,S,S) in [-1,1], `has_depth` (B,), `depth_center` (B,) mm and `K`
                (B,3,3) of the crop.
            key: draws the drop-path, and normalises by the statistics of this batch; None is test mode.

        Returns:
            What `place` gives, and of the coarse hand `coarse_rotations` (B,16,3,3) and `coarse_shape` (B,10); with
            refinement also the joints before every look, `guesses_3d` (B,G,21,3) mm and `guesses_2d` (B,G,21,2) px.
        """
        sees = batch["has_depth"] if self.use_depth else jnp.zeros(len(batch["image"]))  # (B,)
        tokens = self.backbone.encoder(self._fuse(batch, sees), key)  # (B, 18 + T, E)
        mean = axis_angle_to_matrix(jnp.asarray(self.hand.mean_pose, jnp.float32).reshape(15, 3))
        mean = jnp.concatenate([MEAN_ROOT[None], mean])  # (16, 3, 3)
        rotations = turn(mean, self.pose(tokens[:, :16]))  # (B, 16, 3, 3)
        shape, where = self.shape(tokens[:, 16]), self.camera(tokens[:, 17])
        hands = [place(self.hand, rotations, shape, self._locate(where, batch, sees), batch)]
        coarse = {"coarse_rotations": rotations, "coarse_shape": shape}
        if not self.looks:
            return hands[0] | coarse
        features = tokens[:, 18:].reshape(len(tokens), *self.backbone.grid, -1)  # (B, rows, columns, E)
        maps = self.upsampler(features, train=key is not None)
        for look in self.looks:
            six, more, moved = look(maps, hands[-1], batch, sees)
            rotations, shape, where = turn(rotations, six), shape + more, where + moved
            hands.append(place(self.hand, rotations, shape, self._locate(where, batch, sees), batch))
        guesses = {f"guesses_{n}d": jnp.stack([h[f"keypoints_{n}d"] for h in hands[:-1]], axis=1) for n in (2, 3)}
        return hands[-1] | coarse | guesses

    def _fuse(self, batch, sees):
        """What the blocks take: 18 tokens that ask, and those of the patches, (B, 18 + T, E)."""
        queries = jnp.broadcast_to(self.queries[...], (len(sees), *self.queries.shape))
        patches = self.backbone.embed(visible(batch["image"]))
        if not self.use_depth:
            return jnp.concatenate([queries, patches], axis=1)
        edge = batch["depth"].shape[2] // 8
        seen = self.depth_embed(batch["depth"][:, :, edge:-edge, None]) + self.depth_positions[...]
        patches += jnp.where(sees[:, None, None] > 0, seen, self.placeholder[...])
        # Depth around the hand does not tell how large the hand is, but how wide the crop is there does.
        width = jnp.log(jnp.where(sees > 0, crop_mm(batch, batch["depth_center"]) / CROP_MM, 1))
        told = self.metric(jnp.stack([width, sees], axis=-1))[:, None]  # (B, 1, E)
        return jnp.concatenate([queries[:, :16], queries[:, 16:] + told, patches], axis=1)

    def _locate(self, where, batch, sees):
        """Four numbers (B, 4) → camera (B, 3) s, tx, ty, in metres as `posed.translation` takes it.

        They are the size of the hand in the crop, where its wrist is in the crop, -1..1, and how far it is behind the
        depth's centre; with depth the last decides how far away the hand is, without depth the first.
        """
        by_sensor = crop_mm(batch, jnp.maximum(batch["depth_center"] + DEPTH_RANGE_MM * where[:, 3], 1))
        width = jnp.where(sees > 0, by_sensor, CROP_MM * jnp.exp(where[:, 0])) / 1000  # (B,) m
        wrist = self.hand.template[-16, :2] / 1000  # m, from the hand's own origin
        return jnp.concatenate([2 / width[:, None], where[:, 1:3] * width[:, None] / 2 - wrist], axis=-1)


class Look(nnx.Module):
    """Looks at the maps where a hand's vertices are, and says how to correct the hand."""

    def __init__(self, config: FusionConfig, hand: SkinnedHand, dtype: str, rngs: nnx.Rngs):
        self.hand, self.dtype = hand, jnp.dtype(dtype)
        seen = sum(config.upsampler >> scale for scale in range(config.scales))
        self.graph = MeshGraph(hand, seen + KNOWN, config.graph, dtype=dtype, rngs=rngs)
        self.hidden = nnx.Linear(16 * config.graph[-1], HIDDEN, rngs=rngs)
        self.correction = readout(HIDDEN, sum(NUMBERS), rngs)

    def __call__(self, maps, found: dict, batch: dict, sees):
        """Maps (B, rows, columns, C) of what is visible, the hand as found → corrections (B,16,6), (B,10), (B,4)."""
        vertices, joints = (jax.lax.stop_gradient(found[name]) for name in ("vertices", "keypoints_3d"))
        pixels = project(in_front(vertices), batch["K"])  # (B, V, 2) of the crop
        seen = [sample(image, in_map(pixels, image, batch["image"].shape[1])) for image in maps]
        rest = self.hand.template[: self.hand.num_vertices] - self.hand.template[-16]
        known = [behind(vertices, pixels, batch, sees)[..., None], (vertices - joints[:, :1]) / 100, rest / 100]
        known = [jnp.broadcast_to(values, (*vertices.shape[:2], values.shape[-1])) for values in known]
        pooled = self.graph(jnp.concatenate([x.astype(self.dtype) for x in seen + known], axis=-1))  # (B, 16, C)
        pooled = pooled.reshape(len(pooled), -1).astype(jnp.float32)  # (B, 16 C)
        six, shape, where = jnp.split(self.correction(jax.nn.relu(self.hidden(pooled))), np.cumsum(NUMBERS)[:2], -1)
        return six.reshape(-1, 16, 6), shape, where


def turn(rotations, numbers):
    """Rotations (..., 16, 3, 3) after a further turn, each about its own axes, by six numbers (..., 16, 6); 0: none."""
    return jnp.matmul(rotations, rotation_6d_to_matrix(SAME + numbers.astype(jnp.float32)), precision="highest")


def crop_mm(batch: dict, distance):
    """How wide the crop is, (B,) mm, at a distance (B,) mm."""
    focal = jnp.sqrt(jnp.abs(jnp.linalg.det(batch["K"][:, :2, :2])))
    return batch["image"].shape[1] * distance / focal


def in_map(pixels, image, size: int):
    """Pixels (B, N, 2) of a square crop → pixels of a map (B, h, w, C) of its middle three quarters."""
    stride = size / image.shape[1]
    return (pixels + 0.5 - jnp.array([size / 8, 0])) / stride - 0.5


def behind(vertices, pixels, batch: dict, sees):
    """How far the measured surface lies behind each vertex, (B, V) in -1..1; 0 without depth."""
    depth = batch["depth"]
    size = depth.shape[1]
    x, y = jnp.moveaxis(jnp.clip(jnp.round(pixels), 0, size - 1).astype(jnp.int32), -1, 0)  # (B, V) each
    measured = jnp.take_along_axis(depth.reshape(len(depth), -1), y * size + x, axis=1)
    place = (vertices[..., 2] - batch["depth_center"][:, None]) / DEPTH_RANGE_MM
    return jnp.where(sees[:, None] > 0, jnp.clip((measured - place) * NEAR, -1, 1), 0)
