"""MANO parameters → predictions: poses the hand, and translates it in the camera frame. Also the mean parameters."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxhand.config import UserError
from jaxhand.hand import skinned
from jaxhand.hand.camera import project, weak_perspective_translation
from jaxhand.hand.rotations import matrix_to_axis_angle
from jaxhand.hand.skinned import NUM_JOINTS, SkinnedHand
from jaxhand.io import numpy_files
from jaxhand.models.preprocess import CROP_MM

NEAREST_MM = 1.0  # smallest depth of a point before projection


class Constant(nnx.Variable):
    """An array that is saved in checkpoints but not trained."""


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
        hand_model: the hand to pose.
        rotations: (B,16,3,3) of the joints; the first one rotates the whole hand.
        shape: (B,10) MANO shape parameters.
        camera: (B,3) s, tx, ty; see `weak_perspective_translation`.
        batch: `image` (B,S,S,3) and `K` (B,3,3) of the crop.
        focal: focal length / side of the crop of a camera that projects `keypoints_2d` instead of `K`, as in HaMeR. The
            principal point of this camera is the centre of the crop. None: `K` projects them.

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
    """Raise the depth of points (...,3) mm to at least `NEAREST_MM`, so that they can be projected."""
    return jnp.concatenate([points[..., :2], jnp.maximum(points[..., 2:], NEAREST_MM)], axis=-1)


def mean_mano_params(path: str, hand_model: SkinnedHand) -> tuple[Constant, Constant, Constant]:
    """Load the mean MANO parameters. A model adds its outputs to them.

    Args:
        path: HaMeR's mano_mean_params.npz; "": a flat hand in the middle of the crop, whose palm faces the camera.
        hand_model: the hand whose parameters are needed.

    Returns:
        6D rotations of the joints (1, 96), shape (1, 10), and camera s, tx, ty (1, 3).

    Raises:
        UserError: the file cannot be read, or an array is missing, has another size, or is not finite.
    """
    if not path:
        found = _flat_hand(hand_model)
    else:
        try:
            file = numpy_files.read_npz(Path(path).expanduser(), ("pose", "shape", "cam"))
            found = {name: np.asarray(file[name], np.float32) for name in ("pose", "shape", "cam")}
        except KeyError as error:
            raise UserError(
                f"model.hamer.init {path}: {error.args[0]}; the file must contain pose, shape and cam"
            ) from error
        except (ValueError, TypeError) as error:
            raise UserError(f"model.hamer.init {path}: not a readable mano_mean_params.npz ({error})") from error
    arrays = {name: np.float32(value).reshape(1, -1) for name, value in found.items()}
    for name, size in (("pose", 96), ("shape", 10), ("cam", 3)):
        if arrays[name].size != size or not np.isfinite(arrays[name]).all():
            raise UserError(f"model.hamer.init {path}: {name} must be {size} finite numbers")
    pose, shape, camera = (Constant(jnp.asarray(arrays[name])) for name in ("pose", "shape", "cam"))
    return pose, shape, camera


def _flat_hand(hand_model: SkinnedHand) -> dict:
    rotations = np.tile(np.array([1, 0, 0, 0, 1, 0], np.float32), (NUM_JOINTS, 1))
    rotations[0] = 1, 0, 0, 0, 0, 1  # the palm faces the camera
    vertices = hand_model.template[: hand_model.num_vertices] / 1000  # metres; the fingers point along x
    center = (vertices.min(0) + vertices.max(0)) / 2
    wrist = hand_model.template[-NUM_JOINTS] / 1000
    center = wrist + [1, -1, 1] * (center - wrist)[[0, 2, 1]]
    return {"pose": rotations, "shape": np.zeros(10), "cam": [2000 / CROP_MM, *-center[:2]]}
