"""Two hands in one image: errors about each hand's own wrist, of the way between both, and of which hands there are.

Both hands are one array of joints, the right one first, each with its root at the place that `roots` gives; the
default is InterHand2.6M's order, where the wrist comes last.
"""

from functools import partial

import jax
import jax.numpy as jnp

from jaxhand.metrics.pose import distances
from jaxhand.metrics.procrustes import length

ROOTS = (20, 41)  # right wrist, left wrist


@partial(jax.jit, static_argnames="roots")
def two_hand_distances(pred, gt, *, roots=ROOTS):
    """Distance of every joint of (..., 2J, 3) hands to its target, each hand relative to its own root: (..., 2J) mm."""
    return distances(_root_relative(pred, roots), _root_relative(gt, roots))


@partial(jax.jit, static_argnames="roots")
def two_hand_valid(valid, *, roots=ROOTS):
    """Mask (..., 2J) of labelled joints that also have a labelled root to be relative to, as InterHand2.6M masks."""
    valid = valid > 0
    return valid & jnp.repeat(valid[..., jnp.array(roots)], valid.shape[-1] // 2, axis=-1)


@partial(jax.jit, static_argnames="roots")
def mrrpe(pred, gt, *, roots=ROOTS, valid=None, relative_root=None):
    """Mean relative-root position error of InterHand2.6M: of the vector from the right root to the left one.

    Args:
        pred: (..., 2J, 3) joints, mm, both hands in one frame.
        gt: (..., 2J, 3) joints, mm.
        roots: of the right and the left hand.
        valid: (..., 2J) mask of labelled joints.
        relative_root: (..., 3) mm, that vector where a network predicts it by itself; None takes it from `pred`.

    Returns:
        (...,) mm, one number a sample. NaN where a root is not valid.
    """
    right, left = roots
    predicted, actual = (joints[..., left, :] - joints[..., right, :] for joints in (pred, gt))
    error = length(jnp.moveaxis((predicted if relative_root is None else relative_root) - actual, -1, 0))
    if valid is None:
        return error
    valid = valid > 0
    return jnp.where(valid[..., right] & valid[..., left], error, jnp.nan)


@jax.jit
def handedness_correct(pred, gt):
    """Whether (..., 2) probabilities of a right and a left hand tell which of them (..., 2) there are: (...,) bool.

    As InterHand2.6M counts it, both must be on the right side of 0.5; 0.5 itself is wrong.
    """
    return jnp.where(gt > 0, pred > 0.5, pred < 0.5).all(-1)


def _root_relative(joints, roots):
    """Joints (..., 2J, 3), each hand about its root."""
    hands = jnp.split(joints, 2, axis=-2)
    origins = (joints[..., root : root + 1, :] for root in roots)
    return jnp.concatenate([hand - origin for hand, origin in zip(hands, origins)], axis=-2)
