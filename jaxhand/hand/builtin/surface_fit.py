"""Makes the skin of the built-in hand from its body of round cones alone: `python -m jaxhand.hand.builtin.surface_fit OUT`.

A mesh of the mean hand (surface nets, then a centroidal Voronoi remeshing), its skinning weights, and ridge regressions
that draw its skinned vertices onto the smooth skin of hands in thousands of poses. Five minutes on one core.
"""

import argparse
import sys
import typing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.hand.builtin import body
from jaxhand.hand.builtin.surface import ARCHED, FRAME, GROWTH, JOINT, MANO_AXES
from jaxhand.hand.builtin.surface_mesh import WRIST_MM, closed_mesh, distances, own_cones, ring, skin
from jaxhand.hand.skinned import PARENTS

# Fingers spread and a little bent: their webs are short, and no joint is ever far from it.
REST_POSE = np.deg2rad([0] * 6 + [n for spread in (8, 1, -5, -10) for n in (spread, 12, 18, 12)] + [0, 0])
TIP = [4, 8, 12, 16, 20]
BONES = [*PARENTS[1:], 15, 3, 6, 12, 9]  # which joint the other joints and the tips hang on


# ---- weights
def ramp(x):
    """0 below -1, 1 above 1, smooth between."""
    x = np.clip(x / 2 + 0.5, 0, 1)
    return x * x * (3 - 2 * x)


def skinning(points, faces, hand: body.Hand, cones: body.Cones):
    """Weights (V, 16) in `FRAME`'s order: every cone follows its bones, a point the cones it is near."""
    distance, at = map(np.asarray, distances(points, cones))
    joints, frames = np.asarray(hand.joints), np.asarray(hand.frames)
    follow = np.zeros((len(points), body.NUM_CONES, 16))
    for digit in range(5):
        gate = []
        for level in range(3):
            frame, before = 1 + 3 * digit + level, 3 * digit + level if level else 0
            along = frames[frame][:, 1] + frames[before][:, 1] * (digit > 0 or level > 0)
            width = (16.0 if digit == 0 else 12.0) if level == 0 else 9.5 - level
            gate.append(ramp((points - joints[1 + 4 * digit + level]) @ (along / np.linalg.norm(along)) / width))
        chain = np.cumprod(np.stack([np.ones(len(points)), *gate], 1), 1)  # (V, 4) beyond joint 1, 2, 3
        chain = chain - np.append(chain[:, 1:], np.zeros((len(points), 1)), 1)
        for cone in range(3 * digit, 3 * digit + 3):
            follow[:, cone, [0, 1 + 3 * digit, 2 + 3 * digit, 3 + 3 * digit]] = chain
    follow[:, 15:, 0] = 1
    for cone, thumb in ((22, at[:, 22]), (24, 1 - at[:, 24]), (25, 1 - at[:, 25])):  # ball of the thumb, its web
        follow[:, cone, 1], follow[:, cone, 0] = thumb, 1 - thumb
    near = np.exp((distance.min(1, keepdims=True) - distance) / 1.5)
    weights = np.einsum("vc,vcj->vj", near / near.sum(1, keepdims=True), follow)
    around = ring(faces)
    for _ in range(6):
        weights = (weights + weights[around].mean(1)) / 2
    weights = np.where(weights < 0.01, 0, weights)[:, FRAME]
    weights = np.round(weights / weights.sum(1, keepdims=True) * 4096) / 4096
    weights[np.arange(len(weights)), weights.argmax(1)] += 1 - weights.sum(1)
    return weights.astype(np.float32)


# ---- how the skin follows
class People(typing.NamedTuple):
    """Sampled hands, each (N, …)."""

    features: np.ndarray  # 1, the shape but for its size, the turns of 15 joints less the identity: 1 + 9 + 135
    turned: np.ndarray  # (16, 3, 3) of the joints from rest
    at: np.ndarray  # (21, 3) joints of MANO's order, then tips
    rest: np.ndarray  # (21, 3) the same at rest, over the hand's size
    size: np.ndarray  # ()
    wrist: np.ndarray  # () where along y it ends
    cones: body.Cones


def people(rest, seed: int, count: int, wild: float) -> People:
    """Hands of the prior; a part `wild` of them has its pose uniform within the limits instead."""

    @jax.jit
    @jax.vmap
    def sample(index):
        draws = body.Draws(body.numbers(seed, index))
        shape = body.sample_shape(draws)
        pose = body.sample_pose(draws, shape)
        free = body.LIMITS[:, 0] + draws.uniform(24) * (body.LIMITS[:, 1] - body.LIMITS[:, 0])
        hand = body.forward(jnp.where(draws.uniform() < wild, free, pose), shape)
        return shape, hand, body.flesh(hand)

    shape, hand, cones = jax.tree.map(np.asarray, sample(jnp.arange(count, dtype=jnp.uint32)))
    turned, at = hand.frames[:, FRAME] @ rest, hand.joints[:, [*JOINT, *TIP]]
    size = 1 + GROWTH * shape[:, 0]
    chain = [np.zeros((count, 3), np.float32)]
    for joint, parent in enumerate(BONES, 1):
        chain.append(chain[parent] + np.einsum("ndc,nd->nc", turned[:, parent], at[:, joint] - at[:, parent]))
    relative = turned[:, list(PARENTS[1:])].swapaxes(-1, -2) @ turned[:, 1:] - np.eye(3)
    features = np.concatenate([np.ones((count, 1)), shape[:, 1:], relative.reshape(count, 135)], 1)
    at_rest = np.stack(chain, 1) / size[:, None, None]
    return People(features, turned, at, at_rest, size, WRIST_MM * hand.scale[:, 1], cones)


def ridge(features, values, penalty, mean=0.0):
    """Least squares of values (N, C) by features (N, D), drawn towards `mean` (D, C) by penalties (D,), or (C / 3, D)
    where every three columns share theirs."""
    features = features.astype(np.float64)
    mean = np.broadcast_to(mean, (features.shape[1], values.shape[1]))
    normal = features.T @ features / len(features)
    gain = features.T @ (values - features @ mean) / len(features)
    left = normal + np.asarray(penalty, float)[..., None] * np.eye(len(normal))
    if left.ndim == 3:
        gain = gain.reshape(len(normal), -1, 3).swapaxes(0, 1)  # (V, D, 3)
        return mean + np.linalg.solve(left, gain).swapaxes(0, 1).reshape(len(normal), -1)
    return mean + np.linalg.solve(left, gain)


def joint_rows(seen: People):
    """How joints and tips at rest follow shape and pose: (145, 21, 3). Only the arch's knuckles follow the pose."""
    penalty = np.r_[[1e-6] * 10, [1e-3] * 135]
    rows = np.zeros((145, 21, 3))
    rows[:10] = ridge(seen.features[:, :10], seen.rest.reshape(-1, 63), 1e-6).reshape(10, 21, 3)
    for joints, tip in zip(ARCHED, (20, 19)):
        knuckle = ridge(seen.features, seen.rest[:, joints[0]], penalty)
        bones = seen.rest[:, [*joints, tip]] - seen.rest[:, joints[:1]]
        rows[:10, [*joints, tip]] = ridge(seen.features[:, :10], bones.reshape(-1, 12), 1e-6).reshape(10, 4, 3)
        rows[:, [*joints, tip]] += knuckle[:, None]
    return rows


@jax.jit
def pull(points, start, weights, own, lift, around, curl, seen: People):
    """Where vertices at rest (N, V, 3) ought to be, so that those of posed hands lie `lift` (V,) over their own skin,
    spread as they were at rest (`curl` is how they stand off their neighbours) and not far from their `start`."""

    def one(hand):
        points, start, (_, turned, at, rest, size, wrist, cones) = hand
        maps = jnp.einsum("vj,jcd->vcd", weights, turned)
        move = weights @ (at[:16] - size * jnp.einsum("jcd,jd->jc", turned, rest[:16]))
        pose = lambda points: size * jnp.einsum("vcd,vd->vc", maps, points)  # noqa: E731
        apart, start = pose(curl), pose(start) + move
        slope = jax.vmap(jax.value_and_grad(skin), (0, None, 0, None))

        def step(at, slide):
            value, normal = slope(at, cones, own, wrist)
            square = jnp.maximum((normal**2).sum(-1, keepdims=True), 0.3)
            at = at - jnp.clip(value - lift, -4, 4)[:, None] / square * normal
            along = 0.6 * (at[around].mean(1) + apart - at) + 0.3 * (start - at)
            return at + slide * (along - (along * normal).sum(-1, keepdims=True) / square * normal), None

        posed = pose(points) + move
        on_skin, _ = jax.lax.scan(step, posed, np.float32([1, 1, 1, 1, 1, 1, 0, 0]))
        off = jnp.linalg.solve(maps, (on_skin - posed)[..., None])[..., 0] / size
        return points + off * jnp.minimum(1, 8 / (jnp.linalg.norm(off, axis=-1, keepdims=True) + 1e-6))

    return jax.lax.map(one, (points, start, seen), batch_size=20)


def sinking(points, weights, cones):
    """How the palm's vertices go with the knuckles of little and ring as it arches: (2, V)."""
    distance, at = map(np.asarray, distances(points, cones))
    near = np.exp((distance[:, 15:].min(1, keepdims=True) - distance[:, 15:]) / 3)
    share = np.zeros((28, 2))
    share[[18, 21, 23], 0] = 1, 0.5, 1
    share[[17, 20, 21], 1] = 1, 0.5, 0.5
    return (near / near.sum(1, keepdims=True) * at[:, 15:] @ share[15:] * weights[:, :1]).T


def stretch(points, weights, rows):
    """How the vertices, seen from their joints, move as the bones' lengths change with the shape: (10, V, 3)."""
    joints = rows[0]
    on_palm = weights[:, :1]
    out = np.zeros((10, len(points), 3))
    out[1] = 0.05 * on_palm * points * [0, 0, 1]
    out[2] = 0.04 * on_palm * points * [1, 0, 0]
    for joint in range(1, 16):
        end = 1 + BONES.index(joint)
        bone = joints[end] - joints[joint]
        at = np.clip((points - joints[joint]) @ bone / (bone @ bone), 0, 1) * weights[:, joint]
        out[1:] += at[:, None] * (rows[1:10, end] - rows[1:10, joint])[:, None]
    return out


def influence(points, weights, rows):
    """Which of the 15 joints' turns may shape a vertex: (V, 15)."""
    is_base = np.arange(15) % 3 == 0
    reach = np.where(is_base, 42, 26)
    reach[12:] = 70, 45, 26  # the thumb's web is wide
    near = np.linalg.norm(points[:, None] - rows[0, 1:16], axis=-1) < reach
    digit = weights[:, 1:].reshape(-1, 5, 3).sum(2)  # (V, 5)
    return near & (np.repeat(digit > 0.05, 3, 1) | (is_base & (digit.sum(1) < 0.6)[:, None]))


def rest_hand():
    """The mean hand in the pose that all turns count from, its cones, and its frames: joints' turns = frames @ rest."""
    hand = body.forward(jnp.asarray(REST_POSE, jnp.float32), jnp.zeros(10))
    return hand, body.flesh(hand), np.asarray(hand.frames)[FRAME].swapaxes(1, 2) @ MANO_AXES.T


def fit(points, faces, weights, own, seen: People, rows, lift, joints, sink, rounds: int = 5):
    """What the vertices at rest are besides the weighted rest places of their joints: (147, V, 3) times the features
    of a hand and how far the knuckles of little and ring are sunk, over 10 mm. `joints` are those of `points`."""
    sunk = seen.rest[:, ARCHED[:, 0], 1] - joints[ARCHED[:, 0], 1]  # (N, 2)
    features = np.concatenate([seen.features, sunk / 10], 1)
    turns = np.where(np.repeat(influence(points, weights, rows), 9, 1), 1e-3, 1e3)
    each = np.ones((len(points), 1))
    penalty = np.concatenate([0.1 * each, np.repeat(1e-4 * each, 9, 1), turns, np.repeat(1e-3 * each, 2, 1)], 1)
    start = np.zeros((147, len(points), 3))
    start[:10] = stretch(points, weights, rows)
    start[0] = points - weights @ joints
    start[145:, :, 1] = sink * 10
    around = ring(faces)
    curl = points - points[around].mean(1)
    base = np.einsum("vj,njc->nvc", weights, seen.rest[:, :16])
    table, start = start, start.reshape(147, -1)
    at_start = jnp.asarray(base + (features @ start).reshape(base.shape), jnp.float32)
    for turn in range(rounds):
        offset = (features @ table.reshape(147, -1)).reshape(base.shape)
        now = jnp.asarray(base + offset, jnp.float32)
        wanted = np.asarray(pull(now, at_start, weights, own, lift, around, curl, seen))
        miss = np.linalg.norm(wanted - base - offset, axis=-1)
        print(f"round {turn}: off by {miss.mean():.2f} mm, 99 % {np.percentile(miss, 99):.2f}", flush=True)
        wanted = (wanted - base).reshape(len(base), -1)
        table = ridge(features, wanted, penalty, start).reshape(147, -1, 3)
    return table


def save(out, faces, weights, rest, rows, table, joints):
    """Write the numbers of `surface._Surface`."""
    sink = table[145:] / 10  # (2, V, 3)
    own = table[:145] + np.einsum("vj,djc->dvc", weights, rows[:, :16])
    own += np.einsum("kvc,dk->dvc", sink, rows[:, ARCHED[:, 0], 1])
    own[0] -= np.einsum("kvc,k->vc", sink, joints[ARCHED[:, 0], 1])
    points = np.concatenate([own, rows[:, 16:], rows[:, :16]], 1).transpose(1, 2, 0)  # (P, 3, 145)
    sink[:, :, 1] += weights[:, ARCHED].sum(-1).T
    np.savez_compressed(
        out,
        template=points[..., 0].astype(np.float32),
        shape_dirs=np.insert(points[..., 1:10], 0, 0, axis=-1).astype(np.float16),
        pose_dirs=np.where(np.abs(points[..., 10:]) < 2e-3, 0, points[..., 10:]).astype(np.float16),
        weights=np.concatenate([weights, np.eye(16)[BONES[15:]]]).astype(np.float32),
        faces=faces.astype(np.int16),
        rest=rest.astype(np.float32),
        arch=sink.transpose(1, 2, 0).astype(np.float16),
    )


def main(argv: typing.Sequence[str] | None = None) -> int:
    """The command; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxhand.hand.builtin.surface_fit", description=__doc__.splitlines()[0]
    )
    parser.add_argument("out", metavar="OUT", help="the .npz file of numbers")
    out = Path(parser.parse_args(argv).out)
    if not out.parent.is_dir():
        print(f"error: no folder {out.parent} to write {out.name} to", file=sys.stderr)
        return 2
    hand, cones, rest = rest_hand()
    points, faces = closed_mesh(cones)
    middle = np.asarray(skin(points[faces].mean(1), cones))  # chords lie under the skin
    lift = -0.7 * np.bincount(faces.ravel(), np.repeat(middle, 3)) / np.bincount(faces.ravel())
    weights, own = skinning(points, faces, hand, cones), own_cones(points, cones)
    rows = joint_rows(people(rest, 1, 20000, 0.0))
    joints = np.asarray(hand.joints)[JOINT] @ MANO_AXES.T
    sink, seen = sinking(points, weights, cones), people(rest, 2, 2500, 0.2)
    table = fit(points @ MANO_AXES.T, faces, weights, own, seen, rows, lift, joints, sink)
    save(out, faces, weights, rest, rows, table, joints)
    return 0


if __name__ == "__main__":
    sys.exit(main())
