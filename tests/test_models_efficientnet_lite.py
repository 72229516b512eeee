"""The backbone EfficientNet-Lite: its structure in numbers, and its layers on known values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxhand.models import efficientnet_lite
from jaxhand.models.efficientnet_lite import (
    SIZES,
    Conv,
    Depthwise,
    EfficientNetLite,
    Inverted,
    Pointwise,
    max_pool,
    relu6,
)


def test_features_of_every_size():
    for size, (fine, coarse, pooled) in {
        "full": (112, 192, 1152),
        "lite": (64, 112, 672),
        "lite0": (112, 192, 1280),
    }.items():

        def features(size=size):
            backbone = EfficientNetLite(efficientnet_lite.SIZES[size], rngs=nnx.Rngs(0))
            assert backbone.width == pooled
            return backbone(jnp.zeros((2, 224, 224, 3)))

        shapes = [feature.shape for feature in jax.eval_shape(features)]
        assert shapes == [(2, 14, 14, fine), (2, 7, 7, coarse), (2, pooled)]


def test_a_strided_block_of_equal_widths_adds_its_pooled_input():
    block = Inverted(4, 8, 4, 3, 2, rngs=nnx.Rngs(0))
    for layer in (block.expand, block.depthwise, block.project):
        layer.kernel[...] = jnp.zeros_like(layer.kernel[...])
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 6, 4, 4)), jnp.float32)
    np.testing.assert_array_equal(block(x), max_pool(x))
    assert max_pool(x)[0, 1, 0, 2] == x[0, 2:4, :2, 2].max()


def test_bfloat16_is_near_float32():
    block, x = Inverted(8, 48, 8, 5, 1, rngs=nnx.Rngs(0)), np.random.default_rng(0).random((2, 7, 7, 8), np.float32)
    short = block(jnp.asarray(x, jnp.bfloat16))
    assert short.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(short), block(jnp.asarray(x)), rtol=0.1, atol=0.1)

    def features():
        widths = efficientnet_lite.SIZES["lite"]
        return EfficientNetLite(widths, dtype="bfloat16", rngs=nnx.Rngs(0))(jnp.zeros((1, 64, 64, 3)))

    fine, _, pooled = jax.eval_shape(features)
    assert fine.dtype == jnp.bfloat16 and pooled.dtype == jnp.float32


@pytest.mark.parametrize(("size", "second", "parameters"), [("full", 4, None), ("lite", 4, None), ("lite0", 6, None)])
def test_the_structure(size, second, parameters):
    """Table 1 of EfficientNet (B0) without squeeze-and-excitation; MediaPipe's have other widths."""
    backbone = nnx.eval_shape(lambda: EfficientNetLite(SIZES[size], rngs=nnx.Rngs(0)))
    blocks = [(block, stage) for stage in backbone.stages for block in stage]
    assert [len(stage) for stage in backbone.stages] == [1, 2, 2, 3, 3, 4, 1]
    kernels = [block.depthwise.kernel.shape[0] for block, _ in blocks]
    assert kernels == [3, 3, 3, 5, 5, 3, 3, 3, 5, 5, 5, 5, 5, 5, 5, 3]
    assert [block.stride for block, _ in blocks] == [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    assert [block.depthwise.stride for block, _ in blocks] == [block.stride for block, _ in blocks]
    expansions = [block.expand.kernel.shape[1] / block.expand.kernel.shape[0] for block, _ in blocks[1:]]
    assert expansions == [second] + [6] * 14 and blocks[0][0].expand is None
    widths = [block.project.kernel.shape[1] if block.project is not None else 0 for block, _ in blocks]
    counts = np.repeat(SIZES[size].stages, [1, 2, 2, 3, 3, 4, 1])
    assert widths == counts.tolist()
    assert backbone.stem.stride == 2 and backbone.stem.kernel.shape == (3, 3, 3, SIZES[size].stem)
    assert (backbone.top is None) == (size != "lite0")


def test_sizes():
    assert SIZES["full"] == (24, (16, 24, 40, 80, 112, 192, 0), 4, 0, 0.0, 1.0)
    assert SIZES["lite"] == (24, (16, 16, 24, 48, 64, 112, 0), 4, 0, 0.0, 1.0)
    assert SIZES["lite0"] == (32, (16, 24, 40, 80, 112, 192, 320), 6, 1280, 0.5, 0.5)
    assert efficientnet_lite.STRIDE == 32


def test_initial_kernels_have_he_variance():
    """The variance is 2 over the number of inputs of a sum."""
    rngs = nnx.Rngs(0)
    for layer, inputs in (
        (Conv(3, 8, 64, rngs=rngs), 72),
        (Pointwise(96, 64, rngs=rngs), 96),
        (Depthwise(5, 400, rngs=rngs), 25),
    ):
        assert (
            float(layer.kernel[...].std()) == pytest.approx(np.sqrt(2 / inputs), rel=0.05) and not layer.bias[...].any()
        )


def test_layers_on_known_values():
    np.testing.assert_array_equal(relu6(jnp.array([-1.0, 0.5, 6, 7])), [0, 0.5, 6, 6])
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    pooled = max_pool(x)
    np.testing.assert_array_equal(pooled, x[:, 1::2, 1::2])
    block = Inverted(3, 3, 5, 3, 2, rngs=nnx.Rngs(1))
    assert block.expand is None and not block.residual and block(x).shape == (2, 2, 3, 5)
    by_hand = relu6(block.depthwise(x)) @ block.project.kernel[...] + block.project.bias[...]
    np.testing.assert_allclose(block(x), by_hand, rtol=1e-5)
