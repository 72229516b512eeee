"""The tracer of round cones: distances along rays and to points, and what rendered hands look like."""

import numpy as np
import pytest

from jaxhand.data.synthetic import raytrace
from tests.support.numbers import assert_summary
from tests.test_data_synthetic import RENDERED


def cone(start, end, start_radius, end_radius) -> raytrace.Cone:
    a, b = np.array(start, np.float32), np.array(end, np.float32)
    e = b - a
    numbers = {"ra": np.float32(start_radius), "dr": np.float32(end_radius - start_radius)}
    products = {"ee": e @ e, "ea": e @ a, "aa": a @ a, "bb": b @ b}
    zero = np.float32(0)
    marks = dict.fromkeys(("tip", "crease", "forearm", "rosy"), zero)
    return raytrace.Cone(a=tuple(a), e=tuple(e), x=None, y=None, z=None, **numbers, **products, **marks)


def hit(direction, *args) -> float:
    direction = np.array(direction, np.float32)
    return float(raytrace.intersect_cone(tuple(direction / np.linalg.norm(direction)), cone(*args)))


def test_rays_hit_a_cylinder_and_its_ends():
    pipe = (0, -50, 500), (0, 50, 500), 20, 20
    assert hit((0, 0, 1), *pipe) == pytest.approx(480, rel=1e-4)
    assert hit((0.02, 0, 1), *pipe) == pytest.approx(482.8, rel=1e-3)
    assert hit((0, 0.1, 1), *pipe) == pytest.approx(480 * np.hypot(0.1, 1), rel=1e-4)  # still on the side
    towards_end = np.array([0, 60, 490])
    along = float(np.array([0, 50, 500]) @ towards_end / np.linalg.norm(towards_end))
    distance = along - np.sqrt(along**2 - (50**2 + 500**2) + 20**2)
    assert hit(towards_end, *pipe) == pytest.approx(distance, rel=1e-4)  # on the ball at the end
    assert hit((0.05, 0, 1), *pipe) == hit((0, 0.2, 1), *pipe) == raytrace.FAR_MM


@pytest.mark.parametrize("radii", [(20, 20), (25, 10), (8, 22)])
def test_a_hit_lies_on_the_cone(radii):
    """The distance of the hit from the cone is 0: on its side, which is that of the smallest gap, and on its ends."""
    shape = cone((-30, 10, 450), (40, -20, 520), *radii)
    rng = np.random.default_rng(0)
    rays = np.concatenate([rng.uniform(-0.12, 0.12, (150, 2)), np.ones((150, 1))], 1)
    rays = (rays / np.linalg.norm(rays, axis=1, keepdims=True)).astype(np.float32)
    found = np.asarray(raytrace.intersect_cone(tuple(rays.T), shape))
    seen = found < raytrace.FAR_MM
    assert 0.1 < seen.mean() < 0.9
    points = rays[seen] * found[seen, None]
    a, e = np.array(shape.a), np.array(shape.e)
    along = np.linspace(0, 1, 1001)[:, None]
    balls, sizes = a + along * e, radii[0] + along[:, 0] * (radii[1] - radii[0])  # the cone is a chain of balls
    gaps = np.linalg.norm(points[:, None] - balls, axis=-1) - sizes
    np.testing.assert_allclose(gaps.min(1), 0, atol=0.2)
    nearest = (rays[~seen][:, None] * np.linspace(300, 700, 201)[:, None])[:, :, None] - balls[::25]
    assert (np.linalg.norm(nearest, axis=-1) - sizes[::25]).min() > -1  # what misses, misses


def test_distance_to_a_cone():
    shape = cone((0, 0, 0), (0, 0, 10), 3, 1)
    for point, expected, along in (((5, 0, 5), 3, 0.5), ((0, 4, 0), 1, 0), ((0, 0, 13), 2, 1), ((0, 0, -5), 2, 0)):
        gap, place, offset, length = raytrace.distance(tuple(np.float32(point)), shape)
        assert float(gap) == pytest.approx(expected, abs=1e-3) and float(place) == along
        np.testing.assert_allclose(offset, np.subtract(point, (0, 0, 10 * along)), atol=1e-6)
        assert float(length) == pytest.approx(np.linalg.norm(offset), abs=1e-5)


def test_vectors_and_waves():
    assert raytrace.dot((1, 2, 3), (4, 5, 6)) == 32 and raytrace.scaled((1, 2, 3), 2) == (2, 4, 6)
    np.testing.assert_allclose(raytrace.unit((np.float32(3), np.float32(0), np.float32(4))), (0.6, 0, 0.8), rtol=1e-6)
    np.testing.assert_allclose(raytrace.wave(np.float32([0, 0.25, 0.5, 0.75, 1.25])), [0, 1, 0, -1, 1], atol=1e-6)


def test_hands_look_as_before(rendered_hands):
    for name in ("image", "exact_depth", "mask"):
        assert_summary(rendered_hands[name], RENDERED[name])
