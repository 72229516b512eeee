"""Loss terms of networks with a mesh, one number a hand each: sums over a hand's joints, as their authors weigh them."""

import jax
import jax.numpy as jnp

from jaxhand.hand import skinned
from jaxhand.hand.rotations import axis_angle_to_matrix
from jaxhand.hand.skinned import SkinnedHand

MEANS = ("adversarial", "discriminator")  # that HaMeR averages over the batch where it sums all others


def complete(hand: SkinnedHand, batch: dict) -> dict:
    """The batch with vertices also for hands that are labelled with a pose and a wrist only: `hand` posed there."""

    def posed():
        found = skinned.forward(hand, true_rotations(batch), batch["mano_shape"])
        vertices = found.vertices + (batch["keypoints_3d"][:, :1] - found.joints[:, :1])
        return jnp.where(batch["has_vertices"][:, None, None] > 0, batch["vertices"], vertices)

    has_vertices = jnp.maximum(batch["has_vertices"], batch["has_pose"] * batch["joint_valid"][:, 0])
    as_they_are = jnp.all(has_vertices == batch["has_vertices"])
    vertices = jax.lax.cond(as_they_are, lambda: batch["vertices"], posed)
    return batch | {"vertices": vertices, "has_vertices": has_vertices}


def vertices(predictions: dict, batch: dict):
    """Summed distance along x, y and z of the vertices, relative to the wrist: (B,) mm; 0 without labels."""
    distance = jnp.abs(from_wrist(predictions, "vertices") - from_wrist(batch, "vertices")).sum((-2, -1))
    return distance * batch["has_vertices"] * batch["joint_valid"][:, 0]


def keypoints_2d(predictions: dict, batch: dict):
    """Summed distance along x and y of the labelled joints, in parts of the crop's side: (B,)."""
    distance = jnp.abs(predictions["keypoints_2d"] - batch["keypoints_2d"]).sum(-1)
    return (distance * batch["joint_valid_2d"]).sum(-1) / batch["image"].shape[1]


def keypoints_3d(predictions: dict, batch: dict):
    """Summed distance along x, y and z of the labelled joints, relative to the wrist: (B,) mm."""
    distance = jnp.abs(from_wrist(predictions, "keypoints_3d") - from_wrist(batch, "keypoints_3d")).sum(-1)
    return (distance * batch["joint_valid"]).sum(-1) * batch["joint_valid"][:, 0]


def fusion_terms(predictions: dict, batch: dict) -> dict:
    """The terms of `rgbd_fusion`, under UTNet's names.

    The coarse pose is compared as matrices: axis-angles jump at half a turn, where every palm faces the camera.
    """
    coarse = predictions["coarse_rotations"] - true_rotations(batch)
    coarse = (coarse**2).mean((1, 2, 3)) + ((predictions["coarse_shape"] - batch["mano_shape"]) ** 2).mean(-1)
    return {
        "w_2d": keypoints_2d(predictions, batch),
        "w_3d_joint": keypoints_3d(predictions, batch),
        "w_3d_vert": vertices(predictions, batch),
        "w_prior": (predictions["mano_shape"] ** 2).mean(-1),
        "w_aux": coarse * batch["has_pose"],
    }


def hamer_terms(predictions: dict, batch: dict) -> dict:
    """The terms of `hamer` and `wilor` under HaMeR's names (its `compute_loss`); adversarial ones only where it plays.

    `fake_logits` (B,17) is what the discriminator says of the predictions, `critic_fake` (B,17) and `critic_real` (N,17)
    what it learns from: least squares towards 1 for real hands and 0 for predicted ones.
    """
    rotations = ((predictions["rotations"] - true_rotations(batch)) ** 2).sum((-2, -1))  # (B, 16)
    terms = {
        "keypoints_2d": keypoints_2d(predictions, batch),
        "keypoints_3d": keypoints_3d(predictions, batch) / 1000,
        "global_orient": rotations[:, 0] * batch["has_pose"],
        "hand_pose": rotations[:, 1:].sum(-1) * batch["has_pose"],
        "betas": ((predictions["mano_shape"] - batch["mano_shape"]) ** 2).sum(-1) * batch["has_pose"],
    }
    if "fake_logits" in predictions:
        real = ((predictions["critic_real"] - 1) ** 2).sum(-1)  # (N,)
        terms["adversarial"] = ((predictions["fake_logits"] - 1) ** 2).sum(-1)
        terms["discriminator"] = (predictions["critic_fake"] ** 2).sum(-1) + real.sum() / len(batch["image"])
    return terms


def true_rotations(batch: dict):
    """The labelled pose as rotation matrices (B,16,3,3)."""
    return axis_angle_to_matrix(batch["mano_pose"].reshape(-1, 16, 3))


def from_wrist(points: dict, name: str):
    """The `name` of predictions or a batch, (B,N,3) mm, relative to its wrist."""
    return points[name] - points["keypoints_3d"][:, :1]
