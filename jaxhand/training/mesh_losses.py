"""Loss terms of networks that pose a hand, as sums over its joints, which is how their authors weigh them.

Each is (predictions, batch) → (B,). `w_…` terms are those of `rgbd_fusion`, with UTNet's names and weights; the others
those of `hamer` and `wilor`, with HaMeR's names and weights (its `compute_loss`).

Batch: `keypoints_3d` (B,21,3) mm, `keypoints_2d` (B,21,2) px, `joint_valid` and `joint_valid_2d` (B,21), `image`
(B,h,w,3), `vertices` (B,V,3) mm, `has_vertices` (B,), `mano_pose` (B,48) axis-angle, `mano_shape` (B,10),
`has_pose` (B,).
"""

import jax
import jax.numpy as jnp

from jaxhand.data.mesh_labels import true_rotations
from jaxhand.training.joint_losses import from_wrist


def vertices(predictions: dict, batch: dict) -> jax.Array:
    """Summed distance along x, y and z of the vertices, relative to the wrist: mm; 0 without labels."""
    distance = jnp.abs(from_wrist(predictions, "vertices") - from_wrist(batch, "vertices")).sum((-2, -1))
    return distance * batch["has_vertices"] * batch["joint_valid"][:, 0]


def keypoints_2d(predictions: dict, batch: dict) -> jax.Array:
    """Summed distance along x and y of the labelled joints, in parts of the crop's side."""
    distance = jnp.abs(predictions["keypoints_2d"] - batch["keypoints_2d"]).sum(-1)
    return (distance * batch["joint_valid_2d"]).sum(-1) / batch["image"].shape[1]


def keypoints_3d(predictions: dict, batch: dict) -> jax.Array:
    """Summed distance along x, y and z of the labelled joints, relative to the wrist: mm."""
    distance = jnp.abs(from_wrist(predictions, "keypoints_3d") - from_wrist(batch, "keypoints_3d")).sum(-1)
    return (distance * batch["joint_valid"]).sum(-1) * batch["joint_valid"][:, 0]


def keypoints_3d_in_m(predictions: dict, batch: dict) -> jax.Array:
    """`keypoints_3d` in metres."""
    return keypoints_3d(predictions, batch) / 1000


def shape_prior(predictions: dict, batch: dict) -> jax.Array:
    """Mean square of the predicted shape."""
    return (predictions["mano_shape"] ** 2).mean(-1)


def coarse_parameters(predictions: dict, batch: dict) -> jax.Array:
    """Mean square error of the coarse hand's pose and shape: `coarse_rotations` (B,16,3,3), `coarse_shape` (B,10).

    The pose is compared as matrices: axis-angles jump at half a turn, where every palm faces the camera.
    """
    coarse = predictions["coarse_rotations"] - true_rotations(batch)
    coarse = (coarse**2).mean((1, 2, 3)) + ((predictions["coarse_shape"] - batch["mano_shape"]) ** 2).mean(-1)
    return coarse * batch["has_pose"]


def global_orient(predictions: dict, batch: dict) -> jax.Array:
    """Square error of the wrist's rotation matrix; predictions: `rotations` (B,16,3,3)."""
    return _rotation_errors(predictions, batch)[:, 0] * batch["has_pose"]


def hand_pose(predictions: dict, batch: dict) -> jax.Array:
    """Summed square error of the rotation matrices of the 15 finger joints; predictions: `rotations` (B,16,3,3)."""
    return _rotation_errors(predictions, batch)[:, 1:].sum(-1) * batch["has_pose"]


def betas(predictions: dict, batch: dict) -> jax.Array:
    """Square error of the shape."""
    return ((predictions["mano_shape"] - batch["mano_shape"]) ** 2).sum(-1) * batch["has_pose"]


def adversarial(predictions: dict, batch: dict) -> jax.Array:
    """Least squares of the discriminator's output for predicted hands, `fake_logits` (B,17), to 1, as for real ones."""
    return ((predictions["fake_logits"] - 1) ** 2).sum(-1)


def discriminator(predictions: dict, batch: dict) -> jax.Array:
    """Loss of the discriminator: least squares to 0 for predicted hands and to 1 for real ones.

    Predictions: its outputs `critic_fake` (B,17) and `critic_real` (N,17).
    """
    real = ((predictions["critic_real"] - 1) ** 2).sum(-1)  # (N,)
    return (predictions["critic_fake"] ** 2).sum(-1) + real.sum() / len(batch["image"])


def _rotation_errors(predictions: dict, batch: dict) -> jax.Array:
    return ((predictions["rotations"] - true_rotations(batch)) ** 2).sum((-2, -1))  # (B, 16)
