"""A mesh over a photograph, and in files: position, orientation, units."""

import numpy as np
import pytest
import trimesh

from jaxhand.config import UserError
from jaxhand.hand import mesh_files
from jaxhand.hand.draw import MESH_COLOR, draw_mesh

K = np.array([[100.0, 0, 31.5], [0, 100.0, 23.5], [0, 0, 1]])


def square(x, y, z, half):
    """A square that faces the camera: the normal of its two triangles is -z."""
    corners = np.array(
        [[x - half, y - half, z], [x + half, y - half, z], [x + half, y + half, z], [x - half, y + half, z]]
    )
    return corners, np.array([[0, 2, 1], [0, 3, 2]])


def test_a_square_covers_its_pixels():
    """At 500 mm it is 10 px wide, in the middle of 64 x 48 px: columns 27 to 36, rows 19 to 28."""
    image = np.full((48, 64, 3), 100, np.uint8)
    drawn = draw_mesh(image, *square(0, 0, 500, 25), K, alpha=1.0)
    changed = (drawn != image).any(-1)
    rows, columns = np.nonzero(changed)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (19, 28, 27, 36)
    np.testing.assert_allclose(drawn[24, 32], np.multiply(MESH_COLOR, 0.6 + 0.6 * 0.72), atol=1)
    assert changed[19:29, 27:37].all() and np.abs(drawn[20:28, 28:36].astype(int) - drawn[24, 32]).max() <= 2
    half = draw_mesh(image, *square(0, 0, 500, 25), K, alpha=0.5)
    np.testing.assert_allclose(half[24, 32], (drawn[24, 32] + 100.0) / 2, atol=1)
    large = draw_mesh(image, *square(0, 0, 500, 25), K, scale=3, alpha=1.0)
    rows, columns = np.nonzero((large != 100).any(-1))
    assert large.shape == (144, 192, 3)
    assert abs((rows.min() + rows.max()) / 2 - 71.5) <= 0.5 and abs((columns.min() + columns.max()) / 2 - 95.5) <= 0.5
    assert 29 <= rows.max() - rows.min() <= 31
    assert (image == 100).all()  # not touched


def test_the_nearer_surface_is_visible_and_back_faces_are_darker():
    image = np.zeros((48, 64, 3), np.uint8)
    near, faces = square(0, 0, 400, 25)
    far, _ = square(0, 0, 600, 90)
    both = np.concatenate([near, far]), np.concatenate([faces[:, ::-1], faces + 4])
    drawn = draw_mesh(image, *both, K, alpha=1.0)
    assert (drawn[24, 32] < drawn[24, 44]).all() and drawn[24, 32].all()  # the near one shows its back


def test_invisible_faces_are_left_out():
    image = np.full((48, 64, 3), 7, np.uint8)
    for mesh in (square(0, 0, -500, 25), square(900, 0, 500, 25), square(0, 0, 0.5, 25)):
        np.testing.assert_array_equal(draw_mesh(image, *mesh, K), image)
    drawn = draw_mesh(image, *square(-170, 0, 500, 25), K, alpha=1.0)  # at the edge
    assert (drawn[24, 0] != 7).all() and (drawn[24, 4:] == 7).all()
    assert (draw_mesh(image, *square(0, 0, 1.5, 4000), K, alpha=1.0)[:, 2:62] != 7).all()  # all around


BALL = trimesh.creation.icosphere(subdivisions=1, radius=30.0)


def test_files_are_read_again(tmp_path):
    """OBJ in mm, unchanged; GLB in metres, rotated by 180° about x; both closed, outward, one object per hand."""
    balls = {"right_0": (BALL.vertices + [10, -20, 500], BALL.faces), "left_1": (BALL.vertices * 0.5, BALL.faces)}
    for kind in mesh_files.KINDS:
        mesh_files.write(tmp_path / f"a.{kind}", balls)
    glb = trimesh.load_scene(tmp_path / "a.glb")
    obj = trimesh.load_scene(tmp_path / "a.obj", split_objects=True)
    for scene, transform in ((obj, np.eye(3)), (glb, np.diag([1e-3, -1e-3, -1e-3]))):
        assert len(scene.geometry) == 2
        meshes = sorted(scene.dump(), key=lambda mesh: -mesh.volume)
        for mesh, (vertices, _) in zip(meshes, balls.values()):
            mesh.merge_vertices()
            assert mesh.is_watertight and mesh.volume > 0
            expected = vertices @ transform.T
            np.testing.assert_allclose(mesh.bounds, [expected.min(0), expected.max(0)], rtol=1e-5, atol=1e-5)
            assert mesh.volume == pytest.approx(trimesh.Trimesh(expected, BALL.faces).volume, rel=1e-4)
    assert sorted(glb.geometry) == ["left_1", "right_0"]


def test_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="cannot write .*no/a.obj: No such file"):
        mesh_files.write(tmp_path / "no" / "a.obj", {"right": (BALL.vertices, BALL.faces)})
