"""Loss terms of networks that predict MANO parameters. Each term is a sum over joints, as in the authors' code.

The terms are functions (predictions, batch) → (B,). The `w_…` terms of the config are for `rgbd_fusion`, with UTNet's
names and weights. The other terms are for `hamer` and `wilor`, with the names and weights of HaMeR's `compute_loss`.

Batch: `keypoints_3d` (B,21,3) mm, `keypoints_2d` (B,21,2) px, `joint_valid` and `joint_valid_2d` (B,21), `image`
(B,h,w,3), `vertices` (B,V,3) mm, `has_vertices` (B,), `mano_pose` (B,48) axis-angle, `mano_shape` (B,10),
`has_pose` (B,).
"""

import jax
import jax.numpy as jnp

from jaxhand.data.mesh_labels import true_rotations
from jaxhand.training.joint_losses import from_wrist


def vertices(predictions: dict, batch: dict) -> jax.Array:
    """L1 distance (x, y and z) of the vertices, relative to the wrist, summed, in mm; 0 without labels."""
    distance = jnp.abs(from_wrist(predictions, "vertices") - from_wrist(batch, "vertices")).sum((-2, -1))
    return distance * batch["has_vertices"] * batch["joint_valid"][:, 0]


def keypoints_2d(predictions: dict, batch: dict) -> jax.Array:
    """L1 distance (x and y) of the labelled 2D joints, summed, as a fraction of the crop's side."""
    distance = jnp.abs(predictions["keypoints_2d"] - batch["keypoints_2d"]).sum(-1)
    return (distance * batch["joint_valid_2d"]).sum(-1) / batch["image"].shape[1]


def keypoints_3d(predictions: dict, batch: dict) -> jax.Array:
    """L1 distance (x, y and z) of the labelled joints, relative to the wrist, summed, in mm."""
    distance = jnp.abs(from_wrist(predictions, "keypoints_3d") - from_wrist(batch, "keypoints_3d")).sum(-1)
    return (distance * batch["joint_valid"]).sum(-1) * batch["joint_valid"][:, 0]


def keypoints_3d_in_m(predictions: dict, batch: dict) -> jax.Array:
    """`keypoints_3d` in metres."""
    return keypoints_3d(predictions, batch) / 1000


def shape_prior(predictions: dict, batch: dict) -> jax.Array:
    """Mean square of the predicted shape parameters."""
    return (predictions["mano_shape"] ** 2).mean(-1)


def coarse_parameters(predictions: dict, batch: dict) -> jax.Array:
    """Mean squared error of the coarse pose `coarse_rotations` (B,16,3,3), plus that of `coarse_shape` (B,10).

    The poses are compared as rotation matrices, because axis-angle vectors jump at half a turn. The wrist is at half a
    turn when the palm faces the camera.
    """
    coarse = predictions["coarse_rotations"] - true_rotations(batch)
    coarse = (coarse**2).mean((1, 2, 3)) + ((predictions["coarse_shape"] - batch["mano_shape"]) ** 2).mean(-1)
    return coarse * batch["has_pose"]


def global_orient(predictions: dict, batch: dict) -> jax.Array:
    """Squared error of the wrist's rotation matrix; predictions: `rotations` (B,16,3,3)."""
    return _rotation_errors(predictions, batch)[:, 0] * batch["has_pose"]


def hand_pose(predictions: dict, batch: dict) -> jax.Array:
    """Summed squared error of the rotation matrices of the 15 finger joints; predictions: `rotations` (B,16,3,3)."""
    return _rotation_errors(predictions, batch)[:, 1:].sum(-1) * batch["has_pose"]


def betas(predictions: dict, batch: dict) -> jax.Array:
    """Summed squared error of the shape parameters."""
    return ((predictions["mano_shape"] - batch["mano_shape"]) ** 2).sum(-1) * batch["has_pose"]


def adversarial(predictions: dict, batch: dict) -> jax.Array:
    """Squared error of the discriminator's output for predicted hands, `fake_logits` (B,17); the target is 1."""
    return ((predictions["fake_logits"] - 1) ** 2).sum(-1)


def discriminator(predictions: dict, batch: dict) -> jax.Array:
    """Loss of the discriminator: squared error; the target is 0 for predicted hands and 1 for real ones.

    Predictions: its outputs `critic_fake` (B,17) and `critic_real` (N,17).
    """
    real = ((predictions["critic_real"] - 1) ** 2).sum(-1)  # (N,)
    return (predictions["critic_fake"] ** 2).sum(-1) + real.sum() / len(batch["image"])


def _rotation_errors(predictions: dict, batch: dict) -> jax.Array:
    return ((predictions["rotations"] - true_rotations(batch)) ** 2).sum((-2, -1))  # (B, 16)
