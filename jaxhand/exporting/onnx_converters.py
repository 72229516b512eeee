"""Single primitives of JAX as ONNX operators.

A converter is a function of the graph, the operands, their shapes in JAX, the result in JAX, and the parameters of the
primitive. It returns the tensor of the result.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from jaxhand.exporting.onnx_graph import Graph, Tensor, broadcast, constant

REDUCTIONS = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}


def stack(graph: Graph, tensors: Sequence[Tensor], axis: int) -> Tensor:
    """Join tensors of one shape along a new axis."""
    shape = [*tensors[0].shape[:axis], 1, *tensors[0].shape[axis:]]
    return join(graph, [graph.reshape(tensor, shape) for tensor in tensors], axis)


def join(graph: Graph, tensors: Sequence[Tensor], axis: int) -> Tensor:
    """Concatenate tensors along an axis."""
    shape = list(tensors[0].shape)
    shape[axis] = sum(tensor.shape[axis] for tensor in tensors)
    return graph.node("Concat", tensors, shape, axis=axis)


def _broadcast_in_dim(graph, operands, shapes, out, parameters):
    """Insert axes of length 1; `Graph.full` expands them where it is necessary."""
    [operand], shape = operands[:1], [1] * len(out.shape)
    for axis, dim in zip(parameters["broadcast_dimensions"], operand.shape):
        shape[axis] = dim
    return graph.reshape(operand, shape)


def _reshape(graph, operands, shapes, out, parameters):
    return graph.reshape(graph.full(operands[0], shapes[0]), out.shape)


def _squeeze(graph, operands, shapes, out, parameters):
    kept = [dim for axis, dim in enumerate(operands[0].shape) if axis not in parameters["dimensions"]]
    return graph.reshape(operands[0], kept)


def _transpose(graph, operands, shapes, out, parameters):
    return graph.transpose(operands[0], parameters["permutation"])


def _convert(graph, operands, shapes, out, parameters):
    return graph.cast(operands[0], parameters["new_dtype"])


def _select(graph, operands, shapes, out, parameters):
    """`select_n` of two cases: the first one where the condition is false."""
    condition, *cases = operands
    if len(cases) != 2 or condition.dtype != bool:
        raise NotImplementedError("select_n by a number")
    return graph.elementwise("Where", [condition, cases[1], cases[0]], out.dtype)


def _concatenate(graph, operands, shapes, out, parameters):
    axis = parameters["dimension"]
    # Along the other axes, the operands must have the same length
    lengths = broadcast([Tensor("", [*o.shape[:axis], 1, *o.shape[axis + 1 :]], o.dtype) for o in operands])
    whole = [graph.full(o, [*lengths[:axis], shape[axis], *lengths[axis + 1 :]]) for o, shape in zip(operands, shapes)]
    return join(graph, whole, axis)


def _stacked(graph, operands, shapes, out, parameters):
    return stack(graph, [graph.full(o, shape) for o, shape in zip(operands, shapes)], parameters.get("axis", 0))


def _slice(graph, operands, shapes, out, parameters):
    operand, starts, limits = (
        graph.full(operands[0], shapes[0]),
        parameters["start_indices"],
        parameters["limit_indices"],
    )
    steps = parameters["strides"] or [1] * len(starts)
    cut = [
        axis
        for axis, dim in enumerate(operand.shape)
        if not (starts[axis] == 0 and limits[axis] == dim and steps[axis] == 1)
    ]
    return graph.slice(
        operand, *([values[axis] for axis in cut] for values in (starts, limits)), cut, [steps[axis] for axis in cut]
    )


def _pad(graph, operands, shapes, out, parameters):
    low, high, inner = zip(*parameters["padding_config"])
    if any(inner) or min(*low, *high) < 0:
        raise NotImplementedError("padding between elements, or negative padding")
    [operand, value] = operands
    if operand.channels_first:
        low, high = ([edge[0], edge[3], edge[1], edge[2]] for edge in (low, high))
    padded = graph.node("Pad", [graph.full(operand, shapes[0]), graph.integers([*low, *high]), value], out.shape)
    return dataclasses.replace(padded, channels_first=operand.channels_first)


def _reduce(operator: str):
    def converter(graph, operands, shapes, out, parameters):
        operand = graph.full(operands[0], shapes[0])
        axes = [int(axis) for axis in parameters["axes"]]
        return graph.node(operator, [operand, graph.integers(axes)], out.shape, keepdims=0)

    return converter


def _argmax(graph, operands, shapes, out, parameters):
    [axis], operand = parameters["axes"], graph.full(operands[0], shapes[0])
    return graph.cast(graph.node("ArgMax", [operand], out.shape, np.int64, axis=int(axis), keepdims=0), out.dtype)


def _iota(graph, operands, shapes, out, parameters):
    axis = parameters["dimension"]
    if not isinstance(out.shape[axis], int):
        raise NotImplementedError("a count along the batch")
    lengths = [1] * len(out.shape)
    lengths[axis] = out.shape[axis]
    return constant(np.arange(out.shape[axis], dtype=out.dtype).reshape(lengths))


def _power(graph, operands, shapes, out, parameters):
    [x], exponent = operands, parameters["y"]
    if exponent == 2:
        return graph.node("Mul", [x, x], x.shape)
    return graph.node("Pow", [x, constant(np.array(exponent, x.dtype))], x.shape)


def _square(graph, operands, shapes, out, parameters):
    return graph.node("Mul", [operands[0], operands[0]], operands[0].shape)


def _rsqrt(graph, operands, shapes, out, parameters):
    return graph.node("Reciprocal", [graph.node("Sqrt", operands, operands[0].shape)], operands[0].shape)


def _not_equal(graph, operands, shapes, out, parameters):
    return graph.elementwise("Not", [graph.elementwise("Equal", operands, bool)])


def _erfc(graph, operands, shapes, out, parameters):
    shape = operands[0].shape
    return graph.node("Sub", [constant(np.array(1, out.dtype)), graph.node("Erf", operands, shape)], shape)


def _atan2(graph, operands, shapes, out, parameters):
    """The angle of (x, y) from arctan(y / x), turned by half a turn where x is negative. -0 counts as 0."""
    y, x = operands
    number = lambda value: constant(np.array(value, out.dtype))
    node = lambda operator, *inputs, dtype=out.dtype: graph.elementwise(operator, inputs, dtype)
    is_zero = node("Equal", x, number(0), dtype=bool)
    angle = node("Atan", node("Div", y, node("Where", is_zero, number(1), x)))
    turn = node("Where", node("Less", y, number(0), dtype=bool), number(-np.pi), number(np.pi))
    angle = node("Where", node("Less", x, number(0), dtype=bool), node("Add", angle, turn), angle)
    upright = node("Mul", node("Sign", y), number(np.pi / 2))
    return node("Where", is_zero, upright, angle)


def _dot(graph, operands, shapes, out, parameters):
    """A general product as a MatMul: (batch, rows, summed) times (batch, summed, columns)."""
    summed, batch = parameters["dimension_numbers"]
    if operands[0].channels_first and operands[1].constant is not None and (*summed, *batch) == ((3,), (0,), (), ()):
        kernel = constant(operands[1].constant.T[..., None, None])  # a convolution of single pixels
        return dataclasses.replace(graph.node("Conv", [operands[0], kernel], out.shape), channels_first=True)
    operands = [graph.channels_last(operand) for operand in operands]
    left, right = (graph.full(o, shape) for o, shape in zip(operands, shapes))
    (sum_l, sum_r), (batch_l, batch_r) = summed, batch
    free_l, free_r = (
        [axis for axis in range(len(tensor.shape)) if axis not in (*summed_axes, *batch_axes)]
        for tensor, summed_axes, batch_axes in ((left, sum_l, batch_l), (right, sum_r, batch_r))
    )
    length = _product(left.shape[axis] for axis in sum_l)
    left = graph.transpose(left, [*batch_l, *free_l, *sum_l])
    right = graph.transpose(right, [*batch_r, *sum_r, *free_r])
    around, rows, columns = (
        left.shape[: len(batch_l)],
        left.shape[len(batch_l) : len(batch_l) + len(free_l)],
        right.shape[len(right.shape) - len(free_r) :],
    )
    if around or len(rows) == 0:
        left = graph.reshape(left, (*around, _product(rows), length))
    else:
        left = graph.reshape(left, (*rows, length))
    right = graph.reshape(right, (*around, length, _product(columns)))
    product = graph.node("MatMul", [left, right], (*left.shape[:-1], right.shape[-1]), out.dtype)
    return graph.reshape(product, out.shape)


def _product(dims):
    result = 1
    for dim in dims:
        result = result * dim
    return result


def _convolution(graph, operands, shapes, out, parameters):
    """A convolution of (B, H, W, C), or with `lhs_dilation` a transposed one."""
    form, groups, dilation = (
        parameters["dimension_numbers"],
        parameters["feature_group_count"],
        parameters["lhs_dilation"],
    )
    image, kernel = (graph.full(o, shape) for o, shape in zip(operands, shapes))
    if form.lhs_spec != (0, 3, 1, 2) or form.out_spec != (0, 3, 1, 2):
        raise NotImplementedError("a convolution of other arrays than (B, H, W, C)")
    image = graph.channels_first(image)
    (height, width), low_high = (shapes[1][axis] for axis in form.rhs_spec[2:]), parameters["padding"]
    if parameters["batch_group_count"] != 1 or any(step != 1 for step in parameters["rhs_dilation"]):
        raise NotImplementedError("this form of convolution")
    if max(dilation) == 1:
        kernel = graph.transpose(kernel, form.rhs_spec)  # (outputs, inputs / groups, h, w)
        pads = [low for low, _ in low_high] + [high for _, high in low_high]
        settings = {"strides": list(parameters["window_strides"]), "pads": pads, "group": groups}
        result = graph.node("Conv", [image, kernel], out.shape, kernel_shape=[height, width], **settings)
    elif groups == 1 and max(parameters["window_strides"]) == 1 and kernel.constant is not None:
        outputs, inputs, *space = form.rhs_spec
        flipped = constant(
            np.flip(kernel.constant.transpose(inputs, outputs, *space), (2, 3))
        )  # (inputs, outputs, h, w)
        pads = [size - 1 - low for size, (low, _) in zip((height, width), low_high)]
        pads += [size - 1 - high for size, (_, high) in zip((height, width), low_high)]
        result = graph.node("ConvTranspose", [image, flipped], out.shape, strides=list(dilation), pads=pads)
    else:
        raise NotImplementedError("this form of transposed convolution")
    return dataclasses.replace(result, channels_first=True)


def _gather(graph, operands, shapes, out, parameters):
    """The forms of `gather` that indexing makes: a fixed range; rows of one axis; of each batch row its own rows."""
    form, sizes = parameters["dimension_numbers"], parameters["slice_sizes"]
    data, index = graph.full(operands[0], shapes[0]), graph.full(operands[1], shapes[1])
    indexed, batched = form.start_index_map, form.operand_batching_dims
    if index.constant is not None and index.constant.ndim == 1 and not batched:
        starts = dict(zip(indexed, index.constant.tolist()))
        cut = [axis for axis in indexed if sizes[axis] != shapes[0][axis]]
        starts = [min(max(starts[axis], 0), shapes[0][axis] - sizes[axis]) for axis in cut]
        ends = [start + sizes[axis] for start, axis in zip(starts, cut)]
        return graph.reshape(graph.slice(data, starts, ends, cut), out.shape)
    others = [axis for axis in range(len(sizes)) if axis not in (*indexed, *batched)]
    if any(sizes[axis] != shapes[0][axis] for axis in others) or tuple(form.collapsed_slice_dims) != tuple(indexed):
        raise NotImplementedError("a gather of windows")
    if len(indexed) > 1:
        data, index = _as_one_axis(graph, data, index, indexed)
    axis, lead = indexed[0], tuple(range(indexed[0]))
    if index.constant is None:  # XLA moves an index that is out of bounds to the nearest one
        edges = (constant(np.array(edge, index.dtype)) for edge in (0, data.shape[axis] - 1))
        index = graph.elementwise("Min", [graph.elementwise("Max", [index, next(edges)]), next(edges)])
    rows, rest = index.shape[:-1], data.shape[axis + 1 :]
    if not batched:
        found = graph.node("Gather", [data, graph.reshape(index, rows)], (*data.shape[:axis], *rows, *rest), axis=axis)
        of_index = list(range(axis, axis + len(rows)))
    elif tuple(batched) == tuple(form.start_indices_batching_dims) == lead:
        found = graph.node("GatherND", [data, graph.cast(index, np.int64)], (*rows, *rest), batch_dims=axis)
        of_index = list(range(len(rows)))
    else:
        raise NotImplementedError("a gather along batches")
    of_data = iter([a for a in range(len(found.shape)) if a not in of_index])  # their places are `offset_dims`
    rest_of_index = iter(of_index)
    order = [next(of_data if a in form.offset_dims else rest_of_index) for a in range(len(found.shape))]
    return graph.transpose(found, order)


def _as_one_axis(graph, data, index, axes):
    """Merge neighbouring axes of the data into one, and the constant numbers along them into one number."""
    first, last = axes[0], axes[-1]
    if index.constant is None or list(axes) != list(range(first, last + 1)):
        raise NotImplementedError("a gather along several axes")
    lengths = data.shape[first : last + 1]
    flat = np.ravel_multi_index(tuple(np.moveaxis(index.constant, -1, 0)), lengths, mode="clip")
    merged = graph.reshape(data, (*data.shape[:first], _product(lengths), *data.shape[last + 1 :]))
    return merged, constant(np.expand_dims(flat, -1))


CONVERTERS: dict[str, Callable[..., Tensor]] = {
    "argmax": _argmax,
    "atan2": _atan2,
    "broadcast_in_dim": _broadcast_in_dim,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "convert_element_type": _convert,
    "dot_general": _dot,
    "erfc": _erfc,
    "gather": _gather,
    "integer_pow": _power,
    "iota": _iota,
    "ne": _not_equal,
    "pad": _pad,
    "reshape": _reshape,
    "rsqrt": _rsqrt,
    "select_n": _select,
    "slice": _slice,
    "square": _square,
    "squeeze": _squeeze,
    "stack": _stacked,
    "transpose": _transpose,
    **{name: _reduce(operator) for name, operator in REDUCTIONS.items()},
}
