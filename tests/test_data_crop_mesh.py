"""Meshes in crops: vertices and pose rotate and mirror with the hand; labels of another hand model are left out."""

import numpy as np
import pytest

from jaxhand.data.batch import layout
from jaxhand.data.crop import crop
from jaxhand.data.record import Record
from jaxhand.hand import skinned

V = 30


def make_hand(side=1):
    """A hand of random numbers; with side -1 its mirror image, as a left hand is."""
    rng = np.random.default_rng(0)
    points = V + 21
    weights = rng.uniform(size=(V + 5, 16))
    mirror = np.float32([side, 1, 1])[:, None]
    pose_dirs = rng.normal(size=(points, 3, 15, 3, 3)) * mirror[..., None, None]
    flip = np.float32([side, 1, 1])
    pose_dirs = pose_dirs * flip[:, None] * flip  # R - I of the mirrored turn is F (R - I) F
    return skinned.SkinnedHand(
        "mano", "right",
        template=(rng.normal(size=(points, 3)) * 60 * mirror[:, 0]).astype(np.float32),
        shape_dirs=(rng.normal(size=(points, 3, 10)) * mirror).astype(np.float32),
        pose_dirs=pose_dirs.reshape(points, 3, 135).astype(np.float32),
        global_scale_per_beta=0.0, weights=(weights / weights.sum(1, keepdims=True)).astype(np.float32),
        faces=np.zeros((1, 3), np.int32), mean_pose=np.zeros(45), components=np.eye(45),
    )  # fmt: skip


def posed(hand, pose, shape):
    from jaxhand.hand.rotations import axis_angle_to_matrix

    found = skinned.forward(hand, axis_angle_to_matrix(pose.reshape(16, 3)), shape)
    return np.asarray(found.vertices), np.asarray(found.joints)


def make_record(side):
    rng = np.random.default_rng(1)
    pose, shape = rng.normal(size=48).astype(np.float32) * 0.6, rng.normal(size=10).astype(np.float32)
    vertices, joints = posed(make_hand(side), pose, shape)
    move = np.float32([20, -10, 600])
    return Record(
        image=rng.integers(0, 255, (80, 100, 3), dtype=np.uint8),
        K=np.array([[110.0, 0, 52], [0, 108, 37], [0, 0, 1]]),
        keypoints_3d=joints + move, joint_valid=np.ones(21), hand="right" if side > 0 else "left",
        vertices=vertices + move, mano_pose=pose, mano_shape=shape,
    )  # fmt: skip


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("rotation", [0.0, 0.7])
def test_pose_and_vertices_agree_after_the_crop(side, rotation):
    record = make_record(side)
    batch = crop(record, 64, 1.4, rotation=rotation, hand_model=make_hand())
    assert batch["has_vertices"] == 1 and batch["has_pose"] == 1
    vertices, joints = posed(make_hand(), batch["mano_pose"], batch["mano_shape"])
    np.testing.assert_allclose(joints - joints[0], batch["keypoints_3d"] - batch["keypoints_3d"][0], atol=2e-3)
    np.testing.assert_allclose(vertices - joints[0], batch["vertices"] - batch["keypoints_3d"][0], atol=2e-3)


@pytest.mark.parametrize(
    ("change", "masks"),
    [
        ({"mesh": "builtin"}, (0, 0)),
        ({"vertices": np.zeros((V + 1, 3))}, (0, 1)),
        ({"vertices": None}, (0, 1)),
        ({"mano_pose": None}, (1, 0)),
        ({"mano_shape": None}, (1, 0)),
    ],
)
def test_labels_of_another_hand_are_left_out(change, masks):
    record = Record(**vars(make_record(1)) | change)
    batch = crop(record, 32, 1.4, hand_model=make_hand())
    assert (batch["has_vertices"], batch["has_pose"]) == masks
    if not masks[0]:
        assert not batch["vertices"].any()
    if not masks[1]:
        assert not batch["mano_pose"].any() and not batch["mano_shape"].any()


def test_without_a_hand_there_are_no_mesh_labels():
    assert (
        crop(make_record(1), 32, 1.4).keys()
        == layout(32).keys()
        == layout(32, make_hand()).keys() - {*("vertices", "has_vertices", "mano_pose", "mano_shape", "has_pose")}
    )
