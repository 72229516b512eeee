"""WiLoR compared with its official code: its tokens, its refinement with zero padding, and training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxhand.config import ConfigError, load
from jaxhand.hand import skinned
from jaxhand.hand.rotations import rotation_6d_to_matrix
from jaxhand.models.preprocess import center_crop_normalize
from jaxhand.models.wilor import Wilor
from jaxhand.training import losses
from tests.support.hamer_models import build, close, config, golden, make_batch, put, quick_jit, toy_hand

SMALL = ("data.image_size=64", "model.vit.width=16")


@pytest.fixture(scope="module")
def released(shared):
    """The golden network, the golden inputs and outputs, and the network's predictions."""
    weights, data = golden(shared, "wilor_tiny.npz")
    data |= golden(shared, "hamer_tiny.npz")[1] | data  # the images are HaMeR's
    model = build(Wilor, config("wilor"), toy_hand())
    put(model, "wilor", weights)
    assert not weights, "every weight has a place"
    graphdef, state = nnx.split(model)

    @quick_jit
    def everything(state, image, vertices, camera):
        model = nnx.merge(graphdef, state)
        *coarse, features = model.backbone(image)
        surface = skinned.forward(model.hand_model, rotations_of(coarse[0]), coarse[1]).vertices / 1000
        return {
            "coarse": coarse,
            "features": features,
            "maps": model.refine_net.deconv(features)[::-1],
            "corrections": model.refine_net(features, vertices, camera),
            "own_corrections": model.refine_net(features, surface, coarse[2]),
            "numbers": model.predict_params(image),
        }

    image = data["in/img"].transpose(0, 2, 3, 1)
    return model, data, everything(state, image, data["in/verts"], data["in/cam_for_refine"])


def rotations_of(pose):
    return rotation_6d_to_matrix(pose.reshape(-1, 16, 6))


def test_the_coarse_hand_is_wilors(released):
    _, data, got = released
    close(got["features"].transpose(0, 3, 1, 2), data["out/vit_feat"])
    for value, name in zip(got["coarse"], ("pose6d", "betas", "cam")):
        close(value, data[f"out/{name}"])
    rotations = rotations_of(got["coarse"][0])
    close(rotations[:, :1], data["out/global_orient"])
    close(rotations[:, 1:], data["out/hand_pose"])


def test_the_refinement_is_wilors(released):
    _, data, got = released
    for i, image in enumerate(got["maps"]):
        close(image.transpose(0, 3, 1, 2), data[f"out/deconv{i}"])
    pose, shape, camera = (start + correction for start, correction in zip(got["coarse"], got["corrections"]))
    close(rotations_of(pose)[:, :1], data["out/refined_global_orient"])
    close(rotations_of(pose)[:, 1:], data["out/refined_hand_pose"])
    close(shape, data["out/refined_betas"])
    close(camera, data["out/refined_cam"])
    assert np.abs(got["corrections"][0]).max() > 0.1  # the golden refinement changes the hand


def test_the_network_is_the_composition_of_its_parts(released):
    _, _, got = released
    for number, start, correction in zip(got["numbers"], got["coarse"], got["own_corrections"]):
        close(number, start + correction, 1e-5)


def test_vertices_sample_the_corner_of_a_zero_padded_map(released):
    """WiLoR's formula in plain loops: a projection in parts of the side is used as if it were pixels."""
    model, data, got = released
    camera, found = np.asarray(data["in/cam_for_refine"], np.float64), []
    for image in (np.asarray(image, np.float64) for image in got["maps"]):
        S, of_map = image.shape[1], []
        for b, (s, tx, ty) in enumerate(camera):
            seen = []
            for x, y, z in np.asarray(data["in/verts"][b], np.float64):
                z = z + 2 * 5000 / (S * s + 1e-9)
                u, v = 5000 / S * (x + tx) / z, 5000 / S * (y + ty) / z
                value = 0.0
                for row, column in np.ndindex(*image.shape[1:3]) if max(abs(u), abs(v)) > 2 else np.ndindex(4, 4):
                    value = value + max(0, 1 - abs(u - column)) * max(0, 1 - abs(v - row)) * image[b, row, column]
                seen.append(value)
            of_map.append(np.max(seen, axis=0))
        found.append(np.stack(of_map))
    found = np.concatenate(found, axis=-1)
    for layer, correction in zip(("dec_pose", "dec_shape", "dec_cam"), got["corrections"]):
        layer = getattr(model.refine_net, layer)
        close(correction, found @ np.asarray(layer.kernel[...], np.float64) + np.asarray(layer.bias[...]), 1e-5)


def test_training_reaches_all_parameters_and_moves_the_statistics():
    model = build(Wilor, config("wilor", *SMALL), toy_hand())
    graphdef, *parts = nnx.split(model, nnx.Param, ...)
    params, before = map(nnx.to_pure_dict, parts)
    batch, weights = make_batch(4, 64), load().loss

    @quick_jit
    def gradient(params, key):
        def loss(params):
            model = nnx.merge(graphdef, params, before)
            terms = losses.terms(model(batch, key), batch, model.loss_terms)
            return losses.reduced(terms, weights)["loss"], nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))

        return jax.grad(loss, has_aux=True)(params)

    slopes, after = gradient(jax.tree.map(np.asarray, params), jax.random.key(0))
    slopes = {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(slopes)
    }
    assert all(np.isfinite(leaf).all() for leaf in slopes.values())
    assert [name for name, leaf in slopes.items() if not leaf.any()] == ["backbone.shape_emb.kernel"]  # of zeros
    for name in ("init_hand_pose", "init_betas", "init_cam"):
        np.testing.assert_array_equal(after["backbone"][name], before["backbone"][name])
    statistics = [jax.tree.leaves(tree["refine_net"]) for tree in (before, after)]
    assert len(statistics[0]) == 6 and all(np.abs(old - new).max() > 0 for old, new in zip(*statistics))


def test_bfloat16_is_near(released):
    model, data, wanted = released
    other = build(Wilor, config("wilor", "model.dtype=bfloat16"), toy_hand())
    nnx.update(other, nnx.state(model))
    graphdef, state = nnx.split(other)
    got = quick_jit(lambda state, image: nnx.merge(graphdef, state).predict_params(image))(
        state, data["in/img"].transpose(0, 2, 3, 1)
    )
    for ours, theirs in zip(got, wanted["numbers"]):
        assert ours.dtype == jnp.float32
        assert 1e-6 < np.abs(ours - theirs).max() < 0.05 * np.abs(theirs).max()


def test_outputs():
    settings = config("wilor", *SMALL, "model.hamer.discriminator=true")
    model = nnx.eval_shape(lambda: Wilor(settings, toy_hand(), nnx.Rngs(0)))
    graphdef, state = nnx.split(model)
    call = lambda state, batch, key: nnx.merge(graphdef, state)(batch, key)
    plain = jax.eval_shape(lambda state, batch: call(state, batch, None), state, make_batch(2, 64))
    assert plain["vertices"].shape == (2, 40, 3) and plain["rotations"].shape == (2, 16, 3, 3)
    assert "fake_logits" not in plain
    trained = jax.eval_shape(call, state, make_batch(2, 64), jax.random.key(0))
    assert trained["fake_logits"].shape == (2, 17) and model.loss_terms[-1] == "discriminator"
    assert center_crop_normalize(np.zeros((1, 64, 64, 3), np.float32)).shape == (1, 64, 48, 3)


def test_a_width_that_does_not_fit():
    with pytest.raises(ConfigError, match="model.vit.width must be a multiple of 8 for model 'wilor', got 20"):
        Wilor(config("wilor", "model.vit.width=20", "model.vit.heads=2"), toy_hand(), nnx.Rngs(0))
