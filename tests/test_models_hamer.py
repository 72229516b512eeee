"""HaMeR compared with its official code, its losses by hand, its mean hand in bfloat16, and its discriminator."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxhand.config import ConfigError, OptimizerConfig, SchedulerConfig, UserError, load
from jaxhand.hand import skinned
from jaxhand.hand.rotations import axis_angle_to_matrix, rotation_6d_to_matrix
from jaxhand.models import discriminator
from jaxhand.models.hamer import Hamer, real_hands
from jaxhand.models.mano_head import mean_mano_params
from jaxhand.models.preprocess import center_crop_normalize
from jaxhand.models.vit import center_crop_arguments
from jaxhand.training import losses, optimizer
from tests.support.hamer_models import build, close, config, golden, make_batch, put, quick_jit, toy_hand

SMALL = ("data.image_size=64", "model.vit.width=16", "model.hamer.width=16")
RELEASED_TURN = (1.0, 0.0, 0.0, -1.0000005, 0.0, 1.5e-7)  # HaMeR's mean_params.npz of the whole hand: a2 is nearly -a1


@pytest.fixture(scope="module")
def hand():
    return toy_hand()


@pytest.fixture(scope="module")
def small(hand):
    """A small network with a discriminator."""
    return build(Hamer, config("hamer", *SMALL, "model.hamer.discriminator=true", "model.vit.drop_path=0.2"), hand)


@pytest.fixture(scope="module")
def released(shared, hand):
    """The golden network, the golden inputs and outputs, and the network's predictions."""
    weights, data = golden(shared, "hamer_tiny.npz")
    model = build(Hamer, config("hamer"), hand)
    put(model, "hamer", weights)
    assert not weights, "every weight has a place"
    return model, data, run(model, data)


def run(model, data) -> dict:
    """All outputs of a network on the golden images, which are the middle of a crop and already normalised."""
    image = np.zeros((2, 256, 256, 3), np.float32)
    image[:, :, 32:224] = data["in/img"].transpose(0, 2, 3, 1) * (0.229, 0.224, 0.225) + (0.485, 0.456, 0.406)
    image[:, :, :32] = 7  # not read
    graphdef, state = nnx.split(model)

    @quick_jit
    def everything(state, batch):
        model = nnx.merge(graphdef, state)
        features = model.backbone(center_crop_normalize(batch["image"]))
        token = model.mano_head.transformer(features)
        return model(batch) | {"features": features, "token": token, "numbers": model.mano_head(features)}

    return everything(state, {"image": image, "K": make_batch(2, 256)["K"]})


def test_it_is_hamer(released):
    _, data, got = released
    close(got["features"].reshape(2, 16, 12, 64).transpose(0, 3, 1, 2), data["out64/vit_feat"], 1e-5)
    close(got["token"], data["out64/token"], 1e-5)
    for value, name in zip(got["numbers"], ("pose6d", "betas", "cam")):
        close(value, data[f"out64/{name}"], 1e-5)
    close(got["rotations"][:, :1], data["out/global_orient"])
    close(got["rotations"][:, 1:], data["out/hand_pose"])
    close(got["mano_shape"], data["out/betas"])
    close(got["camera"], data["out/cam"])


def test_2d_joints_are_projected_by_hamers_assumed_camera(released):
    """`keypoints_2d` by HaMeR's formula: f = 5000 / 256, in parts of the crop's side from its centre."""
    got = {name: np.asarray(released[2][name], np.float64) for name in ("camera", "keypoints_3d", "keypoints_2d")}
    s, tx, ty = got["camera"].T
    move = np.stack([tx, ty, 2 * 3 / s], -1)  # m, of the crop's own camera: its focal length is 3 sides
    joints = got["keypoints_3d"] / 1000 - move[:, None]
    joints = joints + np.stack([tx, ty, 2 * 5000 / (256 * s + 1e-9)], -1)[:, None]
    parts = 5000 / 256 * joints[..., :2] / joints[..., 2:]
    np.testing.assert_allclose(got["keypoints_2d"], (parts + 0.5) * 256, atol=0.01)
    assert np.isfinite(released[2]["vertices"]).all() and released[2]["vertices"].shape == (2, 40, 3)


def test_an_untrained_hand_fills_the_crop_and_shows_its_palm(hand):
    pose, shape, camera = (constant[...] for constant in mean_mano_params("", hand))
    rotations = np.asarray(rotation_6d_to_matrix(pose.reshape(16, 6)))
    np.testing.assert_allclose(rotations[0] @ [0, 1, 0], [0, 0, 1], atol=1e-6)  # the back of the hand: away
    np.testing.assert_allclose(rotations[1:], np.tile(np.eye(3), (15, 1, 1)), atol=1e-6)
    vertices = hand.template[:40] - hand.template[-16]
    placed = (vertices @ rotations[0].T + hand.template[-16])[:, :2] / 1000 + camera[0, 1:]
    parts = placed * camera[0, 0] / 2  # of the crop's side, from its centre
    np.testing.assert_allclose(parts.min(0) + parts.max(0), 0, atol=1e-3)
    assert 0.5 < np.ptp(parts, axis=0).max() < 1


def test_bfloat16_leaves_the_pose_in_float32(released, hand):
    """Only products before the output layers are rounded: bfloat16 would move the pose by tenths of millimetres."""
    model, data, wanted = released
    other = build(Hamer, config("hamer", "model.dtype=bfloat16"), hand)
    nnx.update(other, nnx.state(model))
    got = run(other, data)
    assert all(value.dtype == jnp.float32 for value in (got["features"], got["token"], *got["numbers"]))
    for ours, theirs in zip(got["numbers"], wanted["numbers"]):
        assert 1e-6 < np.abs(ours - theirs).max() < 0.03 * np.abs(theirs).max()

    head = model.mano_head
    parts = head.decpose.kernel, head.decpose.bias, head.init_hand_pose
    kernel, bias, mean = (np.asarray(part[...], np.float64) for part in parts)
    said = np.asarray(got["token"], np.float64) @ kernel + bias
    bend = lambda numbers: rotation_6d_to_matrix(jnp.float32(numbers).reshape(-1, 16, 6))
    tips = lambda numbers: np.asarray(skinned.forward(hand, bend(numbers), jnp.zeros((2, 10))).joints[:, 4::4])
    exact = tips(mean + said)
    assert np.abs(tips(got["numbers"][0]) - exact).max() < 0.005  # mm
    assert np.abs(tips(jnp.bfloat16(mean) + jnp.bfloat16(said)) - exact).max() > 0.1


def test_the_mean_rotation_of_hamers_wrist_is_kept():
    """Its second column comes from a number of 1.5e-7 alone, whose square is 0 in half precision."""
    turn = lambda numbers: np.asarray(rotation_6d_to_matrix(numbers), np.float64)
    quarter = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]  # about x
    np.testing.assert_allclose(turn(jnp.float32(RELEASED_TURN)), quarter, atol=1e-6)
    assert not np.allclose(turn(jnp.float16(RELEASED_TURN)), quarter, atol=0.1)


@pytest.fixture(scope="module")
def step(small):
    """A training step of the small network: (parameters, key) → loss, gradient."""
    graphdef, _, rest = nnx.split(small, nnx.Param, ...)
    batch, weights = make_batch(8, 64), load(None, ["loss.reduction=sum", "loss.adversarial=1"]).loss

    @quick_jit
    def step(params, key):
        def loss(params):
            predictions = nnx.merge(graphdef, params, rest)(batch, key)
            return losses.reduced(losses.terms(predictions, batch, small.loss_terms), weights)["loss"]

        return jax.value_and_grad(loss)(params)

    return step


def test_gradients_reach_all_parameters(small, step):
    value, gradient = step(jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(small, nnx.Param))), jax.random.key(0))
    flat = {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(gradient)
    }
    assert np.isfinite(value) and all(np.isfinite(leaf).all() for leaf in flat.values())
    head = "mano_head.transformer"
    queries, values = np.split(flat[f"{head}.layers.self_attention.to_qkv.kernel"], [64], axis=-1)
    assert not queries.any() and values.any()  # a single token attends only to itself, whatever the query is
    assert {name for name, leaf in flat.items() if not leaf.any()} == {f"{head}.to_token_embedding.kernel"}  # of zeros


def test_a_few_steps_lower_the_loss(small, step):
    params, values = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(small, nnx.Param))), []
    for i in range(25):
        value, gradient = step(params, jax.random.key(i))
        params = jax.tree.map(lambda p, g: p - 3e-3 * np.sign(g), params, gradient)
        values.append(float(value))
    assert np.isfinite(values).all() and np.mean(values[-3:]) < 0.7 * values[0]


def test_hamers_losses_by_hand():
    """Sums over joints; metres and parts of the crop's side; rotations as matrices; no label, no error."""
    batch = make_batch(2, 64)
    joints = batch["keypoints_3d"]
    predicted = joints + np.float32([500, -300, 900])  # a shift of the complete hand is no error in 3D
    predicted[0, 5] += (10, -20, 30)  # mm
    predicted[1, 7] += (0, 0, 1000)
    seen = batch["keypoints_2d"] + np.float32(0)
    seen[0, 3] += (16, -8)  # px of 64
    seen[1, 2] += (64, 0)
    seen[1, 4] += 1e4
    batch["joint_valid_2d"][1, 4] = 0
    batch["joint_valid"][1] = 0  # labelled in 2D only
    batch["has_pose"][1] = 0
    turn = np.array(axis_angle_to_matrix(batch["mano_pose"].reshape(2, 16, 3)))
    turn[0, 0, 0, 0] += 0.5
    turn[0, 3, 1, 2] += 0.2
    turn[0, 9, 2, 2] -= 0.1
    turn[1] += 1
    shape = batch["mano_shape"] + np.float32([[0.1] * 10, [5] * 10])
    predictions = {
        "keypoints_3d": predicted,
        "keypoints_2d": seen,
        "rotations": turn,
        "mano_shape": shape,
        "fake_logits": np.full((2, 17), 0.5),
        "critic_fake": np.full((2, 17), 0.25),
        "critic_real": np.stack([np.full((2, 17), 0.5), np.ones((2, 17))]),  # the second hand has no labels
    }
    terms = losses.terms(
        predictions,
        batch,
        ("keypoints_2d", "keypoints_3d", "global_orient", "hand_pose", "betas", "adversarial", "discriminator"),
    )
    wanted = {
        "keypoints_2d": [24 / 64, 1.0],
        "keypoints_3d": [0.06, 0],
        "global_orient": [0.25, 0],
        "hand_pose": [0.04 + 0.01, 0],
        "betas": [0.1, 0],
        "adversarial": [17 * 0.25] * 2,
    }
    for name, values in wanted.items():
        np.testing.assert_allclose(terms[name], values, rtol=1e-4, atol=1e-6, err_msg=name)
    weights = load(None, ["loss.reduction=sum"]).loss
    reduced = losses.reduced(terms, weights)
    averaged = {name for name, term in losses.TERMS.items() if term.always_mean}
    assert averaged == {"adversarial", "discriminator"}  # HaMeR divides these by the batch
    np.testing.assert_allclose(reduced["discriminator"], 17 * 0.0625 + 2 * 17 * 0.25 / 2, rtol=1e-6)
    total = 0.01 * 1.375 + 0.05 * 0.06 + 0.001 * 0.25 + 0.001 * 0.05 + 0.0005 * 0.1
    total += 0.0005 * 17 * 0.25 + 0.0005 * (17 * 0.0625 + 17 * 0.25)
    np.testing.assert_allclose(reduced["loss"], total, rtol=1e-4)


def test_adamw_does_not_depend_on_the_reduction_of_a_loss():
    """HaMeR's sums and a mean lead to the same steps; only clipping, and weights relative to a mean, differ."""
    config = OptimizerConfig(learning_rate=1e-5, b2=0.999, clip_norm=0)
    tx = optimizer.build(config, optimizer.schedule(config, SchedulerConfig(name="constant", warmup_steps=0), 10))
    params = {"kernel": jnp.ones((3, 4))}
    gradients = [{"kernel": jax.random.normal(jax.random.key(i), (3, 4)) * 0.1} for i in range(3)]

    def after(factor):
        state, here = tx.init(params), params
        for gradient in gradients:
            updates, state = tx.update(jax.tree.map(lambda g: g * factor, gradient), state, here)
            here = optax.apply_updates(here, updates)
        return np.asarray(here["kernel"] - params["kernel"])

    np.testing.assert_allclose(after(64.0), after(1.0), rtol=0, atol=2e-7)
    assert np.abs(after(1.0)).max() > 1e-5


def test_the_discriminator_is_hmrs(small):
    model, rng = small.discriminator, np.random.default_rng(0)
    rotations, shape = rng.normal(size=(2, 15, 3, 3)), rng.normal(size=(2, 10))

    def layer(name):
        return [np.asarray(getattr(getattr(model, name), part)[...], np.float64) for part in ("kernel", "bias")]

    def linear(x, name):
        kernel, bias = layer(name)
        return x @ kernel + bias

    relu = lambda x: np.maximum(x, 0)
    wanted = np.zeros((2, 17))
    for b in range(2):
        channels = np.zeros((32, 15))
        for j in range(15):
            channels[:, j] = relu(linear(relu(linear(rotations[b, j].ravel(), "D_conv1")), "D_conv2"))
            kernel, bias = layer("pose_out")
            wanted[b, j] = kernel[j] @ channels[:, j] + bias[j]
        wanted[b, 15] = linear(relu(linear(relu(linear(shape[b], "betas_fc1")), "betas_fc2")), "betas_out")[0]
        whole = relu(linear(relu(linear(channels.ravel(), "D_alljoints_fc1")), "D_alljoints_fc2"))
        wanted[b, 16] = linear(whole, "D_alljoints_out")[0]
    close(model(jnp.float32(rotations), jnp.float32(shape)), wanted, 1e-5)


def test_generator_and_discriminator_learn_each_from_its_own_terms(small):
    model = small.discriminator
    graphdef, params = nnx.split(model)
    batch = make_batch(2, 64) | {"has_pose": np.float32([1, 0])}
    real = real_hands(batch)
    rotations, shape = jnp.zeros((2, 16, 3, 3)) + jnp.eye(3), jnp.ones((2, 10))

    @quick_jit
    def gradients(*of):
        def judged(params, *hands):
            return discriminator.discriminator_outputs(nnx.merge(graphdef, params), *hands, *real)

        terms = ("fake_logits", "critic_fake", "critic_real")
        slopes = jax.jacrev(lambda *of: [((judged(*of)[term] - 1) ** 2).sum() for term in terms], argnums=(0, 1, 2))
        return judged(*of), slopes(*of)

    found, slopes = gradients(params, rotations, shape)
    moved = lambda tree: any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(tree))
    assert [(moved(judge), moved(hands)) for judge, *hands in slopes] == [(False, True), (True, False), (True, False)]
    assert found["critic_real"].shape == (2, 1, 17)
    np.testing.assert_array_equal(found["critic_real"][1], 1)  # no real hand, no error
    assert np.abs(found["critic_real"][0] - 1).max() > 1e-3


def test_real_hands_of_motion_capture_take_the_place_of_labels():
    batch = make_batch(2, 64)
    rotations, shape, real = real_hands(batch)
    assert rotations.shape == (2, 1, 15, 3, 3) and shape.shape == (2, 1, 10) and real.shape == (2, 1)
    close(rotations[1, 0, 14], axis_angle_to_matrix(batch["mano_pose"][1, 45:]))
    pose, betas = np.arange(4 * 48, dtype=np.float32).reshape(2, 2, 48) / 100, np.ones((2, 2, 10), np.float32)
    rotations, shape, real = real_hands(batch | {"mocap_pose": pose, "mocap_shape": betas})
    assert rotations.shape == (2, 2, 15, 3, 3) and real.all()
    close(rotations[1, 0, 0], axis_angle_to_matrix(pose[1, 0, 3:6]))


def test_without_a_key_or_a_discriminator_nothing_is_judged(small, hand):
    batch = make_batch(2, 64)
    assert "fake_logits" not in jax.eval_shape(small, {"image": batch["image"], "K": batch["K"]})
    assert "fake_logits" in jax.eval_shape(small, batch, jax.random.key(0))
    plain = nnx.eval_shape(lambda: Hamer(config("hamer", *SMALL), hand, nnx.Rngs(0)))
    assert plain.discriminator is None and "adversarial" not in plain.loss_terms
    assert small.loss_terms[-2:] == ("adversarial", "discriminator")


def test_a_mean_hand_from_a_file(tmp_path, hand):
    good = {"pose": np.arange(96.0), "shape": np.ones(10), "cam": np.float64([4, 0, 0])}
    np.savez(tmp_path / "mean.npz", **good)
    pose, shape, camera = mean_mano_params(str(tmp_path / "mean.npz"), hand)
    np.testing.assert_array_equal(pose[...], np.arange(96, dtype=np.float32)[None])
    np.testing.assert_array_equal(camera[...], [[4, 0, 0]])
    np.savez(tmp_path / "short.npz", **good | {"pose": np.ones(90)})
    np.savez(tmp_path / "nan.npz", **good | {"cam": np.float64([np.nan, 0, 0])})
    np.savez(tmp_path / "less.npz", pose=np.ones(96))
    (tmp_path / "text.npz").write_text("no")
    for name, message in (
        ("short", "pose must be 96 finite numbers"),
        ("nan", "cam must be 3 finite"),
        ("less", "shape"),
        ("text", "not a readable mano_mean_params.npz"),
        ("none", "not a readable .*No such file"),
    ):
        with pytest.raises(UserError, match=f"model.hamer.init .*{name}.npz.*{message}"):
            mean_mano_params(str(tmp_path / f"{name}.npz"), hand)


@pytest.mark.parametrize(("size", "patch", "multiple"), [(96, 16, 64), (36, 3, 24), (20, 1, 8)])
def test_crops_that_do_not_fit(size, patch, multiple):
    overrides = f"data.image_size={size}", f"model.vit.patch={patch}"
    with pytest.raises(ConfigError, match=f"data.image_size must be a multiple of {multiple} .*, got {size}"):
        center_crop_arguments(config("hamer", *overrides))
