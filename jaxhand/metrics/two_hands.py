"""Two hands in one image: errors relative to each hand's wrist, of the vector between both wrists, and of handedness.

The joints of both hands are in one array, the right hand first. `roots` are the indices of the right and the left root
in it; the default is InterHand2.6M's order, where the wrist is the last joint of a hand.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxhand.metrics.pose import distances
from jaxhand.metrics.procrustes import checked_joint, norm

ROOTS = (20, 41)  # right wrist, left wrist


@partial(jax.jit, static_argnames="roots")
def two_hand_distances(pred: ArrayLike, gt: ArrayLike, *, roots: tuple[int, int] = ROOTS) -> jax.Array:
    """Distance of each joint to its target, each hand relative to its own root.

    Args:
        pred: (..., 2J, 3) joints, mm.
        gt: (..., 2J, 3) joints, mm.
        roots: indices of the right and the left root.

    Returns:
        (..., 2J) mm.
    """
    return distances(_root_relative(pred, roots), _root_relative(gt, roots))


@partial(jax.jit, static_argnames="roots")
def two_hand_valid(valid: ArrayLike, *, roots: tuple[int, int] = ROOTS) -> jax.Array:
    """Mask of the labelled joints whose root is labelled too, as in InterHand2.6M.

    Args:
        valid: (..., 2J) mask of labelled joints.
        roots: indices of the right and the left root.

    Returns:
        (..., 2J) bool.
    """
    labelled = jnp.asarray(valid) > 0
    roots = _checked(roots, labelled.shape[-1])
    return labelled & jnp.repeat(labelled[..., np.array(roots)], labelled.shape[-1] // 2, axis=-1)


@partial(jax.jit, static_argnames="roots")
def mrrpe(
    pred: ArrayLike,
    gt: ArrayLike,
    *,
    roots: tuple[int, int] = ROOTS,
    valid: ArrayLike | None = None,
    relative_root: ArrayLike | None = None,
) -> jax.Array:
    """Mean relative-root position error of InterHand2.6M: the error of the vector from the right to the left root.

    Args:
        pred: (..., 2J, 3) joints, mm, both hands in the same coordinate system.
        gt: (..., 2J, 3) joints, mm.
        roots: indices of the right and the left root.
        valid: (..., 2J) mask of labelled joints.
        relative_root: (..., 3) mm, that vector if a network predicts it separately; None takes it from `pred`.

    Returns:
        (...,) mm, one number per sample. NaN where a root is not valid.
    """
    right, left = _checked(roots, jnp.shape(gt)[-2])
    predicted, actual = (joints[..., left, :] - joints[..., right, :] for joints in map(jnp.asarray, (pred, gt)))
    error = norm(jnp.moveaxis((predicted if relative_root is None else relative_root) - actual, -1, 0))
    if valid is None:
        return error
    labelled = jnp.asarray(valid) > 0
    return jnp.where(labelled[..., right] & labelled[..., left], error, jnp.nan)


@jax.jit
def handedness_correct(pred: ArrayLike, gt: ArrayLike) -> jax.Array:
    """Whether the predicted handedness is correct, as InterHand2.6M counts it.

    Args:
        pred: (..., 2) probabilities that a right and a left hand are present.
        gt: (..., 2) which of them are present, > 0 for yes.

    Returns:
        (...,) bool: whether both probabilities are on the correct side of 0.5; 0.5 itself is wrong.
    """
    pred = jnp.asarray(pred)
    return jnp.where(jnp.asarray(gt) > 0, pred > 0.5, pred < 0.5).all(-1)


def _root_relative(joints, roots):
    """Joints (..., 2J, 3), each hand relative to its root."""
    roots = _checked(roots, jnp.shape(joints)[-2])
    hands = jnp.split(joints, 2, axis=-2)
    origins = (jnp.asarray(joints)[..., root : root + 1, :] for root in roots)
    return jnp.concatenate([hand - origin for hand, origin in zip(hands, origins)], axis=-2)


def _checked(roots, count) -> tuple[int, int]:
    """The indices of both roots among `count` joints; ValueError if there is no such joint."""
    right, left = (checked_joint("each of roots", root, count) for root in roots)
    return right, left
