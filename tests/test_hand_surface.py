"""The built-in hand's skin: closed, equal to the rendered skin, consistent with its joints, smooth when bent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxhand.data.synthetic import raytrace
from jaxhand.hand.builtin import body, surface, surface_fit, surface_mesh
from jaxhand.hand.skinned import forward
from tests.support.numbers import assert_summary

COUNT = 48
HAND = surface.builtin()
EDGES = surface_mesh.edges(HAND.faces)


@pytest.fixture(scope="module")
def people():
    """Sampled hands, then all presets on the mean hand: shapes, body hands, cones, exact vertices, `forward`."""

    presets = jnp.asarray(list(body.POSES.values()), jnp.float32)

    @jax.jit
    @jax.vmap
    def sample(index):
        draws = body.Draws(body.random_numbers(11, index))
        shape = body.sample_shape(draws)
        is_preset = index >= COUNT
        preset = presets[jnp.where(is_preset, index - COUNT, 0)]
        shape = jnp.where(is_preset, 0, shape)
        hand = body.forward(jnp.where(is_preset, preset, body.sample_pose(draws, shape)), shape)
        return shape, hand, body.body_cones(hand)

    shape, hand, cones = sample(jnp.arange(COUNT + len(body.POSES), dtype=jnp.uint32))
    exact = surface.vertices_of(hand.frames, hand.joints, shape)
    posed = forward(HAND, surface.rotations_of(hand.frames), shape)
    return jax.tree.map(np.asarray, (shape, hand, cones, exact, posed))


@pytest.fixture(scope="module")
def rest():
    """The mean hand at rest in the body's axes: vertices and cones."""
    hand, cones, _ = surface_fit.rest_hand()
    return np.asarray(surface.vertices_of(hand.frames[None], hand.joints[None], jnp.zeros((1, 10))))[0], cones


def test_the_mesh_is_closed_and_faces_outward():
    assert 700 <= HAND.num_vertices <= 1000 and HAND.num_vertices != 778
    np.testing.assert_array_equal(np.unique(HAND.faces), np.arange(HAND.num_vertices))
    assert len(np.unique(EDGES, axis=0)) == len(EDGES)  # no directed edge occurs twice
    np.testing.assert_array_equal(np.unique(EDGES, axis=0), np.unique(EDGES[:, ::-1], axis=0))
    assert HAND.num_vertices - len(EDGES) // 2 + len(HAND.faces) == 2  # Euler characteristic of a sphere: no holes
    corners = HAND.template[HAND.faces]
    volume = np.einsum("fc,fc->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
    assert 2.5e5 < volume < 4.5e5  # mm³


def test_the_arrays_are_of_a_right_hand_in_manos_axes():
    vertices, tips, joints = np.split(HAND.template, [HAND.num_vertices, HAND.num_vertices + 5])
    assert (
        HAND.name == "builtin" and HAND.side == "right" and HAND.global_scale_per_beta == surface.GLOBAL_SCALE_PER_BETA
    )
    assert tips[2, 0] < -150 and tips[0, 2] > 30 and tips[4, 2] < -30  # middle, thumb, little
    assert np.abs(joints[0]).max() == 0 and (vertices[:, 0] < 20).all()
    np.testing.assert_allclose(HAND.weights.sum(1), 1, atol=1e-6)
    assert HAND.weights.min() >= 0 and np.abs(HAND.shape_dirs[..., 0]).max() == 0
    assert HAND.pose_dirs.shape == (HAND.num_vertices + 21, 3, 135) and HAND.template.dtype == np.float32


def test_no_faces_cross_at_rest(rest):
    corners = rest[0][HAND.faces]
    low, high = corners.min(1), corners.max(1)
    first, second = np.nonzero(((low[:, None] < high) & (low < high[:, None])).all(-1))
    apart = (HAND.faces[first][:, :, None] != HAND.faces[second][:, None]).all((1, 2))
    first, second = corners[first[apart]], corners[second[apart]]
    normal = np.cross(second[:, 1] - second[:, 0], second[:, 2] - second[:, 0])
    for corner in range(3):  # an edge of the first triangle through the second
        start, end = first[:, corner], first[:, (corner + 1) % 3]
        above, below = (np.einsum("nc,nc->n", point - second[:, 0], normal) for point in (start, end))
        met = start + (above / (above - below + 1e-12))[:, None] * (end - start)
        sides = [np.cross(second[:, (k + 1) % 3] - second[:, k], met - second[:, k]) for k in range(3)]
        inside = np.all([np.einsum("nc,nc->n", side, normal) > 0 for side in sides], axis=0)
        assert not ((above * below < 0) & inside).any()


def test_the_skin_is_within_2_mm_of_the_rendered_skin(people, rest):
    _, _, cones, exact, _ = people
    vertices, rest_cones = rest
    for at_rest, points in ((vertices, exact), (vertices[HAND.faces].mean(1), exact[:, HAND.faces].mean(2))):
        own = surface_mesh.own_cones(at_rest, rest_cones) > 0.5
        offset, covered = map(np.asarray, drawn(points, cones, own))
        visible = ~covered & (at_rest[:, 1] > surface_mesh.WRIST_MM + 5)
        assert 0.02 > covered.mean() and visible.mean() > 0.9
        miss = np.abs(offset[visible])
        assert miss.mean() < 0.5 and np.percentile(miss, 95) < 1.2 and np.percentile(miss, 99) < 2


@jax.jit
def drawn(points, cones, own):
    """Signed distances (N, n) of points (N, n, 3) to the rendered skin; whether cones that are not `own` cover them."""

    def one(hand):
        points, cones = hand
        a, b, ra, rb = cones
        products = [jnp.sum((b - a) ** 2, -1)] + [None] * 3
        cone = raytrace.Cone(tuple(a.T), tuple((b - a).T), ra, rb - ra, *products, *[None] * 7)
        distance = raytrace.distance(tuple(points[..., i, None] for i in range(3)), cone)[0]  # (n, 28)
        smooth = -raytrace.BLEND_MM * jax.scipy.special.logsumexp(-distance / raytrace.BLEND_MM, -1)
        return smooth, jnp.any((distance < 0) & ~own, -1)

    return jax.lax.map(one, (points, cones))


def test_joints_follow_the_body(people):
    shape, hand, _, _, posed = people
    miss = np.linalg.norm(posed.joints - hand.joints, axis=-1)
    assert miss[:, :13].max() < 1  # without ring and little, which the palm's arch moves
    assert miss[:, 13:].mean() < 2 and miss.max() < 10
    straight = np.linalg.norm(np.diff(posed.joints[:, 17:], axis=1), axis=-1)  # but bones keep their length
    np.testing.assert_allclose(straight, np.linalg.norm(np.diff(hand.joints[:, 17:], axis=1), axis=-1), atol=0.7)


def test_rotations_are_valid_and_identity_in_the_rest_pose(people):
    rotations = np.asarray(surface.rotations_of(people[1].frames))
    identity = np.broadcast_to(np.eye(3), rotations.shape)
    np.testing.assert_allclose(rotations @ rotations.swapaxes(-1, -2), identity, atol=1e-5)
    hand = surface_fit.rest_hand()[0]
    still = np.asarray(surface.rotations_of(hand.frames))
    np.testing.assert_allclose(still[0], surface.MANO_AXES.T, atol=1e-6)
    np.testing.assert_allclose(still[1:], np.broadcast_to(np.eye(3), (15, 3, 3)), atol=1e-5)


def test_the_skin_moves_with_the_camera(people):
    shape, hand, _, exact, _ = people
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    rotation = np.float32(rotation * np.linalg.det(rotation))
    move = np.float32([30, -20, 500])
    moved = surface.vertices_of(rotation @ hand.frames, hand.joints @ rotation.T + move, shape)
    np.testing.assert_allclose(moved, exact @ rotation.T + move, atol=5e-3)


def test_the_exact_skin_equals_that_of_the_rotations_except_for_the_arch(people):
    exact, posed = people[3:]
    gap = np.linalg.norm(exact - posed.vertices, axis=-1)
    assert gap.mean() < 0.8
    is_radial = HAND.weights[:-5, [1, 2, 3, 4, 5, 6, 13, 14, 15]].sum(1) > 0.9  # index, middle, thumb
    assert gap[:, is_radial].max() < 1


def test_one_hand_and_many_are_the_same(people):
    shape, hand, _, exact, _ = people
    grid = surface.vertices_of(*(x[:4].reshape(2, 2, *x.shape[1:]) for x in (hand.frames, hand.joints, shape)))
    np.testing.assert_allclose(grid.reshape(4, -1, 3), exact[:4], atol=2e-3)


def test_bent_joints_neither_pinch_nor_kink(people, rest):
    _, hand, _, exact, _ = people
    rest_hand = jax.tree.map(np.asarray, surface_fit.rest_hand()[0])
    fist = COUNT + list(body.POSES).index("fist")
    for digit in range(1, 5):  # the middle joints, bent by 98°
        joint = 2 + 4 * digit
        bones = np.isin(surface.MANO_TO_FRAME, [1 + 3 * digit, 2 + 3 * digit])
        along = rest_hand.frames[2 + 3 * digit, :, 1]
        near = np.abs((rest[0] - rest_hand.joints[joint]) @ along) < 4
        near &= HAND.weights[:-5, bones].sum(1) > 0.9
        gap = np.linalg.norm(exact[fist][near] - hand.joints[fist, joint], axis=-1)
        assert near.sum() >= 6 and gap.min() > 6 and gap.max() < 18  # a radius is 7.2 to 8.8
    length = np.linalg.norm(exact[:, EDGES[:, 0]] - exact[:, EDGES[:, 1]], axis=-1)
    still = np.linalg.norm(rest[0][EDGES[:, 0]] - rest[0][EDGES[:, 1]], axis=-1)
    assert np.percentile(length / still, 0.1) > 0.2 and np.percentile(length / still, 99.9) < 2.5
    corners = exact[:, HAND.faces]
    normal = np.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0])
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-9
    side = {tuple(edge): i % len(HAND.faces) for i, edge in enumerate(EDGES)}
    pairs = np.array([(side[a, b], side[b, a]) for a, b in EDGES if a < b])
    bend = np.einsum("npc,npc->np", normal[:, pairs[:, 0]], normal[:, pairs[:, 1]])
    assert (bend < 0).mean() < 0.01  # folded by more than 90°


def test_a_ball_is_polygonised_and_remeshed_closed():
    points, faces = surface_mesh.surface_nets(lambda p: np.linalg.norm(p, axis=-1) - 10, [-12] * 3, [13] * 3, 1.0)
    assert len(points) - len(faces) * 3 // 2 + len(faces) == 2
    assert np.abs(np.linalg.norm(points, axis=1) - 10).max() < 1
    label, centers = surface_mesh.voronoi(np.float32(points), np.ones(len(points)), np.ones(len(points)), 60, rounds=20)
    coarse = surface_mesh.dual(faces, label)
    assert len(coarse) == 2 * 60 - 4 and len(np.unique(surface_mesh.edges(coarse), axis=0)) == 3 * len(coarse)
    corners = centers[coarse]
    volume = np.einsum("fc,fc->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
    assert 0.8 < volume / (4 / 3 * np.pi * 1e3) < 1


def test_ridge_regularises_towards_its_mean():
    draw = np.random.default_rng(0)
    features, truth = draw.normal(size=(200, 4)), draw.normal(size=(4, 6))
    np.testing.assert_allclose(surface_fit.ridge(features, features @ truth, np.zeros(4)), truth, atol=1e-9)
    penalty = np.array([[0, 0, 0, 1e9], [0, 0, 0, 0]])  # columns 0-2 may not use the last feature
    found = surface_fit.ridge(features, features @ truth, penalty, np.full((4, 6), 7.0))
    np.testing.assert_allclose(found[3, :3], 7, atol=1e-6)
    np.testing.assert_allclose(found[:, 3:], truth[:, 3:], atol=1e-9)


def test_the_command_names_the_folder_that_it_cannot_write(tmp_path, capsys):
    assert surface_fit.main([str(tmp_path / "none" / "out.npz")]) == 2
    assert "error: no folder" in capsys.readouterr().err


# Parts of the fit, and the stored surface, in numbers
FITTED = {
    "weights": [0.0625, 0.0625, -0.0728953],
    "arch": [0.0278941, 0.0278941, 0.00100136],
    "shape": [0.0657483, 1.32718, -1.33477],
    "pose": [0.0299163, 0.0299163, -0.154186],
    "own": [0.0841065, 0.0841065, -0.166852],
    "skin": [0.724555, 2.18212, -0.67892],
    "level": [25.2803, 48.7629, 63.7498],
    "normals": [0.0262513, 0.481151, -1.11465],
    "neighbors": [570.313, 570.313, -1046.77],
    "features": [-0.0388198, 0.239341, -0.0151333],
    "positions": [16.8052, 47.241, -41.3329],
    "rest_positions": [-42.1905, 54.7741, 166.458],
    "wrist": [-14.7655, 14.7655, 15.8969],
}
STORED = {
    "template": [-34.7355, 48.5867, 159.421],
    "shape_dirs": [-0.179759, 0.291683, -0.0675663],
    "pose_dirs": [0.00546691, 0.0847557, 0.805137],
    "weights": [0.0625, 0.0625, -0.0812768],
    "faces": [474.806, 474.806, 329.834],
}
EXACT, POSED = [16.512, 16.512, -32.6429], [16.4987, 16.4987, -32.6023]


@pytest.fixture(scope="module")
def fitted(rest):
    """What the surface is fitted with, at every fifth vertex of the rest pose: name → array (V, ...)."""
    points, cones = rest
    hand, _, rest_frames = surface_fit.rest_hand()
    weights = surface_fit.skinning_weights(points, HAND.faces, hand, cones)
    joints = np.asarray(hand.joints)
    coefficients = np.concatenate([joints[None], np.random.default_rng(0).normal(0, 5, (144, 21, 3))])
    random = points[::5] + np.random.default_rng(1).normal(0, 3, points[::5].shape)
    field = lambda point: surface_mesh.skin(point, cones)  # noqa: E731
    level, normals = surface_mesh.project_to_level(field, jnp.asarray(random, jnp.float32), 0.5)
    people = surface_fit.sample_people(rest_frames, 3, 16, 0.5)
    return {
        "weights": weights,
        "arch": surface_fit.arch_directions(points, weights, cones).T,
        "shape": surface_fit.shape_directions(points, weights, coefficients).swapaxes(0, 1),
        "pose": surface_fit.pose_mask(points, weights, coefficients),
        "own": surface_mesh.own_cones(random, cones),
        "skin": surface_mesh.skin(random, cones),
        "level": level,
        "normals": normals,
        "neighbors": surface_mesh.vertex_neighbors(HAND.faces)[:, :3],
        "features": people.features,
        "positions": people.positions,
        "rest_positions": people.rest_positions,
        "wrist": people.wrist,
    }


def test_parts_of_the_fit_stay(fitted):
    """The fit itself takes minutes. The surface that is stored was made of these parts."""
    for name, array in fitted.items():
        assert_summary(array, FITTED[name])


def test_the_stored_surface_stays():
    for name, expected in STORED.items():
        assert_summary(getattr(HAND, name), expected)


def test_exact_vertices_stay(people):
    _, _, _, exact, posed = people
    assert_summary(exact, EXACT)
    assert_summary(posed.vertices, POSED)
