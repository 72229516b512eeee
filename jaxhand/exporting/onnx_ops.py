"""JAX's primitives as ONNX operators: a traced function → an ONNX model.

Every equation of a jaxpr whose operands are constants is computed here, by JAX. A loop with a known number of steps
(`scan`) is unrolled. The other primitives are those that the networks of `jaxhand.models` use.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxhand.exporting.onnx_graph import BATCH, Graph, Tensor, broadcast, constant

SAME_NAME = {  # primitive → operator, both of equal meaning on tensors that are broadcast
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min", "and": "And", "or": "Or",
    "neg": "Neg", "abs": "Abs", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "sin": "Sin", "cos": "Cos", "tanh": "Tanh",
    "not": "Not", "sign": "Sign", "floor": "Floor", "ceil": "Ceil", "round": "Round", "logistic": "Sigmoid",
    "erf": "Erf", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual", "eq": "Equal",
}  # fmt: skip
# Converters of images with the channels first, too
ANY_LAYOUT = (*SAME_NAME, "conv_general_dilated", "convert_element_type", "dot_general", "pad", "select_n")
UNCHANGED = ("copy", "copy_p", "stop_gradient", "optimization_barrier", "reduce_precision")
REDUCTIONS = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}


def to_model(function: Callable, inputs: dict[str, tuple[tuple[int, ...], type]], metadata: dict[str, str]):
    """Convert a function into an ONNX model for any batch size.

    Args:
        function: function of arrays, in the order of `inputs`, that returns a dict of arrays. The first axis of all of
            them is the batch.
        inputs: {name: (shape without the batch axis, dtype)}.
        metadata: strings to store in the model.

    Returns:
        An `onnx.ModelProto` with inputs and outputs of these names.

    Raises:
        NotImplementedError: the function contains a primitive or a form of it that this module does not convert.
    """
    [batch] = jax.export.symbolic_shape(BATCH)
    arguments = [jax.ShapeDtypeStruct((batch, *shape), dtype) for shape, dtype in inputs.values()]
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    graph = Graph(batch)
    tensors = [graph.input(name, (batch, *shape), dtype) for name, (shape, dtype) in inputs.items()]
    results = convert(graph, closed.jaxpr, [constant(value) for value in closed.consts], tensors)
    leaves = [
        graph.full(graph.channels_last(tensor), var.aval.shape) for tensor, var in zip(results, closed.jaxpr.outvars)
    ]
    outputs = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
    return graph.model(outputs, metadata)


def convert(graph: Graph, jaxpr, consts: Sequence[Tensor], arguments: Sequence[Tensor]) -> list[Tensor]:
    """Add the equations of a jaxpr to a graph; returns the tensors of its results."""
    tensors = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments]))
    read = lambda atom: constant(np.asarray(atom.val)) if isinstance(atom, core.Literal) else tensors[atom]
    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        tensors |= zip(equation.outvars, _results(graph, equation, operands))
    return [read(atom) for atom in jaxpr.outvars]


def _results(graph: Graph, equation, operands: list[Tensor]) -> list[Tensor]:
    name, parameters = equation.primitive.name, equation.params
    if name == "scan":
        return _scan(graph, equation, [graph.channels_last(operand) for operand in operands])
    inner = next((parameters[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in parameters), None)
    if inner is not None:
        return convert(graph, getattr(inner, "jaxpr", inner), _constants(inner), operands)
    known = _computed(equation, operands)
    if known is not None:
        return known
    out = equation.outvars[0].aval
    if name in UNCHANGED:
        return operands
    if name not in ANY_LAYOUT:
        operands = [graph.channels_last(operand) for operand in operands]
    if name == "split":
        return _split(graph, parameters["sizes"], parameters["axis"], operands[0])
    if name == "unstack":
        axis, shape = parameters["axis"], equation.outvars[0].aval.shape
        rows = _split(graph, [1] * len(equation.outvars), axis, graph.full(operands[0], equation.invars[0].aval.shape))
        return [graph.reshape(row, shape) for row in rows]
    if name in ("max", "min") and out.dtype == np.float32 and any(_is_scalar(operand) for operand in operands):
        return [_clip(graph, name, operands)]
    if name in SAME_NAME:
        return [graph.elementwise(SAME_NAME[name], operands, out.dtype)]
    if name not in CONVERTERS:
        raise NotImplementedError(f"the primitive {name}")
    shapes = [atom.aval.shape for atom in equation.invars]
    return [CONVERTERS[name](graph, operands, shapes, out, parameters)]


def _computed(equation, operands: list[Tensor]) -> list[Tensor] | None:
    """The results of an equation that depends on constants alone; None for other equations.

    Constants are not repeated along an axis: `broadcast_in_dim` is never computed.
    """
    lazy = equation.primitive.name == "broadcast_in_dim"
    if lazy or any(operand.constant is None for operand in operands) or not operands:
        return None
    shapes = [atom.aval.shape for atom in [*equation.invars, *equation.outvars]]
    if not all(isinstance(dim, int) for shape in shapes for dim in shape):
        return None
    arrays = [np.broadcast_to(o.constant, atom.aval.shape) for o, atom in zip(operands, equation.invars)]
    with jax.ensure_compile_time_eval():
        found = equation.primitive.bind(*map(jnp.asarray, arrays), **equation.params)
    return [constant(value) for value in (found if equation.primitive.multiple_results else [found])]


def _is_scalar(tensor: Tensor) -> bool:
    return tensor.constant is not None and tensor.constant.size == 1


def _clip(graph: Graph, name: str, operands: Sequence[Tensor]) -> Tensor:
    """The larger or smaller one of a tensor and a constant, as operators that a runtime fuses with a convolution."""
    tensor, limit = operands if _is_scalar(operands[1]) else operands[::-1]
    value = limit.constant.reshape(())
    if name == "max" and value == 0:
        return graph.elementwise("Relu", [tensor])
    least, most = (value, np.inf) if name == "max" else (-np.inf, value)
    return graph.elementwise("Clip", [tensor, *(constant(np.float32(edge)) for edge in (least, most))])


def _scan(graph: Graph, equation, operands: list[Tensor]) -> list[Tensor]:
    """Unroll a loop. Its operands are constants of the loop, the carried values, and arrays with a row per step.

    The numbers of each follow from the ranks: JAX versions name them differently.
    """
    inner, length = equation.params["jaxpr"], equation.params["length"]
    body = getattr(inner, "jaxpr", inner)
    longer = lambda outer, inner: sum(a.aval.ndim > b.aval.ndim for a, b in zip(outer, inner))
    num_rows = longer(equation.invars, body.invars)
    num_carry = len(body.outvars) - longer(equation.outvars, body.outvars)
    first, second = len(operands) - num_rows - num_carry, len(operands) - num_rows
    constants, carry, rows = operands[:first], operands[first:second], operands[second:]
    columns: dict[int, list[Tensor]] = {}
    for step in range(length - 1, -1, -1) if equation.params["reverse"] else range(length):
        cuts = [tensor if tensor.shape[0] == 1 else graph.slice(tensor, [step], [step + 1], [0]) for tensor in rows]
        row = [graph.reshape(cut, cut.shape[1:]) for cut in cuts]
        results = convert(graph, body, _constants(inner), [*constants, *carry, *row])
        results = [graph.channels_last(result) for result in results]
        carry, columns[step] = results[:num_carry], results[num_carry:]
    stacked = []
    for position, var in enumerate(body.outvars[num_carry:]):
        column = [graph.full(columns[step][position], var.aval.shape) for step in range(length)]
        stacked.append(_stack(graph, column, 0))
    return [*carry, *stacked]


def _constants(inner) -> list[Tensor]:
    """The constants of a jaxpr inside an equation, where it has some."""
    return [constant(value) for value in getattr(inner, "consts", ())]


def _stack(graph: Graph, tensors: Sequence[Tensor], axis: int) -> Tensor:
    shape = [*tensors[0].shape[:axis], 1, *tensors[0].shape[axis:]]
    return _join(graph, [graph.reshape(tensor, shape) for tensor in tensors], axis)


def _join(graph: Graph, tensors: Sequence[Tensor], axis: int) -> Tensor:
    shape = list(tensors[0].shape)
    shape[axis] = sum(tensor.shape[axis] for tensor in tensors)
    return graph.node("Concat", tensors, shape, axis=axis)


def _split(graph: Graph, sizes: Sequence[int], axis: int, operand: Tensor) -> list[Tensor]:
    ends = np.cumsum(sizes).tolist()
    return [graph.slice(operand, [start], [end], [axis]) for start, end in zip([0, *ends[:-1]], ends)]


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
    return _join(graph, whole, axis)


def _stacked(graph, operands, shapes, out, parameters):
    return _stack(graph, [graph.full(o, shape) for o, shape in zip(operands, shapes)], parameters.get("axis", 0))


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
    indexed, collapsed = form.start_index_map, form.collapsed_slice_dims
    data, index = graph.full(operands[0], shapes[0]), graph.full(operands[1], shapes[1])
    whole = [axis for axis, dim in enumerate(shapes[0]) if sizes[axis] == dim]
    moving = [axis for axis in indexed if axis not in whole]
    if index.constant is not None and index.constant.ndim == 1 and not form.operand_batching_dims:
        starts = dict(zip(indexed, index.constant.tolist()))
        starts = {axis: min(max(starts[axis], 0), shapes[0][axis] - sizes[axis]) for axis in moving}
        cut = graph.slice(data, list(starts.values()), [starts[axis] + sizes[axis] for axis in moving], moving)
        return graph.reshape(cut, out.shape)
    batched, length = form.operand_batching_dims, shapes[1][-1]
    if any(sizes[axis] != 1 for axis in moving) or not set(moving) <= set(collapsed) | set(indexed):
        raise NotImplementedError(f"a gather of windows: {parameters}")
    last = len(shapes[1]) - 1
    if (
        not batched
        and length > 1
        and index.constant is not None
        and list(indexed) == list(range(indexed[0], indexed[0] + length))
    ):
        # Neighbouring axes become one
        lengths = [shapes[0][axis] for axis in indexed]
        flat = np.ravel_multi_index(tuple(np.moveaxis(index.constant, -1, 0)), lengths, mode="clip")
        data = graph.reshape(data, (*shapes[0][: indexed[0]], _product(lengths), *shapes[0][indexed[-1] + 1 :]))
        index, length = constant(flat[..., None]), 1
    if length != 1:
        raise NotImplementedError(f"a gather along several axes: {parameters}")
    axis = indexed[0]
    if not batched:
        rows = graph.reshape(index, index.shape[:-1])
        found = graph.node(
            "Gather", [data, rows], (*data.shape[:axis], *rows.shape, *data.shape[axis + 1 :]), axis=axis
        )
        order = list(range(axis, axis + last)) + [a for a in range(len(found.shape)) if not axis <= a < axis + last]
    elif list(batched) == list(range(axis)) and list(form.start_indices_batching_dims) == list(range(axis)):
        rows = graph.cast(index, np.int64)
        found = graph.node("GatherND", [data, rows], (*index.shape[:-1], *data.shape[axis + 1 :]), batch_dims=axis)
        order = list(range(len(found.shape)))
    else:
        raise NotImplementedError(f"a gather along batches: {parameters}")
    # `order`: first the axes of the index, then those of the data. In the result the latter are at `offset_dims`.
    data_axes = iter(order[last:])
    index_axes = iter(order[:last])
    final = [next(data_axes) if axis in form.offset_dims else next(index_axes) for axis in range(len(found.shape))]
    return graph.reshape(graph.transpose(found, final), out.shape)


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
