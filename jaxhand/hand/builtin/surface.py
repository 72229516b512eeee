"""The skin of the built-in right hand, with MANO's interface: 16 rotations and 10 shape parameters → a closed mesh.

The rest pose uses MANO's axes: the fingers point along -x, slightly spread and bent; the back of the hand faces +y and
the thumb +z. `surface_fit` computed the arrays.
"""

import functools
import typing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.hand.skinned import PARENTS, SkinnedHand, forward

GLOBAL_SCALE_PER_BETA = 0.07  # all lengths * (1 + 0.07 * first shape parameter), as in `body.forward`
MANO_AXES = np.array([[0, -1, 0], [0, 0, 1], [-1, 0, 0]], np.float32)  # from the body's axes to MANO's
_FIRST_FRAMES = (4, 7, 13, 10, 1)  # first rows of index, middle, little, ring, thumb in `body.Hand.frames`
# Indices of MANO's joints in `body.Hand.frames` and in `body.Hand.joints`
MANO_TO_FRAME = np.array([0, *(base + level for base in _FIRST_FRAMES for level in range(3))])
MANO_TO_JOINT = np.where(MANO_TO_FRAME > 0, MANO_TO_FRAME + (MANO_TO_FRAME - 1) // 3, 0)
ARCH_JOINTS = np.array([[7, 8, 9], [10, 11, 12]])  # MANO's joints of little and ring: the palm's arch moves them


class _Surface(typing.NamedTuple):
    hand_model: SkinnedHand
    rest_frames: np.ndarray  # (16, 3, 3); rotation of a joint relative to the rest pose = frame @ rest_frames
    arch_dirs: np.ndarray  # (V, 3, 2) vertex motion in the rest pose per mm of knuckle motion (little, ring)


@functools.cache
def _surface() -> _Surface:
    with np.load(Path(__file__).with_name("surface.npz")) as file:
        stored = dict(file)
    arrays = {key: stored[key].astype(np.float32) for key in ("template", "shape_dirs", "pose_dirs", "weights")}
    hand_model = SkinnedHand(
        name="builtin",
        side="right",
        global_scale_per_beta=GLOBAL_SCALE_PER_BETA,
        faces=stored["faces"].astype(np.int32),
        mean_pose=np.zeros(45, np.float32),
        components=np.eye(45, dtype=np.float32),
        **arrays,
    )
    return _Surface(hand_model, stored["rest"], stored["arch"].astype(np.float32))


def builtin() -> SkinnedHand:
    """Return the built-in right hand. It has 956 vertices."""
    return _surface().hand_model


def rotations_of(frames: jax.Array) -> jax.Array:
    """Convert bone frames to the rotations of `skinned.forward`.

    The 16 rotations do not contain the arch of the palm. `skinned.forward` uses the arch that is usual for a pose.

    Args:
        frames: (..., 16, 3, 3) as in `body.Hand.frames`, in any coordinates.

    Returns:
        Rotations (..., 16, 3, 3) of MANO's joints relative to their parents.
    """
    rotations = rotations_from_rest(frames)
    of_parents = rotations[..., PARENTS[1:], :, :]
    relative = jnp.matmul(of_parents.swapaxes(-1, -2), rotations[..., 1:, :, :], precision="highest")
    return jnp.concatenate([rotations[..., :1, :, :], relative], -3)


def rotations_from_rest(frames: jax.Array) -> jax.Array:
    """Rotations (..., 16, 3, 3) of MANO's joints relative to the rest pose."""
    return jnp.matmul(frames[..., MANO_TO_FRAME, :, :], _surface().rest_frames, precision="highest")


@jax.jit
def vertices_of(frames: jax.Array, joints: jax.Array, shape: jax.Array) -> jax.Array:
    """Return the skin of hands that `body.forward` has posed, with the exact arch of their palms.

    Args:
        frames: (..., 16, 3, 3) as in `body.Hand.frames`, in the coordinates of the joints.
        joints: (..., 21, 3) mm, in any rotated and translated frame.
        shape: (..., 10) shape parameters.

    Returns:
        Vertices (..., V, 3) mm, in the coordinates of the joints.
    """
    hand_model, _, arch_dirs = _surface()
    posed = forward(hand_model, rotations_of(frames), shape)
    rotations = rotations_from_rest(frames)
    error = (joints - joints[..., :1, :]) - (posed.joints - posed.joints[..., :1, :])
    knuckles = error[..., MANO_TO_JOINT[ARCH_JOINTS[:, 0]], :]  # (..., 2, 3)
    # (..., 2): component along the y axis of the rest pose
    arch = jnp.einsum("...kc,...c->...k", knuckles, rotations[..., 0, :, 1], precision="highest")
    rigid = jnp.zeros((*arch.shape[:-1], 16)).at[..., ARCH_JOINTS].set(arch[..., None])  # (..., 16)
    shift = (joints - posed.joints)[..., MANO_TO_JOINT, :] - rotations[..., 1] * rigid[..., None]  # (..., 16, 3)
    transforms = jnp.concatenate([rotations, shift[..., None]], -1)  # (..., 16, 3, 4)
    transforms = jnp.einsum("vj,...jcd->...vcd", hand_model.weights[:-5], transforms, precision="highest")
    offsets = jnp.einsum("vck,...k->...vc", arch_dirs, arch, precision="highest")
    return posed.vertices + jnp.einsum("...vcd,...vd->...vc", transforms[..., :3], offsets) + transforms[..., 3]
