"""The RGB-D model: inputs, outputs, invariances, where features are sampled, and that it learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxhand.config import ConfigError, LossConfig, load
from jaxhand.hand.camera import project
from jaxhand.hand.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from jaxhand.models.mano_head import mano_predictions
from jaxhand.models.preprocess import center_crop_normalize
from jaxhand.models.rgbd_fusion import RgbdFusion, apply_rotation_updates, crop_to_map_pixels, depth_behind_vertices
from jaxhand.models.upsample import sample_bilinear
from jaxhand.training import losses
from jaxhand.training.sharding import split
from tests.support.hamer_models import toy_hand

SIZE, ROWS, PATCH = 32, 4, 8
HAND = toy_hand()
TINY = (
    *("model.name=rgbd_fusion", f"data.image_size={SIZE}", "model.vit.width=16", "model.vit.depth=2"),
    *("model.vit.heads=2", f"model.vit.patch={PATCH}", "model.vit.drop_path=0.3", "model.fusion.upsampler=8"),
    *("model.fusion.scales=2", "model.fusion.looks=2", "model.fusion.graph=[8, 8]"),
)
FOCAL = 45.0
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # compiles much faster


class Tiny:
    """A tiny network as functions of parameters, compiled once."""

    def __init__(self, *overrides):
        self.model = RgbdFusion(load(None, [*TINY, *overrides]), HAND, nnx.Rngs(0))
        self.graphdef, params, rest = nnx.split(self.model, nnx.Param, ...)
        self.params, self.rest = nnx.to_pure_dict(params), nnx.to_pure_dict(rest)
        jit = functools.partial(jax.jit, compiler_options=QUICK)
        self.test = jit(lambda batch: nnx.merge(self.graphdef, self.params, self.rest)(batch))
        self.train, self.gradient = jit(self._train), jit(jax.value_and_grad(self.loss))

    def _train(self, params, rest, batch, key):
        model = nnx.merge(self.graphdef, params, rest)
        return model(batch, key), nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))

    def loss(self, params, batch, key):
        weights = LossConfig(w_2d=10.0, w_3d_vert=0.01, w_aux=1.0)
        terms = losses.terms(self._train(params, self.rest, batch, key)[0], batch, RgbdFusion.loss_terms)
        return losses.reduced(terms, weights)["loss"]


@pytest.fixture(scope="module")
def tiny():
    return Tiny()


def make_batch(seed=0, rows=ROWS):
    """Noise images, and labels of hands in front of the camera."""
    rng = np.random.default_rng(seed)
    batch = {
        "image": rng.uniform(0, 1, (rows, SIZE, SIZE, 3)),
        "depth": rng.uniform(-1, 1, (rows, SIZE, SIZE)),
        "has_depth": np.ones(rows),
        "depth_center": np.full(rows, 450.0),
        "K": np.tile([[FOCAL, 0, 15.5], [0, FOCAL, 15.5], [0, 0, 1]], (rows, 1, 1)),
        "mano_pose": rng.normal(0, 0.3, (rows, 48)),
        "mano_shape": rng.normal(0, 1, (rows, 10)),
        **{name: np.ones(rows) for name in ("has_pose", "has_vertices")},
        **{name: np.ones((rows, 21)) for name in ("joint_valid", "joint_valid_2d")},
    }
    batch = {name: np.float32(value) for name, value in batch.items()}
    camera = np.float32([[6, 0, 0]] * rows)
    hands = mano_predictions(
        HAND, axis_angle_to_matrix(batch["mano_pose"].reshape(rows, 16, 3)), batch["mano_shape"], camera, batch
    )
    return batch | {name: np.asarray(hands[name]) for name in ("keypoints_3d", "keypoints_2d", "vertices")}


def without_depth(batch):
    """As the pipeline returns a sample without depth."""
    return batch | {key: np.zeros_like(batch[key]) for key in ("depth", "has_depth", "depth_center")}


KEY = jax.random.key(0)


def test_predictions(tiny):
    batch = make_batch()
    got = tiny.test(batch)
    shapes = {
        "keypoints_3d": (21, 3),
        "keypoints_2d": (21, 2),
        "vertices": (HAND.num_vertices, 3),
        "rotations": (16, 3, 3),
        "mano_pose": (48,),
        "mano_shape": (10,),
        "camera": (3,),
        "coarse_rotations": (16, 3, 3),
        "coarse_shape": (10,),
        "guesses_3d": (2, 21, 3),
        "guesses_2d": (2, 21, 2),
    }
    assert {name: value.shape for name, value in got.items()} == {name: (ROWS, *s) for name, s in shapes.items()}
    assert all(value.dtype == np.float32 and np.isfinite(value).all() for value in got.values())
    np.testing.assert_allclose(got["keypoints_2d"], project(np.asarray(got["keypoints_3d"]), batch["K"]), atol=1e-3)
    again = mano_predictions(HAND, got["rotations"], got["mano_shape"], got["camera"], batch)
    np.testing.assert_allclose(got["vertices"], again["vertices"], atol=1e-2)
    np.testing.assert_allclose(axis_angle_to_matrix(got["mano_pose"].reshape(-1, 16, 3)), got["rotations"], atol=1e-5)


def test_the_fingers_of_an_untrained_hand_point_up_at_the_measured_distance(tiny):
    joints = np.asarray(tiny.test(make_batch())["keypoints_3d"])
    up = joints[:, 0] - joints[:, 12]
    assert (up[:, 1] > 100).all() and (np.abs(up[:, [0, 2]]) < 50).all()
    assert (np.abs(joints[:, 0, 2] - 450) < 20).all()


def test_only_training_is_random_and_keeps_statistics(tiny):
    batch = make_batch()
    for name, value in tiny.test(batch).items():
        np.testing.assert_array_equal(value, tiny.test(batch)[name])
    (one, rest), (other, _) = (tiny.train(tiny.params, tiny.rest, batch, jax.random.key(seed)) for seed in (0, 1))
    assert np.abs(one["vertices"] - other["vertices"]).max() > 1e-4
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), rest, tiny.rest)
    assert len(jax.tree.leaves(moved)) == 2 and min(jax.tree.leaves(moved)) > 0  # mean and variance


def test_hidden_depth_does_not_change_predictions(tiny):
    """A row whose depth the pipeline hides is the row of a set that never had depth, next to rows with depth."""
    batch = make_batch()
    got = tiny.test(without_depth(batch))
    mixed = batch | {"has_depth": np.float32([0, 1, 1, 1])}  # hidden depth is still in the batch
    mixed = {name: value.copy() for name, value in mixed.items()}
    mixed["depth"][0], mixed["depth_center"][0] = np.nan, 9e3
    for name, value in tiny.test(mixed).items():
        np.testing.assert_allclose(value[0], got[name][0], rtol=1e-5, atol=1e-3)
    assert np.abs(tiny.test(batch)["vertices"] - got["vertices"])[1:].min(axis=(1, 2)).max() > 1e-3  # depth is used


def test_a_network_without_depth_ignores_depth():
    blind, batch = Tiny("model.fusion.depth=false"), make_batch()
    got, other = blind.test(batch), blind.test(without_depth(batch))
    for name, value in got.items():
        np.testing.assert_array_equal(value, other[name])
    assert not {"depth_embed", "depth_positions", "placeholder", "metric"} & set(blind.params)


def test_without_refinement_the_coarse_hand_is_the_hand():
    got = (coarse := Tiny("model.fusion.refine=false")).test(make_batch())
    np.testing.assert_array_equal(got["rotations"], got["coarse_rotations"])
    np.testing.assert_array_equal(got["mano_shape"], got["coarse_shape"])
    assert not {"upsampler", "guesses_3d"} & (set(coarse.params) | set(got)) and not coarse.rest


def test_rows_of_the_grid_are_rows_of_the_picture(tiny):
    """A patch of the picture changes only the token at its position in the grid."""
    image = np.zeros((1, SIZE, SIZE, 3), np.float32)
    other = image.copy()
    other[:, 3 * PATCH : 4 * PATCH, SIZE // 8 + PATCH : SIZE // 8 + 2 * PATCH] = 1
    tokens = [tiny.model.backbone.embed(center_crop_normalize(picture)) for picture in (image, other)]
    changed = np.abs(tokens[0] - tokens[1]).max(-1).reshape(tiny.model.backbone.grid) > 0
    assert changed.shape == (4, 3) and changed[3, 1] and changed.sum() == 1


@pytest.mark.parametrize("stride", [1, 2, 8])
def test_the_place_of_a_pixel_in_a_map(stride):
    """A map with the mean position of its pixels, sampled at a pixel, returns the pixel's position."""
    picture = np.stack(np.meshgrid(*[np.arange(SIZE, dtype=np.float32)] * 2), -1)[:, SIZE // 8 : -SIZE // 8]
    h, w = picture.shape[0] // stride, picture.shape[1] // stride
    ramp = jnp.asarray(picture.reshape(h, stride, w, stride, 2).mean((1, 3)))[None]
    pixels = jnp.float32([[[9, 5], [15.5, 15.5], [23.4, 24], [8, 20.25]]])
    np.testing.assert_allclose(sample_bilinear(ramp, crop_to_map_pixels(pixels, ramp, SIZE)), pixels, atol=1e-4)


def test_what_lies_behind_a_vertex():
    batch = make_batch(rows=1) | {"depth": np.ones((1, SIZE, SIZE), np.float32)}
    batch["depth"][0, 20, 7] = 0.2  # 30 mm behind the centre at 450
    pixels, z = jnp.float32([[[7.3, 19.6]] * 4 + [[8.6, 20], [-50, 1e9]]]), [480, 470, 489, 200, 470, 470]
    vertices = jnp.zeros((1, 6, 3)).at[..., 2].set(jnp.float32(z))
    np.testing.assert_allclose(
        depth_behind_vertices(vertices, pixels, batch, batch["has_depth"])[0], [0, 0.2, -0.18, 1, 1, 1], atol=1e-5
    )
    np.testing.assert_array_equal(depth_behind_vertices(vertices, pixels, batch, jnp.zeros(1)), 0)


def test_the_sensor_decides_how_far_the_hand_is_and_how_large_it_is(tiny):
    """The placement sets the wrist: relative to the measured centre with depth, from the width without it."""
    batch, placement = make_batch(), jnp.float32([[0.1, 0.5, -0.25, 0.2]] * ROWS)
    depth_mask = jnp.arange(ROWS) % 2
    rotations, shape = jnp.broadcast_to(jnp.eye(3), (ROWS, 16, 3, 3)), jnp.zeros((ROWS, 10))
    got = mano_predictions(HAND, rotations, shape, tiny.model._camera(placement, batch, depth_mask), batch)
    wrist, flat = np.asarray(got["keypoints_3d"][:, 0]), HAND.template[-16, 2]
    by_sensor, by_size = 450 + 0.2 * 150, 280 * np.exp(0.1) * FOCAL / SIZE
    np.testing.assert_allclose(wrist[:, 2] - flat, [by_size, by_sensor] * 2, rtol=1e-4)
    at_origin = wrist.copy()  # as for the weak-perspective camera: at the depth of the hand's origin
    at_origin[:, 2] -= flat
    in_crop = project(at_origin[:, None], batch["K"])[:, 0]
    np.testing.assert_allclose(in_crop, [[16 + 0.5 * 16, 16 - 0.25 * 16]] * ROWS, atol=0.01)
    near, far = (tiny.test(batch | {"depth_center": np.float32([z] * ROWS)}) for z in (300, 600))
    assert np.abs(near["mano_shape"] - far["mano_shape"]).max() > 1e-5  # the same picture of a larger hand


def test_a_rotation_update_is_about_the_joints_own_axes():
    start = axis_angle_to_matrix(jax.random.normal(KEY, (16, 3)))
    np.testing.assert_allclose(apply_rotation_updates(start, jnp.zeros((16, 6))), start, atol=1e-6)
    quarter = jnp.float32([-1, 1, 0, -1, -1, 0])  # about z, starting from no rotation
    turned = apply_rotation_updates(start, jnp.tile(quarter, (16, 1)))
    np.testing.assert_allclose(turned, start @ np.float32([[0, -1, 0], [1, 0, 0], [0, 0, 1]]), atol=1e-5)
    np.testing.assert_allclose(
        matrix_to_axis_angle(start.swapaxes(-1, -2) @ turned), [[0, 0, np.pi / 2]] * 16, atol=1e-4
    )


def test_gradients_reach_every_parameter(tiny):
    batch = make_batch()
    batch["has_depth"][0] = 0
    gradient = tiny.gradient(tiny.params, batch, KEY)[1]
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_four_devices_return_the_same_as_one(tiny):
    batch = make_batch()
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    everywhere = jax.device_put(batch, split(mesh))
    for one, four in zip(
        jax.tree.leaves(tiny.train(tiny.params, tiny.rest, batch, KEY)),
        jax.tree.leaves(tiny.train(tiny.params, tiny.rest, everywhere, KEY)),
    ):
        np.testing.assert_allclose(one, four, rtol=1e-4, atol=1e-3)


def test_it_learns(tiny):
    batch, tx = make_batch(), optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
    params, state, found = tiny.params, tx.init(tiny.params), []
    update = jax.jit(tx.update)
    for _ in range(60):
        loss, gradient = tiny.gradient(params, batch, KEY)
        updates, state = update(gradient, state)
        params = optax.apply_updates(params, updates)
        found.append(float(loss))
    assert found[-1] < 0.5 * found[0]


def test_in_bfloat16_with_rematerialisation(tiny):
    batch = make_batch()
    half = Tiny("model.dtype=bfloat16", "model.remat=true")
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {jnp.dtype("float32")}
    loss, gradient = half.gradient(half.params, batch, KEY)
    want, other = tiny.gradient(tiny.params, batch, KEY)
    np.testing.assert_allclose(loss, want, rtol=0.02)
    norms = [float(optax.global_norm(tree)) for tree in (gradient, other)]
    np.testing.assert_allclose(*norms, rtol=0.1)
    assert {value.dtype for value in half.test(batch).values()} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.image_size=40", "data.image_size must be a multiple of 32 for model 'rgbd_fusion'.*, got 40"),
        ("model.fusion.graph=8,8", "model.fusion.graph must be a list of numbers such as .*, got '8,8'"),
        ("model.fusion.graph=[8,0]", r"model.fusion.graph must be a list of numbers such as .*, got \[8, 0\]"),
        ("model.fusion.upsampler=9", "model.fusion.upsampler must be a multiple of 2 for 2 model.fusion.scales, got 9"),
        ("model.fusion.scales=0", "model.fusion.scales must be at least 1 and finite, got 0"),
    ],
)
def test_sizes_that_do_not_fit(override, message):
    with pytest.raises(ConfigError, match=message):
        nnx.eval_shape(lambda: RgbdFusion(load(None, [*TINY, override]), HAND, nnx.Rngs(0)))
