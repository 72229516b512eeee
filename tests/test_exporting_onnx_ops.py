"""Primitives as ONNX operators: what ONNX Runtime computes is what JAX computes, for any batch size."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxhand.exporting import onnx_ops

onnx = pytest.importorskip("onnx", reason="needs onnx and onnxruntime")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnx and onnxruntime")
RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(3, 3, 1, 6)).astype(np.float32)
DENSE = RNG.normal(size=(6, 5)).astype(np.float32)
WIDER = RNG.normal(size=(4, 4, 6, 3)).astype(np.float32)


def run(function, **arrays) -> tuple[dict, object]:
    """What ONNX Runtime returns for a function of named arrays, and the model."""
    inputs = {name: (array.shape[1:], array.dtype.type) for name, array in arrays.items()}
    model = onnx_ops.to_model(function, inputs, {"about": json.dumps({"a": 1})})
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, arrays))), model


def same(function, **arrays):
    """Compare with JAX at the arrays' batch size and at 1; returns the ONNX model."""
    for count in (None, 1):
        cut = {name: array[:count] for name, array in arrays.items()}
        got, model = run(function, **cut)
        wanted = function(*cut.values())
        assert got.keys() == wanted.keys()
        for name, value in wanted.items():
            assert got[name].dtype == value.dtype, name
            np.testing.assert_allclose(got[name], value, rtol=2e-5, atol=2e-5, err_msg=name)
    return model


def operators(model) -> list[str]:
    return [node.op_type for node in model.graph.node]


def image(channels=6, side=8):
    return RNG.normal(size=(3, side, side, channels)).astype(np.float32)


def test_numbers():
    """Elementwise functions, comparisons and conversions."""

    def function(x, y):
        return {
            "arithmetic": (x + 2) * y - x / (jnp.abs(y) + 1) + x**3 + 1 / jnp.sqrt(y**2 + 1),
            "functions": jnp.exp(-jnp.abs(x)) + jnp.sin(y) * jnp.cos(x) + jnp.log(y**2 + 1),
            "activations": jax.nn.relu(x) + jax.nn.gelu(y, approximate=False) + jax.nn.sigmoid(x) + jax.nn.softmax(y),
            "rounded": jnp.round(3 * x).astype(jnp.int32),
            "limited": jnp.clip(x, -0.5, 0.7) + jnp.maximum(0.1, y) + jnp.maximum(x, y) + jnp.minimum(x, 0.0),
            "chosen": jnp.where((x > y) & (x != 0), x, jnp.where(x <= -y, y, 7.0)),
            "as_numbers": (x >= y).astype(jnp.float32),
            "largest": jnp.argmax(x, axis=1) + jnp.max(y, axis=1).astype(jnp.int32),
            "sums": x.sum(1) + y.mean(1),
        }

    same(function, x=RNG.normal(size=(3, 5)).astype(np.float32), y=RNG.normal(size=(3, 5)).astype(np.float32))


def test_angles_in_every_quadrant():
    values = np.float32([[y, x] for y in (-2, 0, 1) for x in (-1, 0, 3)])
    same(lambda v: {"angle": jnp.arctan2(v[:, 0], v[:, 1])}, v=values)


def test_shapes():
    """Reshaping, joining and cutting; the batch may be inside a reshaped axis."""

    def function(x):
        rows = x.reshape(-1, 6)  # (3 * 4, 6)
        table = jnp.broadcast_to(jnp.arange(6.0), (x.shape[0], 4, 6))
        return {
            "back": (rows * 2).reshape(x.shape[0], 4, 6),
            "moved": jnp.moveaxis(x, 1, 2),
            "joined": jnp.concatenate([x, table, jnp.zeros((x.shape[0], 4, 1))], axis=-1),
            "stacked": jnp.stack([x, table], axis=1),
            "cut": x[:, 1:3, 2:],
            "last": x[..., -1],
            "padded": jnp.pad(x, ((0, 0), (1, 2), (0, 0)), constant_values=3.0),
            "parts": jnp.concatenate(jnp.split(x, (2, 3), axis=-1)[::-1], axis=-1),
        }

    same(function, x=RNG.normal(size=(3, 4, 6)).astype(np.float32))


def test_indexing():
    """Fixed rows, rows by a table, and rows of each image by its own numbers."""
    rows, columns = np.array([3, 0, 0, 2]), np.array([1, 1, 0, 5])

    def function(x, index):
        chosen = jnp.clip(index, 0, 3)
        return {
            "fixed": x[:, rows],
            "pairs": x[:, rows, columns],
            "taken": jnp.take(x, rows, axis=2, mode="clip"),
            "own_rows": jnp.take_along_axis(x, chosen[..., None], axis=1),
            "own_entries": jnp.take_along_axis(x[..., 0], chosen, axis=1),
        }

    same(function, x=RNG.normal(size=(3, 4, 6)).astype(np.float32), index=RNG.integers(-1, 6, (3, 5)).astype(np.int32))


def test_products():
    left, right = RNG.normal(size=(7, 5)).astype(np.float32), RNG.normal(size=(4, 6, 2)).astype(np.float32)

    def function(x, y):
        return {
            "matrix": x @ DENSE,
            "tokens": jnp.einsum("btc,ts->bsc", x, right[:, :, 0]),
            "pairs": jnp.einsum("btc,bsc->bts", x, y),
            "vectors": jnp.einsum("btc,btc->bt", x, x),
            "two_sums": jnp.einsum("btc,tcd->bd", x, right),
            "outer": jnp.einsum("btc,sd->btscd", x, left)[..., 0],
        }

    arrays = {name: RNG.normal(size=(3, count, 6)).astype(np.float32) for name, count in (("x", 4), ("y", 7))}
    same(function, **arrays)


def convolve(x, kernel, stride=1, **options):
    form = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=form, **options)


def test_a_chain_of_convolutions_moves_the_channels_once():
    """Depthwise convolutions are grouped ones, products of the channels are convolutions of single pixels."""

    def function(x):
        y = jax.nn.relu(convolve(x, KERNEL, 2, feature_group_count=6) + np.float32(np.arange(6)))
        y = jnp.clip(y @ DENSE + np.float32(np.arange(5)), 0, 6)
        return {"map": y, "pooled": y.mean((1, 2))}

    found = operators(same(function, x=image()))
    assert found.count("Conv") == 2 and "MatMul" not in found
    assert found.count("Transpose") == 2  # the image, and the map that is returned


def test_layouts_meet():
    """A map with channels first, padded and added to one with channels last, with reshaped parts."""

    def function(x):
        y = convolve(x, KERNEL, feature_group_count=6)
        z = jnp.pad(y, ((0, 0), (1, 0), (0, 0), (0, 2)))[:, 1:, :, :6]
        pooled = y.reshape(x.shape[0], 4, 2, 4, 2, 6).max((2, 4))
        return {"sum": x * y + z, "pooled": pooled, "chosen": jnp.where(y > x, y, x).astype(jnp.int32)}

    same(function, x=image())


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((2, 1), (1, 2))])
def test_transposed_convolution(padding):
    form = ("NHWC", "HWIO", "NHWC")
    same(lambda x: {"map": jax.lax.conv_transpose(x, WIDER, (2, 2), padding, dimension_numbers=form)}, x=image(side=4))


def test_loops_are_unrolled():
    tables = RNG.normal(size=(3, 6)).astype(np.float32)

    def function(x):
        step = lambda carry, row: (carry * 0.5 + row, carry.sum(-1))  # noqa: E731
        last, sums = jax.lax.scan(step, x, tables)
        backwards, _ = jax.lax.scan(step, x, tables, reverse=True)
        return {"last": last, "backwards": backwards, "sums": jnp.moveaxis(sums, 0, 1)}

    same(function, x=RNG.normal(size=(3, 6)).astype(np.float32))


def test_weights_of_half_precision_are_stored_in_it():
    weights = RNG.normal(size=(64, 64)).astype(np.float32)
    models = [
        run(lambda x, w=w: {"y": x @ w}, x=np.ones((2, 64), np.float32))[1]
        for w in (weights, weights.astype(np.float16).astype(np.float32))
    ]
    assert models[1].ByteSize() < 0.6 * models[0].ByteSize()
    assert {prop.key: prop.value for prop in models[0].metadata_props} == {"about": '{"a": 1}'}


def test_unused_arguments_and_results_cost_nothing():
    big = np.ones((64, 64), np.float32)
    _, model = run(lambda x: {"y": x + 1, **({} if (x @ big) is None else {})}, x=np.ones((2, 64), np.float32))
    assert operators(model) == ["Add", "Identity"] and model.ByteSize() < 1000


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: {"y": jnp.sort(x, axis=1)}, "sort"),
        (lambda x: {"y": jnp.linalg.inv(x[:, None, :1])}, "lu"),
        (lambda x: {"y": x + jnp.arange(x.shape[0])[:, None]}, "count along the batch"),
    ],
)
def test_other_primitives_are_named(function, name):
    with pytest.raises(NotImplementedError, match=name):
        run(function, x=np.ones((2, 5), np.float32))
