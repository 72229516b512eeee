"""From the joints of one convention to those of another: a linear mix of joints, the same for x, y and z.

Data sets put the 21 joints of the same names at different places: the bones of MediaPipe and of hand-graph-cnn differ
by 8 to 28 % at the palm and the thumb. Every joint of one convention is close to a weighted sum of the joints of the
other. The weights do not depend on the pose, so few hands are enough to fit them, and they hold for other poses.
"""

import typing

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

Array = jax.Array | np.ndarray
JOINTS = 21


def identity() -> jax.Array:
    """The mix (21, 21) that changes nothing."""
    return jnp.eye(JOINTS)


def fit(
    joints: ArrayLike,
    target: ArrayLike,
    valid: ArrayLike | None = None,
    *,
    ridge: float = 0.1,
    translated: bool = False,
) -> np.ndarray:
    """Fit the mix that maps joints of one convention to those of another, by ridge regression towards the identity.

    Each row of the mix sums to 1, so that it maps translated joints to translated joints.

    Args:
        joints: (N, 21, D) of the first convention; D is 2 or 3, the unit any.
        target: (N, 21, D) of the second convention, of the same hands.
        valid: (N,) 0 for hands that are left out; None takes all.
        ridge: weight of the squared difference to the identity, in parts of the joints' mean squared distance from
            their centroid, over all hands.
        translated: the two may differ by an unknown translation of each hand.

    Returns:
        (21, 21) float64, for `apply`.
    """
    joints, target = np.asarray(joints, np.float64), np.asarray(target, np.float64)
    if valid is not None:
        joints, target = joints[np.asarray(valid) > 0], target[np.asarray(valid) > 0]
    centred, change = joints - joints.mean(1, keepdims=True), target - joints
    if translated:
        change = change - change.mean(1, keepdims=True)
    moment = np.einsum("njd,nkd->jk", centred, centred)  # (21, 21)
    weight = ridge * np.trace(moment) / JOINTS
    # The pseudoinverse, since centred joints sum to 0: without a ridge the moment has no inverse.
    inverse = np.linalg.pinv(moment + weight * np.eye(JOINTS), rcond=1e-10, hermitian=True)
    return np.eye(JOINTS) + np.einsum("njd,nkd->jk", change, centred) @ inverse


def apply(mix: Array, joints: Array) -> typing.Any:
    """Joints (..., 21, D) of one convention → (..., 21, D) of the other; of the kind of array that `joints` is.

    Args:
        mix: (21, 21).
        joints: in 2D or 3D.
    """
    if isinstance(joints, jax.Array):
        return jnp.matmul(mix, joints, precision="highest")
    return np.asarray(mix) @ joints
