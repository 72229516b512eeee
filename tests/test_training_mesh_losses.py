"""Losses on meshes against numbers worked out by hand."""

import jax
import numpy as np
import pytest

from jaxhand.config import LossConfig
from jaxhand.data import mesh_labels
from jaxhand.hand import skinned
from jaxhand.hand.rotations import axis_angle_to_matrix
from jaxhand.training import losses
from tests.test_data_crop_mesh import V, make_hand

FUSION = ("w_2d", "w_3d_joint", "w_3d_vert", "w_prior", "w_aux")
HAMER = ("keypoints_2d", "keypoints_3d", "global_orient", "hand_pose", "betas")
ADVERSARIAL = ("adversarial", "discriminator")


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    make = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return {
        "image": np.zeros((2, 64, 48, 3), np.float32),
        "keypoints_3d": make(2, 21, 3) * 40,
        "keypoints_2d": make(2, 21, 2) * 10 + 32,
        "joint_valid": np.ones((2, 21), np.float32),
        "joint_valid_2d": np.ones((2, 21), np.float32),
        "vertices": make(2, V, 3) * 40,
        "has_vertices": np.ones(2, np.float32),
        "mano_pose": make(2, 48) * 0.5,
        "mano_shape": make(2, 10),
        "has_pose": np.ones(2, np.float32),
        "has_depth": np.ones(2, np.float32),
    }


def right(batch):
    rotations = np.asarray(axis_angle_to_matrix(batch["mano_pose"].reshape(-1, 16, 3)))
    same = {key: batch[key].copy() for key in ("keypoints_3d", "keypoints_2d", "vertices", "mano_shape")}
    return same | {"rotations": rotations, "coarse_rotations": rotations, "coarse_shape": batch["mano_shape"].copy()}


@pytest.mark.parametrize("names", [FUSION, HAMER, ("vertices",)])
def test_no_error_costs_nothing_but_the_prior(batch, names):
    terms = losses.terms(right(batch), batch, names)
    assert tuple(terms) == names
    for name in names:
        expected = (batch["mano_shape"] ** 2).mean(-1) if name == "w_prior" else 0
        np.testing.assert_allclose(terms[name], expected, atol=1e-5, err_msg=name)


def test_joints_are_summed_in_their_units(batch):
    off = right(batch)
    off["keypoints_2d"][0, 3] += (6.4, -3.2)
    off["keypoints_3d"][1, 5] += (10, -20, 30)
    off["vertices"][1, 7] += (1, 2, -3)
    terms = losses.terms(off, batch, FUSION + HAMER)
    np.testing.assert_allclose(terms["w_2d"], [0.15, 0], atol=1e-5)
    np.testing.assert_allclose(terms["keypoints_2d"], [0.15, 0], atol=1e-5)
    np.testing.assert_allclose(terms["w_3d_joint"], [0, 60], atol=1e-3)
    np.testing.assert_allclose(terms["keypoints_3d"], [0, 0.060], atol=1e-6)
    np.testing.assert_allclose(terms["w_3d_vert"], [0, 6], atol=1e-3)
    near = losses.terms(off, batch, ("vertices",))["vertices"]
    np.testing.assert_allclose(near, [0, np.sqrt(14) / V / 100], atol=1e-6)


def test_a_translated_hand_has_no_3d_error(batch):
    off = right(batch)
    off["keypoints_3d"] += 25
    off["vertices"] += 25
    terms = losses.terms(off, batch, ("w_3d_joint", "w_3d_vert", "vertices"))
    np.testing.assert_allclose(np.array(list(terms.values())), 0, atol=1e-3)


def test_parameters_are_compared_as_rotations_and_numbers(batch):
    off = right(batch)
    off["rotations"] = off["rotations"].copy()
    off["rotations"][0, 0, 1, 2] += 2
    off["rotations"][0, 4, 0, 0] += 3
    off["mano_shape"][1, 2] += 0.5
    off["coarse_shape"][0, 1] += 1
    terms = losses.terms(off, batch, HAMER)
    np.testing.assert_allclose(terms["global_orient"], [4, 0], atol=1e-5)
    np.testing.assert_allclose(terms["hand_pose"], [9, 0], atol=1e-5)
    np.testing.assert_allclose(terms["betas"], [0, 0.25], atol=1e-5)
    np.testing.assert_allclose(losses.terms(off, batch, FUSION)["w_aux"], [0.1, 0], atol=1e-5)
    off["coarse_rotations"] = off["coarse_rotations"].copy()
    off["coarse_rotations"][1, 3, 2, 1] += 12
    np.testing.assert_allclose(losses.terms(off, batch, FUSION)["w_aux"], [0.1, 1], atol=1e-5)  # 144 / (16 * 9)


def test_what_is_not_labelled_costs_nothing(batch):
    off = jax.tree.map(lambda values: values + 3, right(batch))
    off["keypoints_3d"] = off["keypoints_3d"] + np.arange(21)[:, None]
    nothing = batch | {key: np.zeros_like(batch[key]) for key in ("joint_valid", "joint_valid_2d", "has_pose")}
    nothing["has_vertices"] = np.zeros(2, np.float32)
    terms = losses.terms(off, nothing, ("vertices", *FUSION, *HAMER))
    assert all(not np.any(value) for name, value in terms.items() if name != "w_prior")


def test_the_discriminator_wants_real_hands_at_1_and_predicted_ones_at_0(batch):
    logits = {
        "fake_logits": np.full((2, 17), 0.5),
        "critic_fake": np.full((2, 17), 0.1),
        "critic_real": np.zeros((4, 17)),
    }
    terms = losses.terms(right(batch) | logits, batch, HAMER + ADVERSARIAL)
    assert all(losses.TERMS[name].train_only for name in ADVERSARIAL)
    np.testing.assert_allclose(terms["adversarial"], 17 * 0.25)
    np.testing.assert_allclose(terms["discriminator"], 17 * 0.01 + 4 * 17 / 2)
    reduced = losses.reduced(terms, LossConfig(reduction="sum"))
    np.testing.assert_allclose(reduced["adversarial"], 17 * 0.25)


def test_vertices_come_from_the_pose_where_a_hand_has_none(batch):
    hand = make_hand()
    batch["has_vertices"] = np.float32([1, 0])
    done = mesh_labels.completed(hand, batch)
    np.testing.assert_array_equal(done["has_vertices"], [1, 1])
    np.testing.assert_array_equal(done["vertices"][0], batch["vertices"][0])
    posed = skinned.forward(hand, mesh_labels.true_rotations(batch), batch["mano_shape"])
    expected = posed.vertices[1] - posed.joints[1, 0] + batch["keypoints_3d"][1, 0]
    np.testing.assert_allclose(done["vertices"][1], expected, atol=1e-4)
    batch["has_pose"] = np.zeros(2, np.float32)
    np.testing.assert_array_equal(mesh_labels.completed(hand, batch)["has_vertices"], [1, 0])
