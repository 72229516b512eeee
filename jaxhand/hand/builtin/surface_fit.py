"""Compute the skin of the built-in hand from its round cones alone: `python -m jaxhand.hand.builtin.surface_fit OUT`.

Step 1 makes a mesh of the mean hand (surface nets, then centroidal Voronoi remeshing). Step 2 computes its skinning
weights. Step 3 fits ridge regressions that move the skinned vertices onto the smooth skin of hands in thousands of
poses. The script takes five minutes on one core.
"""

import argparse
import sys
import typing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.hand.builtin import body
from jaxhand.hand.builtin.surface import ARCH_JOINTS, GLOBAL_SCALE_PER_BETA, MANO_AXES, MANO_TO_FRAME, MANO_TO_JOINT
from jaxhand.hand.builtin.surface_mesh import WRIST_MM, closed_mesh, distances, own_cones, skin, vertex_neighbors
from jaxhand.hand.skinned import PARENTS

# The fingers are spread and slightly bent, so that the webs between them are short and no joint rotates far from here.
REST_POSE = np.deg2rad([0] * 6 + [n for spread in (8, 1, -5, -10) for n in (spread, 12, 18, 12)] + [0, 0])
FINGERTIPS = [4, 8, 12, 16, 20]  # indices among our 21 joints
BONE_PARENTS = [*PARENTS[1:], 15, 3, 6, 12, 9]  # parents of MANO's joints 1 to 15, then of the fingertips


# ---- skinning weights
def ramp(x: np.ndarray) -> np.ndarray:
    """A smooth step: 0 below -1, 1 above 1."""
    x = np.clip(x / 2 + 0.5, 0, 1)
    return x * x * (3 - 2 * x)


def skinning_weights(points: np.ndarray, faces: np.ndarray, hand: body.Hand, cones: body.Cones) -> np.ndarray:
    """Return weights (V, 16) in MANO's joint order: a point follows the cones near it, and a cone follows its bones.

    Args:
        points: (V, 3) mm, vertices in the rest pose.
        faces: (F, 3).
        hand, cones: the hand in the rest pose, and its cones.
    """
    distance, along_cone = map(np.asarray, distances(points, cones))
    joints, frames = np.asarray(hand.joints), np.asarray(hand.frames)
    follow = np.zeros((len(points), body.NUM_CONES, 16))
    for digit in range(5):
        gate = []
        for level in range(3):
            frame, before = 1 + 3 * digit + level, 3 * digit + level if level else 0
            along = frames[frame][:, 1] + frames[before][:, 1] * (digit > 0 or level > 0)
            width = (16.0 if digit == 0 else 12.0) if level == 0 else 9.5 - level
            gate.append(ramp((points - joints[1 + 4 * digit + level]) @ (along / np.linalg.norm(along)) / width))
        chain = np.cumprod(np.stack([np.ones(len(points)), *gate], 1), 1)  # (V, 4): 1, then beyond joint 1, 2, 3
        chain = chain - np.append(chain[:, 1:], np.zeros((len(points), 1)), 1)
        for cone in range(3 * digit, 3 * digit + 3):
            follow[:, cone, [0, 1 + 3 * digit, 2 + 3 * digit, 3 + 3 * digit]] = chain
    follow[:, 15:, 0] = 1
    for cone, thumb in (
        (22, along_cone[:, 22]),
        (24, 1 - along_cone[:, 24]),
        (25, 1 - along_cone[:, 25]),
    ):  # ball and web of the thumb
        follow[:, cone, 1], follow[:, cone, 0] = thumb, 1 - thumb
    near = np.exp((distance.min(1, keepdims=True) - distance) / 1.5)
    weights = np.einsum("vc,vcj->vj", near / near.sum(1, keepdims=True), follow)
    neighbors = vertex_neighbors(faces)
    for _ in range(6):
        weights = (weights + weights[neighbors].mean(1)) / 2
    weights = np.where(weights < 0.01, 0, weights)[:, MANO_TO_FRAME]
    weights = np.round(weights / weights.sum(1, keepdims=True) * 4096) / 4096
    weights[np.arange(len(weights)), weights.argmax(1)] += 1 - weights.sum(1)
    return weights.astype(np.float32)


# ---- regressions
class People(typing.NamedTuple):
    """N sampled hands. All arrays have a leading axis N, which the shapes below leave out."""

    features: np.ndarray  # (145,): 1, shape parameters without size (9), 15 rotations minus identity (135)
    rotations: np.ndarray  # (16, 3, 3) rotations of the joints relative to the rest pose
    positions: np.ndarray  # (21, 3) mm: joints in MANO's order, then fingertips
    rest_positions: np.ndarray  # (21, 3) mm: these points in the rest pose, divided by the hand's scale
    hand_scale: np.ndarray  # ()
    wrist: np.ndarray  # () mm, y at which the skin ends
    cones: body.Cones


def sample_people(rest_frames: np.ndarray, seed: int, count: int, uniform_share: float) -> People:
    """Sample hands from the pose prior.

    Args:
        rest_frames: (16, 3, 3), see `rest_hand`.
        seed: seed of the random numbers.
        count: number of hands, N.
        uniform_share: fraction of hands whose pose is instead uniform within the joint limits.
    """

    @jax.jit
    @jax.vmap
    def sample(index):
        draws = body.Draws(body.random_numbers(seed, index))
        shape = body.sample_shape(draws)
        pose = body.sample_pose(draws, shape)
        uniform = body.LIMITS[:, 0] + draws.uniform(24) * (body.LIMITS[:, 1] - body.LIMITS[:, 0])
        hand = body.forward(jnp.where(draws.uniform() < uniform_share, uniform, pose), shape)
        return shape, hand, body.body_cones(hand)

    shape, hand, cones = jax.tree.map(np.asarray, sample(jnp.arange(count, dtype=jnp.uint32)))
    rotations, positions = hand.frames[:, MANO_TO_FRAME] @ rest_frames, hand.joints[:, [*MANO_TO_JOINT, *FINGERTIPS]]
    hand_scale = 1 + GLOBAL_SCALE_PER_BETA * shape[:, 0]
    chain = [np.zeros((count, 3), np.float32)]
    for joint, parent in enumerate(BONE_PARENTS, 1):
        bone = positions[:, joint] - positions[:, parent]
        chain.append(chain[parent] + np.einsum("ndc,nd->nc", rotations[:, parent], bone))
    relative = rotations[:, list(PARENTS[1:])].swapaxes(-1, -2) @ rotations[:, 1:] - np.eye(3)
    features = np.concatenate([np.ones((count, 1)), shape[:, 1:], relative.reshape(count, 135)], 1)
    rest_positions = np.stack(chain, 1) / hand_scale[:, None, None]
    return People(features, rotations, positions, rest_positions, hand_scale, WRIST_MM * hand.scale[:, 1], cones)


def ridge(
    features: np.ndarray, values: np.ndarray, penalty: np.ndarray | float, mean: np.ndarray | float = 0.0
) -> np.ndarray:
    """Ridge regression: predict values from features by a linear function.

    Args:
        features: (N, D).
        values: (N, C).
        penalty: factor of the squared distance between the coefficients and `mean`: one number, (D,), or (C / 3, D)
            with one row for every three columns of `values`.
        mean: (D, C) or one number: the coefficients that the penalty favours.

    Returns:
        Coefficients (D, C).
    """
    features = features.astype(np.float64)
    mean = np.broadcast_to(mean, (features.shape[1], values.shape[1]))
    normal = features.T @ features / len(features)
    moment = features.T @ (values - features @ mean) / len(features)
    regularized = normal + np.asarray(penalty, float)[..., None] * np.eye(len(normal))
    if regularized.ndim == 3:
        moment = moment.reshape(len(normal), -1, 3).swapaxes(0, 1)  # (V, D, 3)
        return mean + np.linalg.solve(regularized, moment).swapaxes(0, 1).reshape(len(normal), -1)
    return mean + np.linalg.solve(regularized, moment)


def joint_regression(people: People) -> np.ndarray:
    """Coefficients (145, 21, 3) of rest joints and fingertips. Only ring and little follow the pose (palm's arch)."""
    penalty = np.r_[[1e-6] * 10, [1e-3] * 135]
    coefficients = np.zeros((145, 21, 3))
    coefficients[:10] = ridge(people.features[:, :10], people.rest_positions.reshape(-1, 63), 1e-6).reshape(10, 21, 3)
    for joints, tip in zip(ARCH_JOINTS, (20, 19)):
        knuckle = ridge(people.features, people.rest_positions[:, joints[0]], penalty)
        bones = people.rest_positions[:, [*joints, tip]] - people.rest_positions[:, joints[:1]]
        coefficients[:10, [*joints, tip]] = ridge(people.features[:, :10], bones.reshape(-1, 12), 1e-6).reshape(
            10, 4, 3
        )
        coefficients[:, [*joints, tip]] += knuckle[:, None]
    return coefficients


@jax.jit
def target_vertices(
    points: jax.Array,
    start: jax.Array,
    weights: np.ndarray,
    own: np.ndarray,
    lift: np.ndarray,
    neighbors: np.ndarray,
    curvature: np.ndarray,
    people: People,
) -> jax.Array:
    """Return positions of vertices in the rest pose for which the posed vertices lie on the skin of each hand.

    Each vertex is moved onto the skin, and then along the skin. The second motion restores the vertex's distances to
    its neighbours in the rest pose, and keeps the vertex near its start.

    Args:
        points: (N, V, 3) current vertices in the rest pose, one set for each of N hands.
        start: (N, V, 3) points that the vertices should stay close to.
        weights: (V, 16) skinning weights.
        own: (V, 28), see `own_cones`.
        lift: (V,) mm, height of each vertex above the skin.
        neighbors: (V, 24), see `vertex_neighbors`.
        curvature: (V, 3) offset of each vertex from the mean of its neighbours.
        people: the N hands.

    Returns:
        (N, V, 3) mm.
    """

    def one(hand):
        points, start, (_, rotations, positions, rest_positions, hand_scale, wrist, cones) = hand
        blended = jnp.einsum("vj,jcd->vcd", weights, rotations)
        shift = weights @ (positions[:16] - hand_scale * jnp.einsum("jcd,jd->jc", rotations, rest_positions[:16]))
        pose = lambda points: hand_scale * jnp.einsum("vcd,vd->vc", blended, points)  # noqa: E731
        posed_curvature, start = pose(curvature), pose(start) + shift
        distance_and_normal = jax.vmap(jax.value_and_grad(skin), (0, None, 0, None))

        def step(points, slide):
            value, normal = distance_and_normal(points, cones, own, wrist)
            square = jnp.maximum((normal**2).sum(-1, keepdims=True), 0.3)
            points = points - jnp.clip(value - lift, -4, 4)[:, None] / square * normal
            along = 0.6 * (points[neighbors].mean(1) + posed_curvature - points) + 0.3 * (start - points)
            return points + slide * (along - (along * normal).sum(-1, keepdims=True) / square * normal), None

        posed = pose(points) + shift
        on_skin, _ = jax.lax.scan(step, posed, np.array([1, 1, 1, 1, 1, 1, 0, 0], np.float32))
        offset = jnp.linalg.solve(blended, (on_skin - posed)[..., None])[..., 0] / hand_scale
        return points + offset * jnp.minimum(1, 8 / (jnp.linalg.norm(offset, axis=-1, keepdims=True) + 1e-6))

    return jax.lax.map(one, (points, start, people), batch_size=20)


def arch_directions(points: np.ndarray, weights: np.ndarray, cones: body.Cones) -> np.ndarray:
    """Motion (2, V) of the palm's vertices (V, 3) along y per mm of motion of the knuckles (little, ring)."""
    distance, along_cone = map(np.asarray, distances(points, cones))
    near = np.exp((distance[:, 15:].min(1, keepdims=True) - distance[:, 15:]) / 3)
    share = np.zeros((28, 2))
    share[[18, 21, 23], 0] = 1, 0.5, 1
    share[[17, 20, 21], 1] = 1, 0.5, 0.5
    return (near / near.sum(1, keepdims=True) * along_cone[:, 15:] @ share[15:] * weights[:, :1]).T


def shape_directions(points: np.ndarray, weights: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Motion (10, V, 3) of vertices (V, 3) relative to their joints, per shape parameter, as bones change their length.

    `weights` are the skinning weights (V, 16); `coefficients` (145, 21, 3) come from `joint_regression`.
    """
    joints = coefficients[0]
    on_palm = weights[:, :1]
    out = np.zeros((10, len(points), 3))
    out[1] = 0.05 * on_palm * points * [0, 0, 1]
    out[2] = 0.04 * on_palm * points * [1, 0, 0]
    for joint in range(1, 16):
        end = 1 + BONE_PARENTS.index(joint)
        bone = joints[end] - joints[joint]
        along_bone = np.clip((points - joints[joint]) @ bone / (bone @ bone), 0, 1) * weights[:, joint]
        out[1:] += along_bone[:, None] * (coefficients[1:10, end] - coefficients[1:10, joint])[:, None]
    return out


def pose_mask(points: np.ndarray, weights: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Return a mask (V, 15) bool: whether the rotation of a finger joint may move a vertex.

    The arguments are those of `shape_directions`.
    """
    is_base = np.arange(15) % 3 == 0
    reach = np.where(is_base, 42, 26)
    reach[12:] = 70, 45, 26  # the thumb's web is wide
    near = np.linalg.norm(points[:, None] - coefficients[0, 1:16], axis=-1) < reach
    digit = weights[:, 1:].reshape(-1, 5, 3).sum(2)  # (V, 5)
    return near & (np.repeat(digit > 0.05, 3, 1) | (is_base & (digit.sum(1) < 0.6)[:, None]))


def rest_hand() -> tuple[body.Hand, body.Cones, np.ndarray]:
    """Return the mean hand in the rest pose, its cones, and its rest frames (16, 3, 3).

    The rotation of a joint relative to the rest pose is: frame of the joint @ rest frame of the joint.
    """
    hand = body.forward(jnp.asarray(REST_POSE, jnp.float32), jnp.zeros(10))
    return hand, body.body_cones(hand), np.asarray(hand.frames)[MANO_TO_FRAME].swapaxes(1, 2) @ MANO_AXES.T


def fit(
    points: np.ndarray,
    faces: np.ndarray,
    weights: np.ndarray,
    own: np.ndarray,
    people: People,
    coefficients: np.ndarray,
    lift: np.ndarray,
    joints: np.ndarray,
    arch_dirs: np.ndarray,
    rounds: int = 5,
) -> np.ndarray:
    """Fit vertices in the rest pose as linear functions of shape and pose: alternate target positions and regression.

    Args:
        points: (V, 3) mm, vertices of the mean hand in the rest pose.
        faces: (F, 3).
        weights: (V, 16) skinning weights.
        own: (V, 28), see `own_cones`.
        people: N hands to fit to.
        coefficients: (145, 21, 3), see `joint_regression`.
        lift: (V,) mm, height of the vertices above the skin.
        joints: (16, 3) mm, joints of the mean hand in the rest pose.
        arch_dirs: (2, V), see `arch_directions`.
        rounds: number of times that target positions and regression are computed.

    Returns:
        Coefficients (147, V, 3) mm, for 145 features of a hand and 2 heights of the knuckles of little and ring (in
        units of 10 mm). Features @ coefficients is added to the weighted rest positions of the joints.
    """
    lowered = people.rest_positions[:, ARCH_JOINTS[:, 0], 1] - joints[ARCH_JOINTS[:, 0], 1]  # (N, 2)
    features = np.concatenate([people.features, lowered / 10], 1)
    of_pose = np.where(np.repeat(pose_mask(points, weights, coefficients), 9, 1), 1e-3, 1e3)
    ones = np.ones((len(points), 1))
    penalty = np.concatenate([0.1 * ones, np.repeat(1e-4 * ones, 9, 1), of_pose, np.repeat(1e-3 * ones, 2, 1)], 1)
    start = np.zeros((147, len(points), 3))
    start[:10] = shape_directions(points, weights, coefficients)
    start[0] = points - weights @ joints
    start[145:, :, 1] = arch_dirs * 10
    neighbors = vertex_neighbors(faces)
    curvature = points - points[neighbors].mean(1)
    base = np.einsum("vj,njc->nvc", weights, people.rest_positions[:, :16])
    table, start = start, start.reshape(147, -1)
    start_points = jnp.asarray(base + (features @ start).reshape(base.shape), jnp.float32)
    for i in range(rounds):
        offset = (features @ table.reshape(147, -1)).reshape(base.shape)
        now = jnp.asarray(base + offset, jnp.float32)
        targets = np.asarray(target_vertices(now, start_points, weights, own, lift, neighbors, curvature, people))
        error = np.linalg.norm(targets - base - offset, axis=-1)
        print(f"round {i}: off by {error.mean():.2f} mm, 99 % {np.percentile(error, 99):.2f}", flush=True)
        targets = (targets - base).reshape(len(base), -1)
        table = ridge(features, targets, penalty, start).reshape(147, -1, 3)
    return table


def save(
    out: Path,
    faces: np.ndarray,
    weights: np.ndarray,
    rest_frames: np.ndarray,
    coefficients: np.ndarray,
    table: np.ndarray,
    joints: np.ndarray,
) -> None:
    """Write the arrays of `surface._Surface`.

    Args:
        out: the .npz file.
        faces, weights, coefficients, joints: as for `fit`.
        rest_frames: (16, 3, 3), see `rest_hand`.
        table: (147, V, 3), the result of `fit`.
    """
    arch_dirs = table[145:] / 10  # (2, V, 3)
    vertices = table[:145] + np.einsum("vj,djc->dvc", weights, coefficients[:, :16])
    vertices += np.einsum("kvc,dk->dvc", arch_dirs, coefficients[:, ARCH_JOINTS[:, 0], 1])
    vertices[0] -= np.einsum("kvc,k->vc", arch_dirs, joints[ARCH_JOINTS[:, 0], 1])
    points = np.concatenate([vertices, coefficients[:, 16:], coefficients[:, :16]], 1).transpose(1, 2, 0)  # (P, 3, 145)
    arch_dirs[:, :, 1] += weights[:, ARCH_JOINTS].sum(-1).T
    np.savez_compressed(
        out,
        template=points[..., 0].astype(np.float32),
        shape_dirs=np.insert(points[..., 1:10], 0, 0, axis=-1).astype(np.float16),
        pose_dirs=np.where(np.abs(points[..., 10:]) < 2e-3, 0, points[..., 10:]).astype(np.float16),
        weights=np.concatenate([weights, np.eye(16)[BONE_PARENTS[15:]]]).astype(np.float32),
        faces=faces.astype(np.int16),
        rest=rest_frames.astype(np.float32),
        arch=arch_dirs.transpose(1, 2, 0).astype(np.float16),
    )


def main(argv: typing.Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxhand.hand.builtin.surface_fit", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("out", metavar="OUT", help="the .npz file to write")
    out = Path(parser.parse_args(argv).out)
    if not out.parent.is_dir():
        print(f"error: no folder {out.parent} to write {out.name} to", file=sys.stderr)
        return 2
    hand, cones, rest_frames = rest_hand()
    points, faces = closed_mesh(cones)
    face_height = np.asarray(skin(points[faces].mean(1), cones))  # negative: centre of the face is below the skin
    lift = -0.7 * np.bincount(faces.ravel(), np.repeat(face_height, 3)) / np.bincount(faces.ravel())
    weights, own = skinning_weights(points, faces, hand, cones), own_cones(points, cones)
    coefficients = joint_regression(sample_people(rest_frames, 1, 20000, 0.0))
    joints = np.asarray(hand.joints)[MANO_TO_JOINT] @ MANO_AXES.T
    arch_dirs, people = arch_directions(points, weights, cones), sample_people(rest_frames, 2, 2500, 0.2)
    table = fit(points @ MANO_AXES.T, faces, weights, own, people, coefficients, lift, joints, arch_dirs)
    save(out, faces, weights, rest_frames, coefficients, table, joints)
    return 0


if __name__ == "__main__":
    sys.exit(main())
