"""The skin of the built-in hand in MANO's interface: 16 rotations, 10 shape numbers → a closed mesh. Right hand.

At rest it lies in MANO's axes, fingers along -x, its back along +y, the thumb towards +z, a little spread and bent.
`surface_fit` made its numbers.
"""

import functools
import typing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.hand.skinned import PARENTS, SkinnedHand, forward

GROWTH = 0.07  # of all lengths, times the first number of the shape, as in `body.forward`
MANO_AXES = np.array([[0, -1, 0], [0, 0, 1], [-1, 0, 0]], np.float32)  # the body's own axes → MANO's
_BASES = (4, 7, 13, 10, 1)  # MANO's order of the fingers, the thumb last, in `body.Hand.frames`
FRAME = np.array([0, *(base + level for base in _BASES for level in range(3))])  # MANO's joints in `frames`
JOINT = np.where(FRAME > 0, FRAME + (FRAME - 1) // 3, 0)  # and in `joints`
ARCHED = np.array([[7, 8, 9], [10, 11, 12]])  # joints of little and ring: the arch of the palm moves them as one


class _Surface(typing.NamedTuple):
    hand: SkinnedHand
    rest: np.ndarray  # (16, 3, 3) a joint's turn from rest = its frame @ rest
    arch: np.ndarray  # (V, 3, 2) how the skin at rest goes with the knuckles of little and ring, as the palm arches


@functools.cache
def _surface() -> _Surface:
    with np.load(Path(__file__).with_name("surface.npz")) as file:
        stored = dict(file)
    arrays = {key: stored[key].astype(np.float32) for key in ("template", "shape_dirs", "pose_dirs", "weights")}
    hand = SkinnedHand(
        name="builtin",
        side="right",
        growth=GROWTH,
        faces=stored["faces"].astype(np.int32),
        mean_pose=np.zeros(45, np.float32),
        components=np.eye(45, dtype=np.float32),
        **arrays,
    )
    return _Surface(hand, stored["rest"], stored["arch"].astype(np.float32))


def builtin() -> SkinnedHand:
    """The built-in right hand, 956 vertices."""
    return _surface().hand


def rotations_of(frames: jax.Array) -> jax.Array:
    """Bone frames (..., 16, 3, 3) as `body.Hand.frames`, in any coordinates → `forward`'s rotations (..., 16, 3, 3).

    The skeleton follows but for how far the palm arches, which 16 rotations do not say: there it takes what is usual.
    """
    turned = _turned(frames)
    below = jnp.matmul(turned[..., PARENTS[1:], :, :].swapaxes(-1, -2), turned[..., 1:, :, :], precision="highest")
    return jnp.concatenate([turned[..., :1, :, :], below], -3)


def _turned(frames):
    """Turns (..., 16, 3, 3) of MANO's joints from rest."""
    return jnp.matmul(frames[..., FRAME, :, :], _surface().rest, precision="highest")


@jax.jit
def vertices_of(frames: jax.Array, joints: jax.Array, shape: jax.Array) -> jax.Array:
    """The skin (..., V, 3) mm of body hands, in the coordinates of their joints, the palm's arch as it is.

    Args:
        frames: (..., 16, 3, 3) as `body.Hand.frames`, all in the coordinates of the joints.
        joints: (..., 21, 3) mm.
        shape: (..., 10).
    """
    hand, _, arch = _surface()
    posed = forward(hand, rotations_of(frames), shape)
    turned = _turned(frames)
    miss = (joints - joints[..., :1, :]) - (posed.joints - posed.joints[..., :1, :])
    knuckles = miss[..., JOINT[ARCHED[:, 0]], :]  # (..., 2, 3)
    sink = jnp.einsum("...kc,...c->...k", knuckles, turned[..., 0, :, 1], precision="highest")  # (..., 2) at rest
    rigid = jnp.zeros((*sink.shape[:-1], 16)).at[..., ARCHED].set(sink[..., None])  # (..., 16)
    move = (joints - posed.joints)[..., JOINT, :] - turned[..., 1] * rigid[..., None]  # (..., 16, 3)
    maps = jnp.concatenate([turned, move[..., None]], -1)  # (..., 16, 3, 4)
    maps = jnp.einsum("vj,...jcd->...vcd", hand.weights[:-5], maps, precision="highest")
    slide = jnp.einsum("vck,...k->...vc", arch, sink, precision="highest")
    return posed.vertices + jnp.einsum("...vcd,...vd->...vc", maps[..., :3], slide) + maps[..., 3]
