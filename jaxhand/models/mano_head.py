"""From MANO parameters to predictions: the posed hand, its position in front of the camera, and the mean parameters."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxhand.config import UserError
from jaxhand.hand import skinned
from jaxhand.hand.camera import project, weak_perspective_translation
from jaxhand.hand.rotations import matrix_to_axis_angle
from jaxhand.hand.skinned import NUM_JOINTS, SkinnedHand
from jaxhand.models.preprocess import CROP_MM

NEAREST_MM = 1.0  # smallest depth of a projected point


class Constant(nnx.Variable):
    """An array of a checkpoint that is not trained."""


def mano_predictions(
    hand_model: SkinnedHand,
    rotations: jax.Array,
    shape: jax.Array,
    camera: jax.Array,
    batch: dict,
    *,
    focal: float | None = None,
) -> dict[str, jax.Array]:
    """Pose a hand, translate it by its weak-perspective camera, and return a model's predictions.

    Args:
        hand_model: the hand that is posed.
        rotations: (B,16,3,3), of the whole hand first.
        shape: (B,10).
        camera: (B,3) s, tx, ty: see `weak_perspective_translation`.
        batch: `image` (B,S,S,3) and `K` (B,3,3) of the crop.
        focal: focal length of the camera that the model itself assumes, over the crop's side: `keypoints_2d` are then
            projected by this camera, with its axis through the crop's centre, as in HaMeR. None takes `K`.

    Returns:
        `keypoints_3d` (B,21,3) and `vertices` (B,V,3) mm in the frame of the camera K · `keypoints_2d` (B,21,2) px of
        the crop · `rotations` · `mano_pose` (B,48) · `mano_shape` (B,10) · `camera` (B,3).
    """
    size, K = batch["image"].shape[1], batch["K"]
    posed = skinned.forward(hand_model, rotations, shape)
    translation = weak_perspective_translation(camera, K, size)[:, None]  # (B, 1, 3)
    projected, own_K = posed.joints + translation, K
    if focal is not None:
        own_K = jnp.float32([[focal * size, 0, size / 2], [0, focal * size, size / 2], [0, 0, 1]])
        own_K = jnp.broadcast_to(own_K, K.shape)
        projected = posed.joints + weak_perspective_translation(camera, own_K, size)[:, None]
    return {
        "keypoints_3d": posed.joints + translation,
        "keypoints_2d": project(clamp_depth(projected), own_K),
        "vertices": posed.vertices + translation,
        "rotations": rotations,
        "mano_pose": matrix_to_axis_angle(rotations).reshape(-1, 48),
        "mano_shape": shape,
        "camera": camera,
    }


def clamp_depth(points: jax.Array) -> jax.Array:
    """Points (...,3) mm with a depth of at least `NEAREST_MM`, so that they can be projected."""
    return jnp.concatenate([points[..., :2], jnp.maximum(points[..., 2:], NEAREST_MM)], axis=-1)


def mean_mano_params(path: str, hand_model: SkinnedHand) -> tuple[Constant, Constant, Constant]:
    """The mean parameters that the heads add their outputs to.

    Args:
        path: HaMeR's mano_mean_params.npz; empty for a flat hand in the middle of the crop, its palm to the camera.
        hand_model: the hand that the parameters are for.

    Returns:
        6D rotations (1, 96) of the joints, shape (1, 10), camera (1, 3) s, tx, ty.

    Raises:
        UserError: the file cannot be read, or an array is missing, of another size or not finite.
    """
    if not path:
        found = _flat_hand(hand_model)
    else:
        try:
            with np.load(path) as file:
                found = {name: np.asarray(file[name], np.float32) for name in ("pose", "shape", "cam")}
        except KeyError as error:
            raise UserError(f"model.hamer.init {path}: {error.args[0]}; expected pose, shape and cam") from error
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"model.hamer.init {path} is not a readable mano_mean_params.npz: {error}") from error
    arrays = {name: np.float32(value).reshape(1, -1) for name, value in found.items()}
    for name, size in (("pose", 96), ("shape", 10), ("cam", 3)):
        if arrays[name].size != size or not np.isfinite(arrays[name]).all():
            raise UserError(f"model.hamer.init {path}: {name} should be {size} finite numbers")
    pose, shape, camera = (Constant(jnp.asarray(arrays[name])) for name in ("pose", "shape", "cam"))
    return pose, shape, camera


def _flat_hand(hand_model: SkinnedHand) -> dict:
    rotations = np.tile(np.array([1, 0, 0, 0, 1, 0], np.float32), (NUM_JOINTS, 1))
    rotations[0] = 1, 0, 0, 0, 0, 1  # the back of the hand turns away from the camera
    vertices = hand_model.template[: hand_model.num_vertices] / 1000  # m, fingers along x
    center = (vertices.min(0) + vertices.max(0)) / 2
    wrist = hand_model.template[-NUM_JOINTS] / 1000
    center = wrist + [1, -1, 1] * (center - wrist)[[0, 2, 1]]
    return {"pose": rotations, "shape": np.zeros(10), "cam": [2000 / CROP_MM, *-center[:2]]}
