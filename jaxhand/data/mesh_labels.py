"""Mesh labels of a batch, computed on the device: rotations and vertices from the labelled pose."""

import jax
import jax.numpy as jnp

from jaxhand.hand import skinned
from jaxhand.hand.rotations import axis_angle_to_matrix
from jaxhand.hand.skinned import SkinnedHand


def completed(hand_model: SkinnedHand, batch: dict) -> dict:
    """Compute the vertices of hands whose labels have a pose and a wrist, but no vertices.

    Args:
        hand_model: the hand model, with V vertices.
        batch: `vertices` (B,V,3) mm, `has_vertices` (B,), `mano_pose` (B,48) axis-angle, `mano_shape` (B,10),
            `has_pose` (B,), `keypoints_3d` (B,21,3) mm, `joint_valid` (B,21).

    Returns:
        The batch with new `vertices` and `has_vertices`. For hands without vertices, `hand_model` is posed, and its
        wrist is moved to the labelled wrist.
    """

    def posed():
        found = skinned.forward(hand_model, true_rotations(batch), batch["mano_shape"])
        vertices = found.vertices + (batch["keypoints_3d"][:, :1] - found.joints[:, :1])
        return jnp.where(batch["has_vertices"][:, None, None] > 0, batch["vertices"], vertices)

    has_vertices = jnp.maximum(batch["has_vertices"], batch["has_pose"] * batch["joint_valid"][:, 0])
    nothing_to_do = jnp.all(has_vertices == batch["has_vertices"])
    vertices = jax.lax.cond(nothing_to_do, lambda: batch["vertices"], posed)
    return batch | {"vertices": vertices, "has_vertices": has_vertices}


def true_rotations(batch: dict) -> jax.Array:
    """Return the labelled pose as rotation matrices (B,16,3,3), from `mano_pose` (B,48) axis-angle."""
    return axis_angle_to_matrix(batch["mano_pose"].reshape(-1, 16, 3))
