"""Joint names, tree, the orders of other data sets, cameras and drawing."""

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.hand import camera, draw, skeleton


def test_every_order_is_a_permutation_and_can_be_undone():
    joints = np.random.default_rng(0).normal(size=(2, 21, 3))
    for name, order in skeleton.JOINT_ORDERS.items():
        assert sorted(order) == list(range(21)), name
        np.testing.assert_array_equal(skeleton.from_our_order(skeleton.to_our_order(joints, name), name), joints)


def test_orders_from_the_data_sets_own_names():
    fingers = ("thumb", "index", "middle", "ring", "little")
    mano = ["wrist", *(f"{f}{i}" for f in ("index", "middle", "little", "ring", "thumb") for i in (1, 2, 3))]
    names = {
        "freihand": list(skeleton.JOINT_NAMES),
        "ho3d": mano + [f"{f}4" for f in fingers],
        "mano_tips_thumb_last": mano + [f"{f}4" for f in ("index", "middle", "little", "ring", "thumb")],
        "interhand": [f"{f}{i}" for f in fingers for i in (4, 3, 2, 1)] + ["wrist"],
        "rhd": ["wrist", *(f"{f}{i}" for f in fingers for i in (4, 3, 2, 1))],
    }
    for name, order in names.items():
        assert [order[i] for i in skeleton.JOINT_ORDERS[name]] == list(skeleton.JOINT_NAMES), name


def test_tree_goes_from_the_wrist_to_every_tip():
    assert len(skeleton.JOINT_NAMES) == len(set(skeleton.JOINT_NAMES)) == 21 and len(skeleton.BONES) == 20
    for joint in range(1, 21):
        assert skeleton.PARENTS[joint] == (0 if skeleton.JOINT_NAMES[joint].endswith("1") else joint - 1)


@pytest.mark.parametrize("xp", [np, jnp])
def test_unproject_undoes_project_for_a_skewed_camera(xp):
    K = xp.asarray([[[210.0, 7.0, 31.0], [-4.0, 190.0, 30.0], [0.0, 0.0, 1.0]]] * 2)
    points = xp.asarray(np.random.default_rng(0).normal(size=(2, 21, 3)) * 60 + [0, 0, 500])
    uv = camera.project(points, K)
    np.testing.assert_allclose(uv[0, 0], (K[0] @ points[0, 0])[:2] / points[0, 0, 2], rtol=1e-5)
    back = camera.unproject(uv, points[..., 2], K)
    assert isinstance(back, np.ndarray) == (xp is np)
    np.testing.assert_allclose(back, points, rtol=1e-4, atol=1e-3)


def test_skeleton_is_drawn_on_a_larger_copy_without_unknown_joints():
    image = np.zeros((32, 40, 3), np.uint8)
    keypoints = np.random.default_rng(0).uniform(2, 30, (21, 2))
    drawn = draw.draw_skeleton(image, keypoints, scale=3)
    assert drawn.shape == (96, 120, 3) and drawn.dtype == np.uint8 and drawn.any() and not image.any()
    assert not draw.draw_skeleton(image, keypoints, valid=np.zeros(21)).any()
    assert not draw.draw_skeleton(image, np.full((21, 2), np.nan)).any()
    assert draw.draw_skeleton(image, np.full((21, 2), -1e30)).shape == (128, 160, 3)


def test_comparison_sheet_has_space_for_every_view():
    images, keypoints = np.zeros((5, 16, 16, 3), np.uint8), np.full((5, 21, 2), 8.0)
    two = draw.comparison_sheet(images, keypoints, columns=2, scale=2)
    three = draw.comparison_sheet(images, keypoints, keypoints, columns=5, scale=2, valid=np.ones((5, 21)))
    assert two.shape == (3 * (32 + 14 + 4) - 4, 2 * (64 + 4) - 4, 3)
    assert three.shape == (32 + 14, 5 * (96 + 4) - 4, 3)


def test_png_keeps_red_and_an_unwritable_path_is_one_error_line(tmp_path):
    image = np.zeros((4, 4, 3), np.uint8)
    image[..., 0] = 200
    draw.write_png(tmp_path / "a.png", image)
    assert cv2.imread(str(tmp_path / "a.png"))[0, 0].tolist() == [0, 0, 200]
    with pytest.raises(UserError, match="cannot write"):
        draw.write_png(tmp_path / "nowhere" / "a.png", image)


def test_colours_of_fingers_differ_clearly_and_stay():
    """In HSV: five hues at least 40 degrees apart, all bright; pictures of different versions can be compared."""
    colors = np.uint8([skeleton.FINGER_COLORS])
    hues = np.sort(2 * cv2.cvtColor(colors, cv2.COLOR_RGB2HSV)[0, :, 0].astype(int))
    assert (np.diff([*hues, hues[0] + 360]) >= 29).all() and (colors.max(-1) >= 190).all()
    assert colors.sum(1).tolist() == [[780, 654, 642]] and colors.sum(2).tolist() == [[351, 455, 340, 430, 500]]
    assert skeleton.WRIST_COLOR == (240, 240, 240)
