"""From the numbers of a hand to its joints and mesh before the crop's camera."""

import jax.numpy as jnp

from jaxhand.hand import skinned
from jaxhand.hand.camera import project, unproject
from jaxhand.hand.rotations import matrix_to_axis_angle
from jaxhand.hand.skinned import SkinnedHand

NEAREST_MM = 1.0  # no point is projected from nearer


def place(hand: SkinnedHand, rotations, shape, camera, batch: dict, *, focal: float | None = None) -> dict:
    """Pose a hand and put it where a weak-perspective camera says, as a model's predictions.

    Args:
        hand: whose mesh it is.
        rotations: (B,16,3,3), of the whole hand first.
        shape: (B,10).
        camera: (B,3) s, tx, ty: see `translation`.
        batch: `image` (B,S,S,3) and `K` (B,3,3) of the crop.
        focal: focal length of the camera that the model itself imagines, over the crop's side: `keypoints_2d` are then
            what this camera sees, with its axis through the crop's centre, as in HaMeR. None takes `K`.

    Returns:
        `keypoints_3d` (B,21,3) and `vertices` (B,V,3) mm in the frame of the camera K · `keypoints_2d` (B,21,2) px of the
        crop · `rotations` · `mano_pose` (B,48) · `mano_shape` (B,10) · `camera` (B,3).
    """
    size, K = batch["image"].shape[1], batch["K"]
    posed = skinned.forward(hand, rotations, shape)
    move = translation(camera, K, size)[:, None]  # (B, 1, 3)
    seen, own_K = posed.joints + move, K
    if focal is not None:
        own_K = jnp.float32([[focal * size, 0, size / 2], [0, focal * size, size / 2], [0, 0, 1]])
        own_K = jnp.broadcast_to(own_K, K.shape)
        seen = posed.joints + translation(camera, own_K, size)[:, None]
    return {
        "keypoints_3d": posed.joints + move,
        "keypoints_2d": project(in_front(seen), own_K),
        "vertices": posed.vertices + move,
        "rotations": rotations,
        "mano_pose": matrix_to_axis_angle(rotations).reshape(-1, 48),
        "mano_shape": shape,
        "camera": camera,
    }


def translation(camera, K, size: int):
    """Where a hand's origin lies so that K sees it as the weak-perspective camera does: (B,3) mm.

    HaMeR's convention (`cam_crop_to_full`): a point X in metres lies at (X + t) s / 2 of the crop's side from its centre.

    Args:
        camera: (B,3) s, tx, ty, with t in metres.
        K: (B,3,3) of the crop.
        size: side of the crop, px.
    """
    scale = camera[:, :1] * size / 2  # (B, 1) px a metre
    focal = jnp.sqrt(jnp.abs(jnp.linalg.det(K[:, :2, :2])))[:, None]
    z = 1000 * focal / (scale + 1e-9)  # (B, 1) mm
    return unproject(size / 2 + scale[:, None] * camera[:, None, 1:], z, K)[:, 0]


def in_front(points):
    """Points (...,3) mm, none behind the camera or in it: what a projection needs."""
    return jnp.concatenate([points[..., :2], jnp.maximum(points[..., 2:], NEAREST_MM)], axis=-1)
