"""The real-time mesh network: the mesh starts as the skinned hand, follows the joints, and learns the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxhand.config import Config, DataConfig, MeshConfig, ModelConfig
from jaxhand.hand import skinned
from jaxhand.hand.builtin import body
from jaxhand.hand.rotations import axis_angle_to_matrix
from jaxhand.hand.skeleton import from_our_order
from jaxhand.models.fast_mesh import FastMesh, MeshHead, bone_frames, skinning_basis
from jaxhand.training import losses

SIZE, ROWS, VERTICES, STEPS = 32, 3, 57, 100
MODEL = ModelConfig(
    name="fast_mesh",
    width=32,
    fine_blocks=0,
    blocks=1,
    joint_width=16,
    joint_blocks=1,
    looks=1,
    mesh=MeshConfig(widths=(16, 8)),
)
CONFIG = Config(data=DataConfig(image_size=SIZE), model=MODEL)


def make_hand(vertices=VERTICES, seed=0) -> skinned.SkinnedHand:
    """A hand without corrections: points around the built-in skeleton that follow one, two or three joints."""
    rng = np.random.default_rng(seed)
    joints = from_our_order(np.asarray(body.forward(jnp.zeros(24), jnp.zeros(10)).joints), "mano")  # 16, then tips
    weights = rng.dirichlet(np.full(16, 0.1), vertices + 5)
    weights[vertices:] = np.eye(16)[[15, 3, 6, 12, 9]]  # tips of thumb to little
    points = weights[:vertices] @ joints[:16] + rng.normal(0, 8, (vertices, 3))
    template = np.concatenate([points, joints[16:], joints[:16]]).astype(np.float32)
    return skinned.SkinnedHand(
        name="builtin",
        side="right",
        template=template,
        shape_dirs=np.zeros((len(template), 3, 10), np.float32),
        pose_dirs=np.zeros((len(template), 3, 135), np.float32),
        global_scale_per_beta=0.0,
        weights=weights.astype(np.float32),
        faces=np.zeros((1, 3), np.int32),
        mean_pose=np.zeros(45),
        components=np.eye(45),
    )


def make_labels(hand, rows=ROWS, seed=0) -> skinned.Posed:
    """Hands half a metre in front of the camera, in any orientation; the bones of their digits do not twist."""
    rng = np.random.default_rng(seed)
    rest = from_our_order(skinning_basis(hand)[0], "mano")  # 16, then tips
    children = np.array([2, 3, 17, 5, 6, 18, 8, 9, 20, 11, 12, 19, 14, 15, 16])  # where the bones of joints 1 to 15 end
    axes = np.cross(rng.normal(size=(rows, 15, 3)), rest[children] - rest[1:16])
    turns = rng.uniform(-1.5, 1.5, (rows, 15, 1)) * axes / np.linalg.norm(axes, axis=-1, keepdims=True)
    turns = np.concatenate([rng.normal(size=(rows, 1, 3)) * 2, turns], axis=1)  # (rows, 16, 3)
    place = np.concatenate([rng.normal(0, 20, (rows, 2)), rng.uniform(450, 550, (rows, 1))], axis=1)
    return skinned.forward(hand, axis_angle_to_matrix(jnp.float32(turns)), jnp.zeros((rows, 10)), jnp.float32(place))


def make_batch(hand, rows=ROWS, seed=0) -> dict:
    rng, posed = np.random.default_rng(seed), make_labels(hand, rows, seed)
    K = np.float32([[75, 0, 15], [0, 75, 15], [0, 0, 1]])
    seen = posed.joints @ K.T
    return {
        "image": rng.uniform(0, 1, (rows, SIZE, SIZE, 3)).astype(np.float32),
        "depth": rng.uniform(-1, 1, (rows, SIZE, SIZE)).astype(np.float32),
        "has_depth": np.ones(rows, np.float32),
        "depth_center": np.asarray(posed.joints[..., 2].mean(1)),
        "K": np.tile(K, (rows, 1, 1)),
        "keypoints_3d": np.asarray(posed.joints),
        "keypoints_2d": np.asarray(seen[..., :2] / seen[..., 2:]),
        "joint_valid": np.ones((rows, 21), np.float32),
        "joint_valid_2d": np.ones((rows, 21), np.float32),
        "vertices": np.asarray(posed.vertices),
        "has_vertices": np.ones(rows, np.float32),
    }


@pytest.fixture(scope="module")
def hand():
    return make_hand()


@pytest.fixture(scope="module")
def network(hand):
    """The parts of a tiny network, and the network as a compiled function of a batch."""
    graphdef, state = nnx.split(FastMesh(CONFIG, hand, nnx.Rngs(0)))
    return graphdef, state, jax.jit(lambda batch, key=None: nnx.merge(graphdef, state)(batch, key))


@pytest.fixture(scope="module")
def mesh_of_joints(hand):
    """The mesh from joints alone, without the vectors of the tokens, untrained; compiled."""
    mesh = MeshHead(CONFIG, hand, nnx.Rngs(0))
    mesh.sums[...] = mesh.sums[...].at[20 + 48 :].set(0)
    return jax.jit(lambda joints: mesh(jnp.ones((len(joints), 21, 16)), joints))


def test_predictions(network, hand):
    batch = make_batch(hand)
    got = network[2](batch)
    assert got["vertices"].shape == (ROWS, VERTICES, 3)
    assert got["keypoints_3d"].shape == (ROWS, 21, 3) and got["keypoints_2d"].shape == (ROWS, 21, 2)
    assert all(np.isfinite(value).all() for value in got.values())
    again = network[2](batch, jax.random.key(1))  # nothing is random, not even in training
    for name, value in got.items():
        np.testing.assert_array_equal(again[name], value)


def test_the_joints_are_those_of_the_default_network(network, hand):
    batch, (graphdef, state, predict) = make_batch(hand), network
    got, joints = predict(batch), jax.jit(lambda batch: nnx.merge(graphdef, state).dense(batch))(batch)
    for name, value in joints.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("vertices", [1, 778])
def test_any_number_of_vertices(vertices):
    hand = make_hand(vertices)
    got = nnx.eval_shape(lambda: MeshHead(CONFIG, hand, nnx.Rngs(0))(jnp.ones((2, 21, 16)), jnp.ones((2, 21, 3))))
    assert got.shape == (2, vertices, 3)


def test_hidden_depth_does_not_change_predictions(network, hand):
    batch = make_batch(hand)
    hidden = batch | {name: np.zeros_like(batch[name]) for name in ("depth", "has_depth", "depth_center")}
    got = network[2](hidden)["vertices"]
    np.testing.assert_array_equal(network[2](hidden | {"depth_center": batch["depth_center"]})["vertices"], got)
    mixed = {name: np.concatenate([hidden[name][:1], value[1:]]) for name, value in batch.items()}
    np.testing.assert_allclose(network[2](mixed)["vertices"][0], got[0], rtol=1e-5, atol=1e-2)
    assert np.abs(network[2](mixed)["vertices"][1] - got[1]).max() > 1  # depth is used


def test_the_mesh_starts_as_the_skinned_hand(mesh_of_joints, hand):
    """Exactly, if no bone twists: a hand posed from its joints alone equals one posed from its rotations."""
    posed = make_labels(hand)
    np.testing.assert_allclose(mesh_of_joints(posed.joints), posed.vertices, atol=0.05)


def test_the_mesh_moves_with_the_joints(network, hand):
    """Rotated, translated or scaled joints rotate, translate and scale the mesh, for any tokens."""
    graphdef, state, _ = network
    joints = make_labels(hand).joints
    tokens = np.random.default_rng(0).normal(0, 1, (ROWS, 21, 16)).astype(np.float32)
    ride = jax.jit(lambda joints: nnx.merge(graphdef, state).mesh(tokens, joints))
    turn = np.asarray(axis_angle_to_matrix(jnp.float32([0.4, -2.0, 1.1])))
    move = np.float32([30, -40, 90])
    wrist, mesh = joints[:, :1], ride(joints)
    np.testing.assert_allclose(ride(joints @ turn.T + move), mesh @ turn.T + move, atol=0.1)
    np.testing.assert_allclose(ride(wrist + 1.3 * (joints - wrist)), wrist + 1.3 * (mesh - wrist), atol=0.3)
    difference = ride(joints) - nnx.merge(graphdef, state).mesh(tokens[::-1], joints)
    assert np.abs(difference).max() > 0.5  # tokens change the mesh


def test_frames_of_impossible_joints():
    """Joints in one place, and a bone that folds back onto the one before it, have finite outputs and gradients."""
    rest = skinning_basis(make_hand())[0]
    folded = rest.copy()
    folded[[6, 7, 8]] = 2 * rest[5] - rest[[6, 7, 8]]

    def weighed(joints):
        frames = bone_frames(joints, rest)
        return (frames * np.arange(9).reshape(3, 3)).sum(), frames

    gradient, frames = jax.jit(jax.vmap(jax.grad(weighed, has_aux=True)))(np.stack([rest, folded, np.ones_like(rest)]))
    assert np.isfinite(frames).all() and np.isfinite(gradient).all()
    np.testing.assert_allclose(frames[0], np.tile(np.eye(3), (16, 1, 1)), atol=1e-3)


def test_it_learns_a_few_hands_and_every_parameter_takes_part(network, hand):
    graphdef, state, _ = network
    batch, start = make_batch(hand), nnx.to_pure_dict(state)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, STEPS))

    def loss(params):
        terms = losses.terms(nnx.merge(graphdef, params)(batch), batch, FastMesh.loss_terms)
        means = losses.reduced(terms, CONFIG.loss)
        return means["loss"], means

    @jax.jit
    def step(params, state):
        gradient, means = jax.grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, gradient, means

    params, state, gradient, first = step(start, optimizer.init(start))
    still = [
        jax.tree_util.keystr(path) for path, leaf in jax.tree_util.tree_leaves_with_path(gradient) if not leaf.any()
    ]
    assert still == []
    for _ in range(STEPS - 1):
        params, state, _, means = step(params, state)
    assert means["vertices"] < 0.15 * first["vertices"] and means["loss"] < 0.15 * first["loss"]
