"""Find a hand's position in front of the camera, from its joints in mm (any origin) and in pixels, or from depth.

Every function but `place_by_depth` takes NumPy or JAX arrays and returns the same kind.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.hand.camera import focal_length, unproject
from jaxhand.hand.skeleton import PARENTS

NEAREST_MM = 50.0  # smallest distance used for a weight, so that a very near joint does not dominate
FARTHEST_MM = 1e4  # largest distance that `place_at_distance` takes from the closed form
FREEDOM = 3.0  # degrees of freedom of the prior in `place_at_distance`
ROUNDS = 3  # number of least-squares solutions; the distances of each one are the weights of the next
# (21,) mm from a joint to the skin in front of it: about the mean over views of the built-in hand
SKIN_MM = np.array([18, 19, 15, 13, 5, *4 * [13, 11, 10, 5]], float)
VOTE_MM, REFINE_MM = 25.0, 15.0  # standard deviations of a joint's depth, when the distance is searched and refined
BONE_MM, BEHIND_MM = 14.0, 20.0  # a bone hides what is nearer than that to it in the image and that far behind it
SIZE_SPREAD = 0.3  # standard deviation of the logarithm of a hand's size over that of the model


def translation(joints, pixels, K):
    """Return the translation with which joints project to given pixels, by iteratively reweighted least squares.

    A joint X, moved by t, lies on the ray u of its pixel if (X + t)_xy = u (Z + t_z): two linear equations in t per
    joint, solved in closed form. The equations are divided by the joint's distance Z + t_z, so that the errors are
    proportional to pixels. The distance is taken from the previous solution.

    Args:
        joints: (..., N, 3) mm, around any origin, along the camera's axes.
        pixels: (..., N, 2) px.
        K: (..., 3, 3), any camera whose last row is 0 0 1.

    Returns:
        (..., 3) mm.
    """
    xp = _module(joints, pixels, K)
    u = rays(pixels, K)[..., :2]  # (..., N, 2)
    target = u * joints[..., 2:] - joints[..., :2]  # (..., N, 2)
    w = xp.ones_like(target[..., 0])  # (..., N)
    for _ in range(ROUNDS):
        wu = w[..., None] * u
        total, wu_sum = w.sum(-1), wu.sum(-2)  # (...), (..., 2)
        zero = xp.zeros_like(total)
        normal = xp.stack(
            [
                xp.stack([total, zero, -wu_sum[..., 0]], -1),
                xp.stack([zero, total, -wu_sum[..., 1]], -1),
                xp.stack([-wu_sum[..., 0], -wu_sum[..., 1], (wu * u).sum((-1, -2))], -1),
            ],
            -2,
        )  # (..., 3, 3)
        right = xp.stack(
            [(w * target[..., 0]).sum(-1), (w * target[..., 1]).sum(-1), -(wu * target).sum((-1, -2))], -1
        )  # (..., 3)
        t = _solve(normal, right)
        w = 1 / xp.maximum(joints[..., 2] + t[..., 2:], NEAREST_MM) ** 2
    return t


def place_on_rays(joints, pixels, K):
    """Move joints (..., N, 3) mm, around any origin, onto the rays of their pixels: (..., N, 3) mm in the camera frame.

    The distance of a joint is its z plus the z of `translation`. Its x and y follow from the ray at this distance. The
    arguments are those of `translation`.
    """
    z = joints[..., 2:] + translation(joints, pixels, K)[..., None, 2:]
    return rays(pixels, K) * z


def place_at_distance(joints, pixels, K, log_distance, variances, prior):
    """As `place_on_rays`, with two more estimates of the hand's distance.

    The mean depth of the joints is the mean of all estimates in proportion to the inverse of their variances. All are
    logarithms: a relative error is the same for a near and a far hand. The prior is the distribution of the distances
    of a data set. It is Student's: a hand at a distance that the data set lacks is not drawn to it.

    Args:
        joints, pixels, K: as for `translation`.
        log_distance: (...) estimated logarithm of the joints' mean depth in mm over the focal length in px.
        variances: (..., 2) of the logarithm by `translation`, and of `log_distance`.
        prior: (..., 2) mean and variance of the logarithm of the mean depth in mm.

    Returns:
        (..., N, 3) mm in the camera's frame.
    """
    xp = _module(joints, pixels, K)
    middle = joints[..., 2].mean(-1)  # (...)
    closed_form = xp.log(xp.clip(middle + translation(joints, pixels, K)[..., 2], NEAREST_MM, FARTHEST_MM))
    weights, usual = 1 / variances, prior[..., 0]
    certain = weights.sum(-1)
    found = (weights[..., 0] * closed_form + weights[..., 1] * (log_distance + xp.log(focal_length(K)))) / certain
    unusual = (found - usual) ** 2 / (prior[..., 1] + 1 / certain)  # squared, in standard deviations
    weight = 1 / (prior[..., 1] * (1 + unusual / FREEDOM))
    log_depth = (certain * found + weight * usual) / (certain + weight)
    z = joints[..., 2] + (xp.exp(log_depth) - middle)[..., None]
    return rays(pixels, K) * z[..., None]


def place_by_depth(joints: np.ndarray, pixels: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Move a hand along the rays of its joints to the distance that a depth image measures.

    A hand that is scaled around the camera projects to the same pixels, so the depth decides the factor alone. Every
    joint at whose pixel depth is measured votes for one; the background between the fingers and objects in front of the
    hand vote for others. A joint behind another part of its hand has no vote. The factor is where the votes are
    densest, refined as a mean with weights that fall with the distance from it.

    Args:
        joints: (21, 3) mm in the camera's frame, as of `place_on_rays`.
        pixels: (21, 2) px of the depth image.
        depth: (H, W) mm, 0 where unknown.

    Returns:
        (21, 3) mm; the joints as they were where no depth is measured at any of them.
    """
    z, skin = joints[:, 2], _depth_at(depth, pixels)
    known = (skin > 0) & (z > NEAREST_MM)
    if not known.any():
        return joints
    in_front = known & ~_hidden(joints)
    known = in_front if in_front.any() else known
    z = z[known]
    votes = (skin[known] + SKIN_MM[known]) / z  # (n,) factors
    apart = (votes[:, None] - votes) * z.mean()  # (n, n) mm
    density = np.exp(-((apart / VOTE_MM) ** 2) / 2).sum(1) * np.exp(-((np.log(votes) / SIZE_SPREAD) ** 2) / 2)
    factor = votes[density.argmax()]
    for _ in range(ROUNDS):
        weight = z**2 * np.exp(-((z * (votes - factor) / REFINE_MM) ** 2) / 2)
        factor = (weight * votes).sum() / weight.sum()
    return factor * joints


def _hidden(joints: np.ndarray) -> np.ndarray:
    """Which joints (21,) lie behind a bone of their hand, where a camera measures that bone's depth."""
    along = np.linspace(0, 1, 5)[:, None, None]
    # (100, 3), five points on each of the 20 bones
    bones = (joints[PARENTS[1:]] * (1 - along) + joints[1:] * along).reshape(-1, 3)
    xy, on_bones = (points[:, :2] / points[:, 2:] * joints[:, 2].mean() for points in (joints, bones))  # mm
    beside = np.linalg.norm(xy[:, None] - on_bones, axis=-1)  # (21, 100)
    behind = joints[:, 2:] - bones[:, 2]
    return ((beside < BONE_MM) & (behind > BEHIND_MM)).any(1)


def _depth_at(depth: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Depth (N,) mm at pixels (N, 2), the median of the known values of 3x3 pixels; 0 where none is known."""
    near = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), -1).reshape(9, 2)
    x, y = np.moveaxis(np.rint(pixels).astype(int)[:, None] + near, -1, 0)  # (N, 9)
    height, width = depth.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    values = np.where(inside, depth[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)], 0)
    values = np.ma.masked_less_equal(values, 0)
    return np.ma.median(values, axis=1).filled(0)


def rays(pixels, K):
    """Pixels (..., N, 2) → points (..., N, 3) at z = 1 that project to these pixels."""
    return unproject(pixels, _module(pixels, K).ones_like(pixels[..., 0]), K)


def _solve(normal, right):
    """Solve normal (..., 3, 3) @ x = right (..., 3), where `normal` is symmetric and its entry [0, 1] is 0."""
    xp = _module(normal, right)
    total = normal[..., 0, 0]
    coupling = normal[..., 2, :2] / total[..., None]  # (..., 2)
    z = right[..., 2] - (coupling * right[..., :2]).sum(-1)
    z = z / xp.maximum(normal[..., 2, 2] - (coupling**2).sum(-1) * total, 1e-12 * total)
    xy = right[..., :2] / total[..., None] - coupling * z[..., None]
    return xp.concatenate([xy, z[..., None]], -1)


def _module(*arrays):
    return jnp if any(isinstance(array, jax.Array) for array in arrays) else np
