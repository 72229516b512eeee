"""Where a hand is before the camera: exact without noise, the least-squares solution with it; by a depth image."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxhand.data.synthetic.dataset import FIRST_INDEX, render_range
from jaxhand.hand import placement
from jaxhand.hand.camera import project
from jaxhand.hand.placement import SKIN_MM, place_at_distance, place_by_depth, place_on_rays, rays, translation
from tests.support import layouts

K = np.array([[[500, 0.3, 120], [0, 480, 130], [0, 0, 1]], [[300, 40, 100], [-40, 300, 90], [0, 0, 1]]], np.float64)


@pytest.fixture
def hands():
    """Two hands (2, 21, 3) mm around their middle, and where they are (2, 3)."""
    rng = np.random.default_rng(0)
    return rng.uniform(-80, 80, (2, 21, 3)), np.array([[30.0, -20, 400], [-60, 50, 700]])


def test_exact_pixels_return_the_place(hands):
    joints, place = hands
    points = joints + place[:, None]
    pixels = project(points, K)
    np.testing.assert_allclose(translation(joints, pixels, K), place, rtol=1e-9)
    np.testing.assert_allclose(place_on_rays(joints, pixels, K), points, rtol=1e-9)
    np.testing.assert_allclose(project(rays(pixels, K), K), pixels)


def test_noisy_pixels_have_the_least_weighted_error(hands):
    joints, place = hands
    pixels = project(joints + place[:, None], K) + np.random.default_rng(1).normal(size=(2, 21, 2))
    found = translation(joints, pixels, K)
    u = rays(pixels, K)[..., :2]
    weight = 1 / (joints[..., 2:] + found[:, None, 2:])  # the last round's differ in the seventh digit

    def error(t):
        moved = joints + t[:, None]
        return ((weight * (moved[..., :2] - u * moved[..., 2:])) ** 2).sum((1, 2))

    for axis in range(3):
        for step in (-1e-2, 1e-2):
            assert (error(found + step * np.eye(3)[axis]) > error(found)).all()
    on_rays = place_on_rays(joints, pixels, K)
    np.testing.assert_allclose(project(on_rays, K), pixels)
    assert np.abs(on_rays[..., 2] - (joints + place[:, None])[..., 2]).max() < 10  # 1 px of 480 at 700 mm is 1.5 mm


def test_estimates_of_the_distance_count_by_their_certainty(hands):
    joints, place = hands
    points = joints + place[:, None]
    pixels, depth = project(points, K), points[..., 2].mean(1)
    head = np.log(1.1 * depth / [np.sqrt(500 * 480), np.sqrt(300 * 300 + 40 * 40)])  # 10 % too far
    nothing = np.tile([np.log(400), 100.0], (2, 1))

    def mean_depth(variances, prior=nothing):
        placed = place_at_distance(joints, pixels, K, head, np.tile(variances, (2, 1)), prior)
        np.testing.assert_allclose(project(placed, K), pixels)
        return placed[..., 2].mean(1)

    np.testing.assert_allclose(mean_depth([1e-9, 1e-2]), depth, rtol=1e-5)
    np.testing.assert_allclose(mean_depth([1e-2, 1e-9]), 1.1 * depth, rtol=1e-5)
    np.testing.assert_allclose(mean_depth([3e-3, 1e-3]), 1.1**0.75 * depth, rtol=1e-3)
    # The first hand is drawn to a prior near it, half the way where both are as certain; the second, far away, is not
    near = np.tile([np.log(depth[0]) + 0.02, 1e-3], (2, 1))
    first, second = mean_depth([1e-3, 1e3], near) / depth
    assert 1.009 < first < 1.0101 and abs(second - 1) < 0.015


def test_jax_equals_numpy_and_has_a_gradient(hands):
    joints, place = hands
    pixels = project(joints + place[:, None], K)
    arrays = [jnp.asarray(array, jnp.float32) for array in (joints, pixels, K)]
    found = jax.jit(place_on_rays)(*arrays)
    assert isinstance(found, jax.Array)
    np.testing.assert_allclose(found, place_on_rays(joints, pixels, K), atol=0.1)
    gradient = jax.grad(lambda joints: place_on_rays(joints, *arrays[1:])[..., 2].mean())(arrays[0])
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


@pytest.fixture
def measured():
    """A hand (21, 3) mm at 500 mm, its pixels, and the depth image of its skin, a ball of 9 px around each joint."""
    rng, camera = np.random.default_rng(2), np.array([[500.0, 0, 160], [0, 500, 120], [0, 0, 1]])
    joints = rng.uniform(-90, 90, (21, 3)) * [1, 1, 0.4] + [10, -20, 500]
    pixels, depth = project(joints, camera), np.zeros((240, 320))
    for x, y, z in np.column_stack([pixels, joints[:, 2] - SKIN_MM])[np.argsort(-joints[:, 2])]:
        depth[int(y) - 4 : int(y) + 5, int(x) - 4 : int(x) + 5] = z  # the nearest last
    return joints, pixels, depth


@pytest.mark.parametrize("factor", [0.75, 1.0, 1.4])
@pytest.mark.parametrize("fault", ["none", "holes", "background", "object in front", "all of them", "noise"])
def test_depth_decides_the_distance(measured, factor, fault):
    """A hand of a wrong size, and so at a wrong distance, is moved to the right one; its projection stays."""
    joints, pixels, depth = measured
    rng, at = np.random.default_rng(3), np.rint(pixels).astype(int)
    order = rng.permutation(21)
    depth = depth.copy()

    def put(numbers, value):
        for x, y in at[numbers]:
            depth[y - 4 : y + 5, x - 4 : x + 5] = value

    if fault in ("holes", "all of them"):
        put(order[:5], 0)
    if fault in ("background", "all of them"):
        depth[depth == 0] = 900
        put(order[5:9], 900)
    if fault in ("object in front", "all of them"):
        put(order[9:13], 380)
    if fault == "noise":
        depth[depth > 0] += rng.normal(0, 8, (depth > 0).sum())
    found = place_by_depth(factor * joints, pixels, depth)
    np.testing.assert_allclose(found / joints, np.full((21, 3), found[0, 2] / joints[0, 2]))
    assert abs(found[:, 2].mean() - joints[:, 2].mean()) < 6  # mm


def test_without_measured_depth_a_hand_stays_where_it_is(measured):
    joints, pixels, depth = measured
    np.testing.assert_array_equal(place_by_depth(joints, pixels, np.zeros_like(depth)), joints)
    np.testing.assert_array_equal(place_by_depth(joints, pixels + 1e4, depth), joints)  # outside of the image


def test_hands_of_the_built_in_world_by_its_sensor():
    """Exact joints of a wrong size: noise, holes, objects, the wall and hidden fingers leave a few millimetres."""
    arrays = render_range(0, FIRST_INDEX["test"], 32, size=128, view="front")
    errors = []
    for joints, camera, depth in zip(*(arrays[key].astype(float) for key in ("keypoints_3d", "K", "depth"))):
        for factor in (0.85, 1.2):
            found = place_by_depth(factor * joints, project(joints, camera), depth)
            errors.append(np.linalg.norm(found - joints, axis=-1).mean())
    assert np.median(errors) < 4 and np.max(errors) < 20  # mm


def scene(seed):
    """A hand (21, 3) mm that is turned, its pixels (21, 2), and a depth image (160, 200) mm in which it is farther."""
    rng = np.random.default_rng(seed)
    turn = cv2.Rodrigues(rng.normal(0, 0.7, 3))[0]
    joints = (layouts.hand(seed, at=(0, 0, 0)) @ turn.T) + [20, -10, 500]
    camera = np.array([[300.0, 0, 100], [0, 300, 80], [0, 0, 1]])
    pixels = layouts.pixels(joints, camera)
    y, x = np.mgrid[:160, :200]
    apart = np.hypot(x[..., None] - pixels[:, 0], y[..., None] - pixels[:, 1])
    skin = 1.1 * joints[apart.argmin(-1), 2] - rng.uniform(5, 25, (160, 200))
    depth = np.where(apart.min(-1) < rng.uniform(2, 8), skin, 620.0)  # a wall near the hand
    depth[rng.random(depth.shape) < 0.2] = 0
    return joints, pixels, depth


def test_the_distance_by_depth_in_numbers():
    """Skin, votes, hidden joints and refinement: another weighting would move the hands."""
    factors = []
    for seed in range(8):
        joints, pixels, depth = scene(seed)
        placed = place_by_depth(joints, pixels, depth)
        np.testing.assert_allclose(placed / joints, (placed / joints)[0, 0], rtol=1e-9)
        factors.append(placed[0, 2] / joints[0, 2])
    np.testing.assert_allclose(
        factors, [1.092159, 1.0903076, 1.0915087, 1.0929092, 1.0921935, 1.0928368, 1.0940761, 1.0945], atol=2e-6
    )


def test_joints_behind_bones_in_numbers():
    hidden = [np.flatnonzero(placement._hidden(scene(seed)[0])).tolist() for seed in range(8)]
    assert hidden == [[], [], [], [5], [2, 3, 4], [10, 11, 14, 15, 16, 17, 18, 19, 20], [2, 3, 4, 8, 11, 12], [2, 3, 4]]


def test_depth_at_a_pixel_is_the_median_of_its_neighbours():
    depth = np.arange(20.0).reshape(4, 5)
    depth[1, 1] = 0
    found = placement._depth_at(depth, np.array([[2.4, 1.6], [0, 0], [4.4, 3.4], [9, 9], [5, 3], [-1, -1]]))
    np.testing.assert_allclose(found, [12.5, 3.0, 16.0, 0.0, 16.5, 0.0])


def test_a_very_near_joint_does_not_dominate():
    """Weights are those of at least 50 mm; the least squares have three rounds."""
    rng = np.random.default_rng(2)
    joints = rng.uniform(-80, 80, (21, 3))
    points = joints + [10, -5, 110]
    points[:, 2] = np.maximum(points[:, 2], 30)
    pixels = project(points, K[0]) + rng.normal(size=(21, 2))
    np.testing.assert_allclose(translation(joints, pixels, K[0]), [9.971144254, -5.055514333, 109.9563402], rtol=1e-7)


def test_a_usual_distance_in_numbers():
    """Student's prior with three degrees of freedom; the closed form is cut to 50 mm to 10 m."""
    rng = np.random.default_rng(3)
    joints = rng.uniform(-60, 60, (21, 3))
    found = []
    for distance in (30.0, 400.0, 3e4):
        pixels = project(np.maximum(joints + [0, 0, distance], 1), K[0])
        placed = place_at_distance(joints, pixels, K[0], np.log(0.9), np.array([0.02, 0.05]), np.array([6.0, 0.1]))
        found.append(placed[:, 2].mean())
    np.testing.assert_allclose(found, [99.43296382, 576.1781558, 4019.013538], rtol=1e-6)
