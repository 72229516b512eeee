"""A mesh over a photograph, and in files: position, orientation, units."""

import cv2
import numpy as np
import pytest
import trimesh

from jaxhand.config import UserError
from jaxhand.hand import draw, mesh_files
from jaxhand.hand.draw import MESH_COLOR, draw_mesh
from jaxhand.hand.skeleton import BONES, FINGER_COLORS, FINGER_OF_JOINT, WRIST_COLOR

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


def test_every_vertex_keeps_its_number(tmp_path):
    """Also one at the place of another, and one that no face has: programs read a hand's vertices by their numbers."""
    vertices = np.array([[0.0, 0, 9], [5, 0, 9], [0, 5, 9], [0, 0, 9], [7, 7, 7]])
    mesh_files.write(tmp_path / "a.obj", {"right_0": (vertices, np.array([[0, 1, 2], [3, 2, 1]]))})
    lines = [line.split() for line in (tmp_path / "a.obj").read_text().splitlines()]
    np.testing.assert_allclose([list(map(float, line[1:4])) for line in lines if line[:1] == ["v"]], vertices)
    faces = [[int(corner.partition("/")[0]) for corner in line[1:]] for line in lines if line[:1] == ["f"]]
    assert faces == [[1, 2, 3], [4, 3, 2]]


def test_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="cannot write .*no/a.obj: No such file"):
        mesh_files.write(tmp_path / "no" / "a.obj", {"right": (BALL.vertices, BALL.faces)})


def fan(spacing: float) -> np.ndarray:
    """Joints (21, 2) px: a row for each finger, away from the wrist in the first column."""
    joints = np.zeros((21, 2))
    for joint in range(1, 21):
        joints[joint] = [(joint - 1) % 4 + 1, (joint - 1) // 4]
    return joints * spacing + spacing


def test_each_joint_and_bone_has_the_colour_of_its_finger():
    image, joints = np.full((120, 120, 3), 7, np.uint8), fan(20)
    drawn = draw.draw_skeleton(image, joints, scale=2)
    assert drawn.shape == (240, 240, 3) and drawn.dtype == np.uint8
    at = lambda x, y: drawn[round((y + 0.5) * 2 - 0.5), round((x + 0.5) * 2 - 0.5)].tolist()  # noqa: E731
    assert at(*joints[0]) == list(WRIST_COLOR)
    for joint in range(1, 21):
        assert at(*joints[joint]) == list(FINGER_COLORS[FINGER_OF_JOINT[joint]])
    for parent, child in BONES:
        x, y = (joints[parent] + joints[child]).astype(int)  # the middle of the bone in the picture
        seen = drawn[y - 1 : y + 3, x - 1 : x + 3].reshape(-1, 3)
        color = np.array(FINGER_COLORS[FINGER_OF_JOINT[child]])
        mixed = 7 + (color - 7) * np.linspace(0, 1, 200)[:, None]  # with the background, at smooth edges
        assert parent == 0 or all(np.abs(mixed - pixel).max(-1).min() <= 2 for pixel in seen)
        assert parent == 0 or seen.max() > 0.6 * color.max()
    assert at(110, 110) == [7, 7, 7] and (image == 7).all()


def test_points_and_lines_are_thicker_in_larger_pictures():
    """A line is 1 px wide per 140 px of the picture's height; a point has 0.6 px more as its radius."""
    widths = {}
    for height in (100, 279, 280, 560):
        joints = np.full((21, 2), np.nan)
        joints[[5, 6]] = [50, 20], [50, 80]
        drawn = draw.draw_skeleton(np.zeros((height, 100, 3), np.uint8), joints, scale=1)
        sums = drawn.sum((1, 2)) / sum(FINGER_COLORS[1])
        widths[height] = round(sums[50], 1), round(sums[20], 1)  # px, of the line and of a point
    assert widths == {100: (1.3, 4.7), 279: (1.3, 4.7), 280: (3.4, 6.4), 560: (5.4, 10.4)}  # with smooth edges


def test_joints_that_are_not_known_are_left_out():
    joints = fan(20)
    joints[8], joints[12], joints[16] = np.nan, 1e6, np.inf
    drawn = draw.draw_skeleton(np.zeros((120, 120, 3), np.uint8), joints, scale=1)
    shown = draw.draw_skeleton(
        np.zeros((120, 120, 3), np.uint8), fan(20), scale=1, valid=~np.isin(np.arange(21), (8, 12, 16))
    )
    np.testing.assert_array_equal(drawn, shown)
    without = draw.draw_skeleton(np.zeros((120, 120, 3), np.uint8), fan(20), scale=1, valid=np.zeros(21))
    assert not without.any()


def test_normals_are_weighted_by_area():
    """A corner of a box of 1 x 2 x 3: the sum of its faces' normals, each as long as the face is large."""
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]])
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2]])
    normals = draw.vertex_normals(vertices, faces)
    np.testing.assert_allclose(normals[0], -np.array([6, 3, 2]) / 7)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1)


def test_triangles_are_divided_into_four():
    corners = np.array([[[0.0, 0, 0], [2, 0, 0], [0, 4, 6]]])
    parts = draw._subdivide(corners)
    areas = np.linalg.norm(np.cross(parts[:, 1] - parts[:, 0], parts[:, 2] - parts[:, 0]), axis=-1)
    whole = np.cross(corners[0, 1] - corners[0, 0], corners[0, 2] - corners[0, 0])
    np.testing.assert_allclose(areas, np.linalg.norm(whole) / 4)
    np.testing.assert_allclose(parts.mean((0, 1)), corners.mean((0, 1)))
    assert len(np.unique(parts.reshape(-1, 3), axis=0)) == 6


def test_light_of_a_triangle():
    """The light is above, left and behind the camera; a face turned away is dark."""
    corners = np.tile([[[0.0, 0, 500], [1, 0, 500], [0, 1, 500]]], (4, 1, 1))
    normals = np.array([[0, 0, -1], [0, -0.6, -0.8], [0, 0.6, -0.8], [0, 0, 1]])[:, None].repeat(3, 1)
    expected = [0.2 + 0.4 + 0.6 * 0.72, 0.2 + 0.32 + 0.6 * (0.36 + 0.576), 0.2 + 0.32 + 0.6 * (0.576 - 0.36), 0.2]
    colors = draw._shades(corners + [[[-1 / 3, -1 / 3, 0]]], normals)  # straight ahead
    np.testing.assert_allclose(colors, np.clip(np.outer(expected, MESH_COLOR), 0, 255), atol=0.01)


def test_a_sheet_has_titles_and_gaps():
    image = np.full((10, 12, 3), 99, np.uint8)
    sheet = draw.comparison_sheet([image] * 3, np.full((3, 21, 2), np.nan), columns=2, scale=2)
    assert sheet.shape == (2 * (20 + 14) + 4, 2 * 48 + 4, 3)
    assert (sheet[14:34, :48] == 99).all() and (sheet[34:38] == 24).all() and (sheet[:, 48:52] == 24).all()
    assert (sheet[38:, 52:] == 24).all()  # no fourth sample
    assert sheet[:14, :24].max() > 150 and sheet[:14, 24:48].max() > 150  # their titles
    both = draw.comparison_sheet(
        [image], np.full((1, 21, 2), np.nan), np.full((1, 21, 2), 5.0), valid=np.zeros((1, 21))
    )
    assert both.shape == (30 + 14, 3 * 36, 3) and (both[14:] == 99).all()
    assert draw.grid([], columns=3).shape == (0, 0, 3)
    assert draw.grid([image] * 2, columns=1, gap=1).shape == (21, 12, 3)
    assert draw.grid([image] * 2, columns=9).shape == (10, 28, 3) and draw.grid([image], columns=0).shape == (10, 12, 3)


def test_pictures_are_rgb(tmp_path):
    image = np.zeros((2, 3, 3), np.uint8)
    image[0, 1] = 10, 20, 30
    draw.write_png(tmp_path / "a.png", image)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png"))[..., ::-1], image)
    with pytest.raises(UserError, match="cannot write .*no/a.png: No such file"):
        draw.write_png(tmp_path / "no" / "a.png", image)
