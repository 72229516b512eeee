"""JAX's primitives as ONNX operators: a traced function → an ONNX model.

Every equation of a jaxpr whose operands are constants is computed here, by JAX. A loop with a known number of steps
(`scan`) is unrolled. The other primitives are those that the networks of `jaxhand.models` use.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxhand.exporting.onnx_converters import CONVERTERS, stack
from jaxhand.exporting.onnx_graph import BATCH, Graph, Tensor, constant

SAME_NAME = {  # primitive → operator, both of equal meaning on tensors that are broadcast
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min", "and": "And", "or": "Or",
    "neg": "Neg", "abs": "Abs", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "sin": "Sin", "cos": "Cos", "tanh": "Tanh",
    "not": "Not", "sign": "Sign", "floor": "Floor", "ceil": "Ceil", "round": "Round", "logistic": "Sigmoid",
    "erf": "Erf", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual", "eq": "Equal",
}  # fmt: skip
# Converters of images with the channels first, too
ANY_LAYOUT = (*SAME_NAME, "conv_general_dilated", "convert_element_type", "dot_general", "pad", "select_n")
UNCHANGED = ("copy", "copy_p", "stop_gradient", "optimization_barrier", "reduce_precision")


def to_model(
    function: Callable,
    inputs: dict[str, tuple[tuple[int, ...], type]],
    metadata: dict[str, str],
    data: Path | None = None,
):
    """Convert a function into an ONNX model for any batch size.

    Args:
        function: function of arrays, in the order of `inputs`, that returns a dict of arrays. The first axis of all of
            them is the batch.
        inputs: {name: (shape without the batch axis, dtype)}.
        metadata: strings to store in the model.
        data: file for the constants of a model above 2 GB, see `Graph.model`.

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
    return graph.model(outputs, metadata, data)


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
    clipped = _clip(graph, name, operands) if name in ("max", "min") else None
    if clipped is not None:
        return [clipped]
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
    known = [operand.constant for operand in operands if operand.constant is not None]
    if equation.primitive.name == "broadcast_in_dim" or len(known) < len(operands) or not operands:
        return None
    shapes = [atom.aval.shape for atom in [*equation.invars, *equation.outvars]]
    if not all(isinstance(dim, int) for shape in shapes for dim in shape):
        return None
    arrays = [np.broadcast_to(array, atom.aval.shape) for array, atom in zip(known, equation.invars)]
    with jax.ensure_compile_time_eval():
        found = equation.primitive.bind(*map(jnp.asarray, arrays), **equation.params)
    return [constant(value) for value in (found if equation.primitive.multiple_results else [found])]


def _clip(graph: Graph, name: str, operands: Sequence[Tensor]) -> Tensor | None:
    """The larger or smaller one of a tensor and a number, as operators that a runtime fuses with a convolution.

    Returns None for other operands.
    """
    for tensor, limit in (operands, operands[::-1]):
        if limit.constant is not None and limit.constant.size == 1 and limit.dtype == np.float32:
            value = limit.constant.reshape(())
            if name == "max" and value == 0:
                return graph.elementwise("Relu", [tensor])
            edges = (value, np.inf) if name == "max" else (-np.inf, value)
            return graph.elementwise("Clip", [tensor, *(constant(np.float32(edge)) for edge in edges)])
    return None


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
        stacked.append(stack(graph, column, 0))
    return [*carry, *stacked]


def _constants(inner) -> list[Tensor]:
    """The constants of a jaxpr inside an equation, where it has some."""
    return [constant(value) for value in getattr(inner, "consts", ())]


def _split(graph: Graph, sizes: Sequence[int], axis: int, operand: Tensor) -> list[Tensor]:
    ends = np.cumsum(sizes).tolist()
    return [graph.slice(operand, [start], [end], [axis]) for start, end in zip([0, *ends[:-1]], ends)]
