"""The loss on values worked out by hand, its masks, and gradients that stay finite."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxhand.config import LossConfig, UserError
from jaxhand.training import joint_losses, losses

SIZE = 64  # px


def make_batch(rows=2):
    rng = np.random.default_rng(0)
    joints = rng.normal(0, 40, (rows, 21, 3)).astype(np.float32) + np.float32([0, 0, 500])
    return {
        "image": np.zeros((rows, SIZE, SIZE, 3), np.float32),
        "keypoints_3d": joints,
        "keypoints_2d": rng.uniform(0, SIZE, (rows, 21, 2)).astype(np.float32),
        "joint_valid": np.ones((rows, 21), np.float32),
        "joint_valid_2d": np.ones((rows, 21), np.float32),
        "has_depth": np.ones(rows, np.float32),
    }


def right(batch):
    """Predictions without an error."""
    joints, pixels = batch["keypoints_3d"], batch["keypoints_2d"]
    mean_depth = joints[..., 2].mean(1)
    return {
        "keypoints_3d": joints,
        "keypoints_2d": pixels,
        "guesses_3d": joints[:, None],
        "guesses_2d": pixels[:, None],
        "root_depth": mean_depth,
    }


def moved(values, row, joint, by):
    values = values.copy()
    values[row, joint] += np.float32(by)
    return values


def test_names_and_shapes():
    batch = make_batch(3)
    terms = losses.terms(right(batch), batch)
    assert terms.keys() == set(losses.JOINT_TERMS)
    assert all(value.shape == (3,) for value in terms.values())
    assert losses.terms(right(batch), batch, ("depth",)).keys() == {"depth"}


def test_a_term_that_cannot_be_computed_is_an_error():
    batch = make_batch()
    plain = {key: right(batch)[key] for key in ("keypoints_3d", "keypoints_2d")}
    assert losses.terms(plain, batch, ("joints_3d", "distance")).keys() == {"joints_3d", "distance"}
    for name, missing in (("size", "root_depth"), ("guesses", "guesses_3d"), ("betas", "mano_shape")):
        with pytest.raises(UserError, match=f"loss term '{name}' cannot be computed: neither .* contain '{missing}'"):
            losses.terms(plain, batch, ("joints_3d", name))


def test_names_are_checked():
    assert losses.names_of(("depth", "size"), LossConfig()) == ("depth", "size")
    for names, fault in (
        (("joint_3d",), "unknown loss term 'joint_3d'; did you mean 'joints_3d'?"),
        (("math:no_such",), "loss term math:no_such: math has no no_such"),
        (("math:sqrt",), "loss term 'math:sqrt' has no weight; add one to the config: loss.extra: {math:sqrt: 1.0}"),
    ):
        with pytest.raises(UserError, match=re.escape(fault)):
            losses.names_of(names, LossConfig())
    assert losses.names_of(("depth",), LossConfig(extra={"math:sqrt": 2.0})) == ("depth", "math:sqrt")


def test_no_error_costs_nothing_and_has_a_finite_gradient():
    batch = make_batch()
    for value in losses.terms(right(batch), batch).values():
        np.testing.assert_allclose(value, 0, atol=1e-6)
    gradient = jax.grad(lambda predictions: losses.total(losses.terms(predictions, batch), LossConfig()).sum())(
        right(batch)
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_one_joint_off():
    batch, off = make_batch(), right(make_batch())
    off["keypoints_3d"] = moved(batch["keypoints_3d"], 0, 5, (30, 40, 0))
    off["keypoints_2d"] = moved(batch["keypoints_2d"], 0, 5, (6, 10))
    terms = losses.terms(off, batch)
    np.testing.assert_allclose(terms["joints_3d"], [50 / 21 / 100, 0], atol=1e-6)
    np.testing.assert_allclose(terms["joints_2d"], [8 / 21 / 32, 0], atol=1e-6)
    for name in ("depth", "distance", "size", "guesses"):
        np.testing.assert_allclose(terms[name], 0, atol=1e-6)


def test_one_joint_too_deep():
    batch, off = make_batch(), right(make_batch())
    off["keypoints_3d"] = moved(batch["keypoints_3d"], 1, 7, (0, 0, 21))  # moves the mean by 1 mm
    terms = losses.terms(off, batch)
    np.testing.assert_allclose(terms["depth"], [0, (20 + 20 * 1) / 21 / 100], atol=1e-5)
    np.testing.assert_allclose(terms["distance"], [0, 1 / 100], atol=1e-5)


def test_a_translated_hand_has_only_a_distance_error():
    batch, off = make_batch(), right(make_batch())
    off["keypoints_3d"] = batch["keypoints_3d"] + np.float32([0, 0, 25])
    terms = losses.terms(off, batch)
    np.testing.assert_allclose(terms["distance"], 0.25, atol=1e-5)
    for name in ("joints_3d", "depth"):
        np.testing.assert_allclose(terms[name], 0, atol=1e-5)
    batch["has_depth"][0] = 0  # the network has no cue for the distance
    np.testing.assert_allclose(losses.terms(off, batch)["distance"], [0, 0.25], atol=1e-5)


def test_a_hand_twice_as_far_by_its_size():
    batch, off = make_batch(), right(make_batch())
    off["root_depth"] = off["root_depth"] * np.float32([2, 0.5])
    np.testing.assert_allclose(losses.terms(off, batch)["size"], np.log(2), atol=1e-5)


def test_every_guess_costs_what_final_joints_do():
    batch, off = make_batch(), right(make_batch())
    points = moved(batch["keypoints_3d"], 0, 3, (3, 4, 12))
    pixels = moved(batch["keypoints_2d"], 0, 3, (1, 1))
    off["guesses_3d"] = np.stack([points, batch["keypoints_3d"], points], axis=1)  # two are wrong, one is right
    off["guesses_2d"] = np.stack([pixels, batch["keypoints_2d"], pixels], axis=1)
    three = ("joints_3d", "joints_2d", "depth")
    as_final = losses.terms({"keypoints_3d": points, "keypoints_2d": pixels}, batch, three)
    expected = 2 * sum(as_final.values())
    np.testing.assert_allclose(losses.terms(off, batch)["guesses"], expected, atol=1e-5)
    assert expected[0] > 0


def test_joints_without_a_label_do_not_matter():
    batch, off = make_batch(), right(make_batch())
    batch["joint_valid"][:, 5:9] = batch["joint_valid_2d"][:, 5:9] = 0
    for key, by in (("keypoints_3d", 1e4), ("guesses_3d", -1e4), ("keypoints_2d", 1e3), ("guesses_2d", 1e3)):
        off[key] = off[key].copy()
        off[key][..., 5:9, :] += np.float32(by)
    off["root_depth"] = batch["keypoints_3d"][..., 2].mean(1, where=batch["joint_valid"] > 0)
    for name, value in losses.terms(off, batch).items():
        np.testing.assert_allclose(value, 0, atol=1e-5, err_msg=name)


def test_without_a_wrist_only_joints_3d_is_left_out():
    batch, off = make_batch(), right(make_batch())
    batch["joint_valid"][0, 0] = 0
    off["keypoints_3d"] = moved(moved(batch["keypoints_3d"], 0, 5, (9, 9, 9)), 1, 5, (9, 9, 9))
    terms = losses.terms(off, batch)
    assert terms["joints_3d"][0] == 0 < terms["joints_3d"][1]
    assert terms["depth"][0] > 0


def test_a_hand_without_any_label_costs_nothing():
    batch, off = make_batch(), right(make_batch())
    batch["joint_valid"][0] = batch["joint_valid_2d"][0] = 0
    batch["keypoints_3d"][0] = batch["keypoints_2d"][0] = 0  # as the crop returns them
    off = {key: value + 1 for key, value in off.items()}
    batch["has_depth"][0] = 0

    def total(predictions):
        return losses.total(losses.terms(predictions, batch), LossConfig())

    assert total(off)[0] == 0 < total(off)[1]
    gradient = jax.grad(lambda predictions: total(predictions).sum())(off)
    assert all(np.isfinite(leaf).all() and (leaf[0] == 0).all() for leaf in jax.tree.leaves(gradient))


def test_a_hand_labelled_in_2d_only_learns_pixels_and_does_not_water_down_the_rest():
    batch = make_batch(4)
    batch["joint_valid"][:3], batch["keypoints_3d"][:3], batch["has_depth"][:3] = 0, 0, 1
    batch["joint_valid_2d"][0, 10:] = 0
    off = {key: value + 3 for key, value in right(make_batch(4)).items()}
    off["keypoints_3d"] = moved(off["keypoints_3d"], slice(None), 5, (30, 40, 10))
    terms = losses.terms(off, batch)
    for name in ("joints_3d", "depth", "distance", "size"):
        assert (terms[name][:3] == 0).all() and terms[name][3] > 0
    np.testing.assert_allclose(terms["joints_2d"], 3 / 32, atol=1e-6)
    balanced = losses.terms(off, batch, scales=losses.label_scales(batch))
    for name in ("joints_3d", "depth", "distance", "size"):
        np.testing.assert_allclose(balanced[name].mean(), terms[name][3], rtol=1e-6)  # only one hand has it
    np.testing.assert_allclose(balanced["joints_2d"], terms["joints_2d"], rtol=1e-6)
    whole = (
        losses.terms(off, make_batch(4)),
        losses.terms(off, make_batch(4), scales=losses.label_scales(make_batch(4))),
    )
    for name in terms:
        np.testing.assert_array_equal(whole[0][name], whole[1][name])


def test_total_is_the_weighted_sum():
    weights = LossConfig(joints_3d=2, joints_2d=0, depth=0, distance=0, size=3, guesses=0)
    terms = {name: jnp.array([1.0, 10.0]) for name in losses.JOINT_TERMS}
    np.testing.assert_allclose(losses.total(terms, weights), [5, 50])


@pytest.mark.parametrize(("mask", "mean"), [((1, 1, 1), 2), ((1, 0, 1), 2), ((0, 0, 1), 3), ((0, 0, 0), 0)])
def test_masked_mean(mask, mean):
    assert joint_losses.masked_mean(jnp.array([1.0, 2.0, 3.0]), jnp.array(mask, float)) == mean


def test_the_batch_is_summed_or_averaged():
    terms = {"betas": jnp.array([1.0, 3.0]), "adversarial": jnp.array([2.0, 4.0])}
    mean = losses.reduced(terms, LossConfig(betas=10, adversarial=1))
    assert (mean["betas"], mean["adversarial"], mean["loss"]) == (2, 3, 23)
    summed = losses.reduced(terms, LossConfig(betas=10, adversarial=1, reduction="sum"))
    assert (summed["betas"], summed["adversarial"], summed["loss"]) == (4, 3, 43)  # HaMeR averages the discriminator's


def test_the_camera_term_has_no_root():
    """As `joints_3d`, in the frame of the camera: a translated hand costs its distance."""
    batch, off = make_batch(), right(make_batch())
    batch["joint_valid"][1, :9] = 0
    off["keypoints_3d"] = batch["keypoints_3d"] + np.float32([30, 0, 40])
    np.testing.assert_allclose(losses.terms(off, batch, ("camera",))["camera"], 0.5, atol=1e-5)
    off["keypoints_3d"] = moved(batch["keypoints_3d"], 1, 10, (0, 30, 40))
    scaled = losses.terms(off, batch, ("camera",), scales={"joint_valid": 3.0})["camera"]
    np.testing.assert_allclose(scaled, [0, 3 * 0.5 / 12], atol=1e-5)


def test_the_vertices_term():
    """Mean distance to the vertices, both relative to the wrist; 0 without a mesh or a wrist."""
    batch, off = make_batch(4), right(make_batch(4))
    batch["vertices"] = batch["keypoints_3d"][:, :10] + np.float32(5)
    batch["has_vertices"] = np.float32([1, 0, 1, 1])
    batch["joint_valid"][2, 0] = 0
    off["vertices"] = batch["vertices"] + np.float32([30, 0, 40])
    found = losses.terms(off, batch, ("vertices",), scales={"has_vertices": 2.0})["vertices"]
    np.testing.assert_allclose(found, [1, 0, 0, 1], atol=1e-5)
    off["keypoints_3d"] = off["keypoints_3d"] + np.float32([30, 0, 40])  # translated with its wrist
    np.testing.assert_allclose(losses.terms(off, batch, ("vertices",))["vertices"], 0, atol=1e-5)


def test_terms_of_the_discriminator_are_for_training_and_always_means():
    special = {name for name, term in losses.TERMS.items() if term.train_only or term.always_mean}
    assert special == {"adversarial", "discriminator"}
    assert all(losses.TERMS[name].train_only and losses.TERMS[name].always_mean for name in special)
    assert losses.resolved("math:sqrt") == losses.LossTerm(__import__("math").sqrt, train_only=False, always_mean=False)


def test_sums_of_parts_of_a_batch_add_up():
    terms = {"betas": jnp.array([1.0, 3.0]), "adversarial": jnp.array([2.0, 4.0])}
    for reduction, betas in (("mean", 1), ("sum", 4)):
        half = losses.reduced(terms, LossConfig(betas=10, adversarial=1, reduction=reduction), parts=2)
        assert (half["betas"], half["adversarial"], half["loss"]) == (betas, 1.5, 10 * betas + 1.5)


def test_a_hand_nearer_than_a_millimetre_has_a_finite_size():
    batch, off = make_batch(), right(make_batch())
    batch["keypoints_3d"] = batch["keypoints_3d"] * np.float32(0)
    off["root_depth"] = np.float32([1, np.e])
    np.testing.assert_allclose(losses.terms(off, batch, ("size",))["size"], [0, 1], atol=1e-6)
    assert joint_losses.length(jnp.zeros(3)) == pytest.approx(1e-6)
    assert joint_losses.inverse_fraction(jnp.zeros(4)) == 4
    assert joint_losses.inverse_fraction(jnp.array([[0.0, 1], [0, 0], [1, 1], [1, 0]])) == pytest.approx(4 / 3)
