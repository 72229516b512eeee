"""Fit a hand surface to 21 joints: its pose, shape and size, by nonlinear least squares.

The pose has the 24 angles of the built-in hand, so fingers bend as fingers do. Angles outside of `body.LIMITS`, poses
that are rare in the built-in world and unusual shapes have a cost: the surface stays plausible where joints are not.
The method is Levenberg's and Marquardt's (Marquardt, "An Algorithm for Least-Squares Estimation of Nonlinear
Parameters", 1963), from a start that the palm and the angles between bones determine.
"""

import dataclasses
import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.hand.builtin import body, surface
from jaxhand.hand.rotations import axis_angle_to_matrix
from jaxhand.hand.skeleton import FINGER_OF_JOINT, PARENTS
from jaxhand.hand.skinned import NUM_FINGERTIPS, OUR_ORDER, SkinnedHand, forward

BATCH = 8  # hands of `fit_all` that are fitted at a time
STEPS = 12
# Error of a joint across its ray, for a hand of mean size, whose cost equals that of a pose or a shape at one standard
# deviation. Networks estimate the depth of joints less accurately: along the ray, the error may be `DEPTH` times this.
JOINT_MM, DEPTH = 1.0, 3.0
LIMIT = np.float32(np.deg2rad(3))  # angle outside of its limits with this cost, radians
SIZE = 0.2  # logarithm of the size, relative to the start's, with this cost
_FIRST_DAMPING, _LESS_DAMPING, _MORE_DAMPING = 1e-2, 0.25, 8.0
_PALM = np.array([0, 5, 9, 13, 17])  # joints that hardly move relative to each other
_BENT = np.array([[3, 5], [7, 8], [11, 12], [15, 16], [19, 20]])  # (5, 2) angles of the outer two joints
_KNUCKLES = np.array([7, 11, 15, 19])  # angles of flexion
# For each angle of the pose, the joint about which it turns the joints further out: (24,), (24, 21)
_PIVOT = np.array([1, 1, 1, 2, 2, 3, *(4 * finger + n for finger in range(1, 5) for n in (1, 1, 2, 3)), 13, 17])
_TURNS = (FINGER_OF_JOINT == FINGER_OF_JOINT[_PIVOT][:, None]) & (np.arange(21) > _PIVOT[:, None])
# For joints 1 to 20, the joint of `skinned` that turns the bone to them: (20,)
_BONE = OUR_ORDER[PARENTS[1:]] - NUM_FINGERTIPS
_COUNT = 7 + body.NUM_DOF + body.NUM_SHAPE  # of parameters
_POSE = np.arange(7, 7 + body.NUM_DOF)  # those of the pose
_PARTS = np.cumsum([3, 3, 1, body.NUM_DOF])  # where the parts of a change end, see `_State.changed`


class Fitted(typing.NamedTuple):
    """Fitted hands, in the camera frame."""

    vertices: jax.Array  # (N, V, 3) mm
    joints: jax.Array  # (N, 21, 3) mm, those of the surface


class _State(typing.NamedTuple):
    """The parameters of one hand."""

    rotation: jax.Array  # (3, 3) hand frame of `body` → camera frame
    wrist: jax.Array  # (3,) mm
    log_size: jax.Array  # (1,)
    pose: jax.Array  # (24,)
    shape: jax.Array  # (10,)

    def changed(self, change: jax.Array) -> "_State":
        """The parameters after a change (41,); the rotation changes by an axis-angle of the camera frame."""
        turn, shift, log_size, pose, shape = jnp.split(change, _PARTS)
        rotation = axis_angle_to_matrix(turn) @ self.rotation
        return _State(rotation, self.wrist + shift, self.log_size + log_size, self.pose + pose, self.shape + shape)


@functools.cache
def _prior() -> tuple[np.ndarray, np.ndarray]:
    """Mean (24,) of the poses that `body.sample_pose` draws, and the inverse covariance (41, 41) of all parameters."""
    poses = np.stack(list(body.POSES.values()))
    noise = 0.07 * (body.LIMITS[:, 1] - body.LIMITS[:, 0])
    # Two presets are mixed by weights of Beta(1/2, 1/2): their covariance shrinks by E[w² + (1 - w)²] = 3/4.
    covariance = 0.75 * np.cov(poses.T, bias=True) + np.diag(noise**2)
    precision = np.diag(np.r_[np.zeros(6), SIZE**-2, np.ones(body.NUM_DOF + body.NUM_SHAPE)])
    precision[np.ix_(_POSE, _POSE)] = np.linalg.inv(covariance)
    return poses.mean(0).astype(np.float32), precision.astype(np.float32)


@functools.cache
def _skeleton(hand_model: SkinnedHand) -> SkinnedHand:
    """The same hand without vertices."""
    arrays = {key: getattr(hand_model, key) for key in ("template", "shape_dirs", "pose_dirs", "weights")}
    return dataclasses.replace(hand_model, **{key: array[hand_model.num_vertices :] for key, array in arrays.items()})


def fit_all(hand_model: SkinnedHand, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit any number of hands as `fit` does, `BATCH` at a time, so that one size is compiled.

    Args:
        hand_model: as for `fit`.
        joints: as for `fit`.

    Returns:
        Vertices (N, V, 3) and joints (N, 21, 3) of the surfaces, mm.
    """
    count = len(joints)
    vertices, on_surface = (np.zeros((count, rows, 3), np.float32) for rows in (hand_model.num_vertices, 21))
    for start in range(0, count, BATCH):
        rows = np.arange(start, start + BATCH)
        fitted = jax.device_get(fit(hand_model, joints[np.minimum(rows, count - 1)]))
        kept = slice(start, min(start + BATCH, count))
        vertices[kept], on_surface[kept] = (points[: count - start] for points in fitted)
    return vertices, on_surface


@functools.partial(jax.jit, static_argnums=0)
def fit(hand_model: SkinnedHand, joints: jax.Array) -> Fitted:
    """Fit the surfaces of right hands to their joints.

    Args:
        hand_model: the built-in hand or MANO, a right hand.
        joints: (N, 21, 3) mm of right hands in the camera frame. Left hands must be mirrored.

    Returns:
        The surfaces; NaN for a hand with a joint that is not finite.
    """
    finite = jnp.isfinite(joints).all((1, 2), keepdims=True)  # (N, 1, 1)
    with jax.default_matmul_precision("highest"):
        states = jax.vmap(functools.partial(_solve, _skeleton(hand_model)))(jnp.where(finite, joints, _mean_joints()))
        posed = jax.vmap(lambda state: _posed(hand_model, state, _frames(state)))(states)
    return Fitted(*(jnp.where(finite, points, jnp.nan) for points in posed))


def _mean_joints() -> jax.Array:
    """Joints (21, 3) of the mean hand in the mean pose, mm."""
    return body.forward(jnp.asarray(_prior()[0]), jnp.zeros(body.NUM_SHAPE)).joints


def _start(joints: jax.Array) -> _State:
    """Align the palm of the mean hand, and compute how far fingers bend from the directions of their bones."""
    source, target = _mean_joints()[_PALM], joints[_PALM]
    wrist, source, target = target[0], source - source.mean(0), target - target.mean(0)
    u, _, vt = jnp.linalg.svd(target.T @ source)
    rotation = (u * jnp.stack([1.0, 1.0, jnp.sign(jnp.linalg.det(u @ vt))])) @ vt  # the best one: Kabsch, 1976
    log_size = jnp.log(jnp.maximum(jnp.sum(target**2), 1e-6) / jnp.sum(source**2)) / 2
    points = joints[1:].reshape(5, 4, 3)
    bones = (points[:, 1:] - points[:, :-1]) @ rotation  # (5, 3, 3) in the hand frame
    knuckles = jnp.arctan2(-bones[1:, 0, 2], bones[1:, 0, 1])
    sine = jnp.linalg.norm(jnp.cross(bones[:, :-1], bones[:, 1:]), axis=-1)
    bent = jnp.arctan2(sine, jnp.sum(bones[:, :-1] * bones[:, 1:], -1))  # (5, 2)
    pose = jnp.asarray(_prior()[0]).at[_KNUCKLES].set(knuckles).at[_BENT].set(bent)
    pose = jnp.clip(pose, body.LIMITS[:, 0], body.LIMITS[:, 1])
    return _State(rotation, wrist, log_size[None], pose, jnp.zeros(body.NUM_SHAPE))


def _frames(state: _State) -> jax.Array:
    """The frames (16, 3, 3) of the posed bones in the camera frame, as in `body.Hand`."""
    return state.rotation @ body.forward(state.pose, state.shape).frames


def _posed(hand_model: SkinnedHand, state: _State, frames: jax.Array) -> Fitted:
    """One hand: vertices (V, 3) and joints (21, 3), mm."""
    posed = forward(hand_model, surface.rotations_of(frames), state.shape)
    move = lambda points: (points - posed.joints[0]) * jnp.exp(state.log_size) + state.wrist  # noqa: E731
    return Fitted(move(posed.vertices), move(posed.joints))


def _linearized(skeleton: SkinnedHand, state: _State) -> tuple[jax.Array, jax.Array]:
    """Joints (21, 3), and their derivatives (21, 3, 41) with respect to a change.

    The derivatives leave out what a change does to the corrections for the pose, such as the arch of the palm, and to
    the scale of the built-in hand. Both are small.
    """
    frames = _frames(state)
    joints = _posed(skeleton, state, frames).joints
    arm = joints - joints[0]
    by_turn = jnp.cross(jnp.eye(3)[:, None], arm)  # (3, 21, 3)
    by_shift = jnp.broadcast_to(jnp.eye(3)[:, None], (3, 21, 3))
    by_pose = jnp.cross(_axes(state, frames)[:, None], joints - joints[_PIVOT][:, None])  # (24, 21, 3)
    by_pose = jnp.where(_TURNS[..., None], by_pose, 0)
    by_shape = _bones_by_shape(skeleton, frames) * jnp.exp(state.log_size)  # (10, 21, 3)
    by_shape = by_shape.at[0].add(skeleton.global_scale_per_beta * arm)
    return joints, jnp.moveaxis(jnp.concatenate([by_turn, by_shift, arm[None], by_pose, by_shape]), 0, -1)


def _axes(state: _State, frames: jax.Array) -> jax.Array:
    """The axes (24, 3) about which the angles of the pose turn bones, for posed frames (16, 3, 3)."""
    thumb = state.rotation @ body.REST_FRAMES[0]
    sine, cosine = jnp.sin(state.pose), jnp.cos(state.pose)
    spread = jnp.zeros((4, 3)).at[:, 2].set(1.0)
    spread = spread.at[2:, 1].set(sine[22:]).at[2:, 2].set(cosine[22:]) @ state.rotation.T  # the arch tilts two of them
    bend = -frames[:, :, 0]  # (16, 3) of wrist, thumb 1-3, index 1-3 …
    twist = thumb @ jnp.stack([-sine[1], cosine[1], jnp.zeros(())])
    of_thumb = jnp.stack([bend[1], thumb[:, 2], twist, bend[2], frames[1, :, 2], bend[3]])
    of_fingers = jnp.concatenate([spread[:, None], bend[4:].reshape(4, 3, 3)], 1).reshape(16, 3)
    return jnp.concatenate([of_thumb, of_fingers, bend[:1], bend[:1]])


def _bones_by_shape(skeleton: SkinnedHand, frames: jax.Array) -> jax.Array:
    """Derivatives (10, 21, 3) of the joints, relative to the wrist, with respect to the shape of a hand of size 1."""
    directions = skeleton.shape_dirs[OUR_ORDER]  # (21, 3, 10) in the rest pose
    bones = directions[1:] - directions[PARENTS[1:]]
    turned = surface.rotations_from_rest(frames)[_BONE] @ bones  # (20, 3, 10)
    joints = jnp.cumsum(turned.reshape(5, 4, 3, 10), 1).reshape(20, 3, 10)
    return jnp.moveaxis(jnp.concatenate([jnp.zeros((1, 3, 10)), joints]), -1, 0)


def _solve(skeleton: SkinnedHand, joints: jax.Array) -> _State:
    """The parameters with the least squares, for joints (21, 3)."""
    first, (low, high) = _start(joints), body.LIMITS.T
    rays = joints / jnp.maximum(jnp.linalg.norm(joints, axis=-1, keepdims=True), 1e-6)
    along = rays[:, :, None] * rays[:, None]  # (21, 3, 3) projections on the rays
    # (21, 3, 3), errors in mm → errors whose squares are summed
    scale = (jnp.eye(3) - (1 - 1 / DEPTH) * along) / (JOINT_MM * jnp.exp(first.log_size))

    def equations(state):
        """The sum of squares, half its gradient (41,), and the normal matrix (41, 41)."""
        fitted, slope = _linearized(skeleton, state)
        error, slope = (scale @ (fitted - joints)[..., None]).ravel(), (scale @ slope).reshape(63, _COUNT)
        mean, precision = _prior()
        unusual = jnp.concatenate([jnp.zeros(6), state.log_size - first.log_size, state.pose - mean, state.shape])
        outside = state.pose - jnp.clip(state.pose, low, high)
        total = error @ error + unusual @ precision @ unusual + outside @ outside / LIMIT**2
        gradient = (slope.T @ error + precision @ unusual).at[_POSE].add(outside / LIMIT**2)
        normal = slope.T @ slope + precision
        return total, gradient, normal.at[_POSE, _POSE].add((outside != 0) / LIMIT**2)

    def step(carry, _):
        best, of_best, damping, tried = carry
        of_tried = equations(tried)
        better = of_tried[0] < of_best[0]
        choose = functools.partial(jnp.where, better)
        best, of_best = jax.tree.map(choose, (tried, of_tried), (best, of_best))
        damping = damping * choose(_LESS_DAMPING, _MORE_DAMPING)
        _, gradient, normal = of_best
        damped = normal + damping * jnp.diag(jnp.diagonal(normal))
        change = -jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(damped), gradient)
        return (best, of_best, damping, best.changed(change)), None

    nothing = jnp.float32(jnp.inf), jnp.zeros(_COUNT), jnp.zeros((_COUNT, _COUNT))
    (state, *_), _ = jax.lax.scan(step, (first, nothing, jnp.float32(_FIRST_DAMPING), first), length=STEPS)
    return state
