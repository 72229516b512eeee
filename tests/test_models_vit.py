"""The vision transformer compared with HaMeR's and with a plain one, and its use in training."""

import dataclasses
import functools
import json
import math

import jax
import numpy as np
import pytest
from flax import nnx

from jaxhand.config import ConfigError, ViTConfig
from jaxhand.models import vit
from jaxhand.training.sharding import make_mesh, replicated, split

TINY = ViTConfig(width=32, depth=3, heads=4, patch=4, drop_path=0.5)
SIZE = (16, 12)  # px: 4x3 patches
GELU = np.vectorize(lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2)


def make(config=TINY, **options):
    return vit.ViT(config, SIZE, rngs=nnx.Rngs(0), **options)


def images(rows, size=SIZE):
    return np.random.default_rng(1).normal(0, 1, (rows, *size, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def tiny():
    """A network's definition, its parameters, all changed from their initial values, and its compiled call."""
    graphdef, params = nnx.split(make())
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: leaf + rng.normal(0, 0.1, leaf.shape).astype(np.float32), params)
    params = nnx.to_pure_dict(params)
    return graphdef, params, jax.jit(lambda params, image, key=None: nnx.merge(graphdef, params)(image, key))


def test_equal_to_hamer(shared):
    golden = np.load(shared / "golden" / "hamer_tiny.npz")
    facts = json.loads(str(golden["config_json"]))
    config = ViTConfig(width=facts["E"], depth=facts["depth"], heads=facts["heads"], patch=facts["patch"])
    padding, eps = facts["pad_in_patch_embed"], facts["ln_eps_vit"]
    model = vit.ViT(config, facts["img_size"], padding=padding, eps=eps, rngs=nnx.Rngs(0))

    weights = {name[9:]: golden[name] for name in golden.files if name.startswith("backbone.")}
    params = {"positions": weights["pos_embed"][0, 1:] + weights["pos_embed"][0, :1]}
    params["encoder.norm.scale"], params["encoder.norm.bias"] = weights["last_norm.weight"], weights["last_norm.bias"]
    kernel = weights["patch_embed.proj.weight"].transpose(2, 3, 1, 0).reshape(-1, facts["E"])  # OIHW → (HWI, O)
    params["patch_embed.proj.kernel"], params["patch_embed.proj.bias"] = kernel, weights["patch_embed.proj.bias"]
    for name in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        kernels, biases = ([weights[f"blocks.{i}.{name}.{part}"] for i in range(2)] for part in ("weight", "bias"))
        key = "scale" if name.startswith("norm") else "kernel"
        params[f"encoder.blocks.{name}.{key}"] = np.stack([kernel.T for kernel in kernels])
        params[f"encoder.blocks.{name}.bias"] = np.stack(biases)
    graphdef, state = nnx.split(model)
    flat = {tuple(name.split(".")): value for name, value in params.items()}
    assert {path: leaf.shape for path, leaf in nnx.to_flat_state(state)} == {k: v.shape for k, v in flat.items()}
    params = nnx.to_pure_dict(nnx.from_flat_state(flat))

    @jax.jit
    def parts(params, image):
        model = nnx.merge(graphdef, params)
        first = nnx.merge(
            nnx.split(model.encoder.blocks)[0], jax.tree.map(lambda leaf: leaf[0], params["encoder"]["blocks"])
        )
        return model.patch_embed(image), first(model.embed(image)), model(image)

    patches, block, features = parts(params, golden["in/img"].transpose(0, 2, 3, 1))
    near = functools.partial(np.testing.assert_allclose, rtol=1e-4)
    near(patches, golden["out/patch_embed"], atol=1e-4 * abs(golden["out/patch_embed"]).max())
    near(block, golden["out/block0"], atol=1e-4 * abs(golden["out/block0"]).max())
    B, E, h, w = golden["out/vit_feat"].shape
    expected = golden["out/vit_feat"].reshape(B, E, h * w).transpose(0, 2, 1)  # (B, T, E)
    near(features, expected, atol=1e-4 * abs(expected).max())


def test_equal_to_a_plain_one(tiny):
    _, params, call = tiny

    def norm(x, p):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]

    def linear(x, p):
        return x @ p["kernel"] + p["bias"]

    image = images(1)
    cut = [image[0, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].ravel() for i in range(4) for j in range(3)]
    x = linear(np.float64(cut), params["patch_embed"]["proj"]) + params["positions"]  # (12, 32)
    for i in range(TINY.depth):
        p = jax.tree.map(lambda leaf, i=i: leaf[i], params["encoder"]["blocks"])
        qkv = linear(norm(x, p["norm1"]), p["attn"]["qkv"]).reshape(12, 3, 4, 8)
        heads = []
        for query, key, value in qkv.transpose(2, 1, 0, 3):  # (12, 8) each
            weight = np.exp(query @ key.T / math.sqrt(8))
            heads.append(weight / weight.sum(-1, keepdims=True) @ value)
        x = x + linear(np.concatenate(heads, -1), p["attn"]["proj"])
        x = x + linear(GELU(linear(norm(x, p["norm2"]), p["mlp"]["fc1"])), p["mlp"]["fc2"])
    np.testing.assert_allclose(call(params, image)[0], norm(x, params["encoder"]["norm"]), rtol=1e-4, atol=1e-5)


def test_initial_values_are_small_and_differ_from_block_to_block():
    params = nnx.to_flat_state(nnx.split(make())[1])
    for path, leaf in params:
        leaf = leaf[...]
        assert leaf.dtype == np.float32
        if path[-1] == "bias":
            assert not leaf.any()
        elif path[-1] == "scale":
            assert (leaf == 1).all()
        else:
            assert 0.015 < leaf.std() < 0.022 and abs(leaf).max() <= 0.0401
        if "blocks" in path:
            assert leaf.shape[0] == TINY.depth
            assert path[-1] != "kernel" or abs(np.corrcoef(leaf[0].ravel(), leaf[1].ravel())[0, 1]) < 0.1


def test_it_is_built_without_memory_and_from_plain_dicts():
    abstract = nnx.eval_shape(lambda: make(dtype="bfloat16", remat=True))
    shapes = jax.eval_shape(lambda: nnx.to_pure_dict(nnx.split(make())[1]))
    graphdef, params = nnx.split(abstract)
    assert jax.tree.map(lambda leaf: leaf.shape, nnx.to_pure_dict(params)) == jax.tree.map(
        lambda leaf: leaf.shape, shapes
    )
    assert nnx.merge(graphdef, jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)).grid == (4, 3)


def test_any_size_of_image(tiny):
    graphdef, params, call = tiny
    model = nnx.merge(graphdef, params)
    assert call(params, images(1, (20, 8))).shape == (1, 10, 32)
    assert model.patch_embed.grid(19, 15) == (4, 3)  # what does not fill a patch is cut off
    wide = np.pad(images(1), ((0, 0), (0, 3), (0, 3), (0, 0)), constant_values=9)
    np.testing.assert_array_equal(model.patch_embed(wide), model.patch_embed(images(1)))
    padded = vit.PatchEmbed(3, 8, 4, padding=2, rngs=nnx.Rngs(0))
    around = np.pad(images(1), ((0, 0), (2, 2), (2, 2), (0, 0)))
    padded_by_hand = vit.PatchEmbed(3, 8, 4, rngs=nnx.Rngs(0))(around)
    assert padded.grid(*SIZE) == (5, 4)
    np.testing.assert_array_equal(padded(images(1)), padded_by_hand)
    with pytest.raises(ConfigError, match="an image of 16x3 px is smaller than a patch of 4 px"):
        model(images(1, (16, 3)))


def test_positions_are_resized():
    rows, columns = np.meshgrid(np.arange(4.0), np.arange(3.0), indexing="ij")
    positions = np.stack([rows, columns, np.full((4, 3), 7)], -1).reshape(12, 3)
    assert vit.resize_positions(positions, (4, 3), (4, 3)) is positions
    fine = np.asarray(vit.resize_positions(positions, (4, 3), (8, 6))).reshape(8, 6, 3)
    np.testing.assert_allclose(fine[..., 2], 7, rtol=1e-6)
    np.testing.assert_allclose(fine[3:5, :, 0], np.float32([[1.25] * 6, [1.75] * 6]), atol=1e-5)  # halfway in the grid
    assert (np.diff(fine[..., 0], axis=0) > 0).all() and np.ptp(fine[..., 0], axis=1).max() < 1e-5


def test_drop_path_grows_and_keeps_the_mean(tiny):
    graphdef, params, call = tiny
    key, rows = jax.random.key(3), 400
    kept = np.asarray(nnx.merge(graphdef, params).encoder._kept(key, rows))  # (3, 2, rows)
    for block, rate in zip(kept, (0, 0.25, 0.5)):
        np.testing.assert_allclose(np.unique(block), [1] if not rate else [0, 1 / (1 - rate)], rtol=1e-6)
        assert abs((block == 0).mean() - rate) < 0.06
    assert (kept[2, 0] != kept[2, 1]).mean() > 0.3  # each half of a block is drawn separately

    image = np.repeat(images(1), 64, axis=0)
    trained, tested = call(params, image, key), call(params, image)
    assert 10 < len(np.unique(np.round(trained[:, 0, 0], 5))) <= 16  # rows of one image differ by the four draws
    np.testing.assert_allclose(tested, np.repeat(tested[:1], 64, axis=0), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(trained, call(params, image, key))
    never = make(dataclasses.replace(TINY, drop_path=0))
    np.testing.assert_allclose(never(images(1), key), never(images(1)), rtol=1e-6)


def test_bfloat16_and_rematerialised_over_devices_give_the_same(tiny):
    graphdef, params, _ = tiny
    key, image = jax.random.key(0), images(8)

    def loss(graphdef, params, image):
        tokens = nnx.merge(graphdef, params)(image, key)
        return (tokens[..., :8] ** 2).mean(), tokens

    def gradient(graphdef, image, params=params):
        return jax.jit(jax.grad(functools.partial(loss, graphdef), has_aux=True))(params, image)

    expected, tokens = gradient(graphdef, image)
    mesh = make_mesh()
    assert mesh.size == 4
    on_four = jax.device_put(image, split(mesh)), jax.device_put(params, replicated(mesh))
    again = gradient(nnx.split(make(remat=True))[0], *on_four)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), again, (expected, tokens))
    assert again[1].sharding.spec[0] == "data"

    half, half_tokens = gradient(nnx.split(make(dtype="bfloat16"))[0], image)
    assert half_tokens.dtype == np.float32 and {leaf.dtype.name for leaf in jax.tree.leaves(half)} == {"float32"}
    worst = abs(np.asarray(half_tokens - tokens)).max()
    assert 1e-4 < worst < 0.1  # of layer-normed values
    flat, exact = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(g)]) for g in (half, expected))
    assert np.linalg.norm(flat - exact) < 0.05 * np.linalg.norm(exact)


def test_sizes():
    huge = vit.resolve_size(ViTConfig(size="H", patch=14))
    assert (huge.width, huge.depth, huge.heads, huge.patch) == (1280, 32, 16, 14)
    shapes = nnx.split(nnx.eval_shape(lambda: vit.ViT(huge, (256, 192), rngs=nnx.Rngs(0))))[1]
    assert round(sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) / 1e6) == 631
    with pytest.raises(ConfigError, match="model.vit.size must be one of S, B, L, H, got 'XL'"):
        make(ViTConfig(size="XL"))
    with pytest.raises(ConfigError, match="model.vit.width must be a multiple of model.vit.heads 4, got 30"):
        make(dataclasses.replace(TINY, width=30))
