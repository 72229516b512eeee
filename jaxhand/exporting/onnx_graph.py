"""An ONNX graph under construction: constants, nodes, and tensors whose first axis is the batch.

A tensor may be smaller than its JAX array: an axis of length 1 stands for equal values along that axis. Most ONNX
operators broadcast such tensors themselves; `Graph.full` expands the others.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxhand.exporting import half

OPSET, IR_VERSION = 18, 9
BATCH = "B"  # name of the batch axis in the file
LARGEST = 2**31 - 2**26  # bytes of constants in one file: a file of Protocol Buffers has at most 2 GB
PAGE = 4096  # constants in a file of their own start at multiples of it, so that they can be mapped into memory
Dim = Any  # an int, or a multiple of the batch size: a symbolic dimension of `jax.export`
Shape = Sequence[Dim]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A value in the graph: the output `name` of a node or an input of the model; or a constant, then `name` is "".

    ONNX convolves images with the channels first. The result of a convolution, (B, H, W, C) in JAX, is stored as
    (B, C, H, W) until an operator needs it otherwise; `shape` is always that in JAX.
    """

    name: str
    shape: Shape
    dtype: np.dtype
    constant: np.ndarray | None = None
    channels_first: bool = False


def constant(array) -> Tensor:
    """A constant tensor; it becomes part of the file if a node uses it."""
    array = np.asarray(array)
    return Tensor("", array.shape, array.dtype, array)


class Graph:
    """Nodes of an ONNX graph. Equal nodes are added once, and nodes that no output needs are left out.

    Args:
        batch: the symbolic batch size.
    """

    def __init__(self, batch: Dim):
        self.batch = batch
        self._nodes: dict[tuple, Any] = {}  # (operator, inputs, attributes) → NodeProto
        self._constants: dict[tuple, tuple[str, np.ndarray]] = {}  # (dtype, shape, bytes) → (name, array)
        self._inputs: list[Tensor] = []

    def input(self, name: str, shape: Shape, dtype) -> Tensor:
        """Add an input of the model."""
        self._inputs.append(Tensor(name, shape, np.dtype(dtype)))
        return self._inputs[-1]

    def node(self, operator: str, inputs: Sequence[Tensor], shape: Shape, dtype=None, **attributes) -> Tensor:
        """Add a node with one output.

        Args:
            operator: name of the ONNX operator.
            inputs: the operands.
            shape: shape of the output.
            dtype: of the output; None: that of the first operand.
            attributes: of the operator.
        """
        from onnx import helper  # pyright: ignore[reportMissingImports]

        names = [self._name(tensor) for tensor in inputs]
        key = (operator, *names, *sorted((name, str(value)) for name, value in attributes.items()))
        if key not in self._nodes:
            output = f"{operator.lower()}_{len(self._nodes)}"
            self._nodes[key] = helper.make_node(operator, names, [output], **attributes)
        return Tensor(self._nodes[key].output[0], tuple(shape), np.dtype(dtype or inputs[0].dtype))

    def _name(self, tensor: Tensor) -> str:
        if tensor.constant is None:
            return tensor.name
        array = np.ascontiguousarray(tensor.constant).reshape(tensor.constant.shape)
        key = (array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest())
        return self._constants.setdefault(key, (f"constant_{len(self._constants)}", array))[0]

    def integers(self, values) -> Tensor:
        """A constant of int64, as operators take shapes and axes."""
        return constant(np.array(values, np.int64))

    def multiple(self, dim: Dim) -> int:
        """The factor k of a dimension k * batch size.

        Raises:
            NotImplementedError: the dimension is no such multiple.
        """
        factor = dim // self.batch
        if not isinstance(factor, int) or factor * self.batch != dim:
            raise NotImplementedError(f"a dimension of {dim}")
        return factor

    def shape_of(self, shape: Shape) -> Tensor:
        """A shape as a tensor of int64, computed from the batch size where necessary."""
        if all(isinstance(dim, int) for dim in shape):
            return self.integers(shape)
        first = self._inputs[0]
        shape_of_input = self.node("Shape", [first], (len(first.shape),), np.int64)
        batch = self.node("Slice", [shape_of_input, self.integers([0]), self.integers([1])], (1,))
        parts = []
        for dim in shape:
            if isinstance(dim, int):
                parts.append(self.integers([dim]))
            else:
                parts.append(self.node("Mul", [batch, self.integers([self.multiple(dim)])], (1,)))
        return self.node("Concat", parts, (len(shape),), axis=0) if len(parts) > 1 else parts[0]

    def full(self, tensor: Tensor, shape: Shape) -> Tensor:
        """Expand a tensor to the shape of its JAX array."""
        if same(tensor.shape, shape):
            return tensor
        if tensor.constant is not None and all(isinstance(dim, int) for dim in shape):
            return constant(np.broadcast_to(tensor.constant, shape))
        return self.node("Expand", [tensor, self.shape_of(shape)], shape)

    def reshape(self, tensor: Tensor, shape: Shape) -> Tensor:
        """Reshape a tensor; at most one dimension depends on the batch size."""
        if same(tensor.shape, shape):
            return tensor
        if tensor.constant is not None:
            return constant(tensor.constant.reshape(shape))
        target = [dim if isinstance(dim, int) else -1 for dim in shape]
        if target.count(-1) > 1:
            return self.node("Reshape", [tensor, self.shape_of(shape)], shape)
        return self.node("Reshape", [tensor, self.integers(target)], shape)

    def transpose(self, tensor: Tensor, order: Sequence[int]) -> Tensor:
        """Permute the axes of a tensor."""
        order = [int(axis) for axis in order]
        if order == sorted(order):
            return tensor
        if tensor.constant is not None:
            return constant(tensor.constant.transpose(order))
        return self.node("Transpose", [tensor], [tensor.shape[axis] for axis in order], perm=order)

    def channels_first(self, tensor: Tensor) -> Tensor:
        """Store an image (B, H, W, C) as (B, C, H, W); a scalar stays as it is."""
        if tensor.channels_first or not tensor.shape:
            return tensor
        order = (0, 3, 1, 2)
        if tensor.constant is not None:
            return dataclasses.replace(tensor, constant=tensor.constant.transpose(order), channels_first=True)
        moved = self.node("Transpose", [tensor], tensor.shape, perm=order)
        return dataclasses.replace(moved, channels_first=True)

    def channels_last(self, tensor: Tensor) -> Tensor:
        """Store an image as in JAX, (B, H, W, C)."""
        if not tensor.channels_first:
            return tensor
        return self.node("Transpose", [tensor], tensor.shape, perm=(0, 2, 3, 1))

    def elementwise(self, operator: str, operands: Sequence[Tensor], dtype=None) -> Tensor:
        """Add an elementwise node; its operands are broadcast."""
        first = any(operand.channels_first for operand in operands)
        operands = [self.channels_first(operand) for operand in operands] if first else operands
        result = self.node(operator, operands, broadcast(operands), dtype)
        return dataclasses.replace(result, channels_first=first)

    def cast(self, tensor: Tensor, dtype) -> Tensor:
        """Convert the numbers of a tensor."""
        from onnx import helper  # pyright: ignore[reportMissingImports]

        dtype = np.dtype(dtype)
        if dtype == tensor.dtype:
            return tensor
        if tensor.constant is not None:
            return constant(tensor.constant.astype(dtype))
        to = helper.np_dtype_to_tensor_dtype(dtype)
        result = self.node("Cast", [tensor], tensor.shape, dtype, to=to)
        return dataclasses.replace(result, channels_first=tensor.channels_first)

    def slice(self, tensor: Tensor, starts, limits, axes, steps=None) -> Tensor:
        """Cut ranges of some axes out of a tensor."""
        steps = [1] * len(axes) if steps is None else steps
        shape = list(tensor.shape)
        for start, limit, axis, step in zip(starts, limits, axes, steps):
            shape[axis] = -(-(limit - start) // step)
        if same(tensor.shape, shape):
            return tensor
        if tensor.constant is not None:
            ranges = [slice(None)] * len(shape)
            for start, limit, axis, step in zip(starts, limits, axes, steps):
                ranges[axis] = slice(start, limit, step)
            return constant(tensor.constant[tuple(ranges)])
        return self.node("Slice", [tensor, *map(self.integers, (starts, limits, axes, steps))], shape)

    def model(self, outputs: dict[str, Tensor], metadata: dict[str, str], data: Path | None = None):
        """The finished `onnx.ModelProto`: nodes that the outputs need, and their constants.

        A large float32 constant whose values are numbers of half precision is stored in half precision.

        Args:
            outputs: name → tensor.
            metadata: strings to store in the model.
            data: file to write large constants into, if all together have more than `LARGEST` bytes; it must be in the
                folder of the model. None: they are in the model.
        """
        from onnx import TensorProto, helper, numpy_helper  # pyright: ignore[reportMissingImports]

        ends = [
            helper.make_node("Identity", [self._name(tensor)], [name], name=name) for name, tensor in outputs.items()
        ]
        needed, kept = {name for node in ends for name in node.input}, []
        for node in reversed(self._nodes.values()):
            if node.output[0] in needed:
                kept.append(node)
                needed.update(node.input)
        constants, casts = {}, []
        for name, array in self._constants.values():
            if name not in needed:
                continue
            if half.is_exact(array):
                casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
                name, array = f"{name}_half", array.astype(np.float16)
            constants[name] = array
        too_large = sum(array.nbytes for array in constants.values()) > LARGEST
        with contextlib.ExitStack() as files:
            file = files.enter_context(open(data, "wb")) if data and too_large else None
            stored = [
                _outside(array, name, file)
                if file and array.size >= half.SMALLEST
                else numpy_helper.from_array(array, name)
                for name, array in constants.items()
            ]
        inputs, results = (
            [
                helper.make_tensor_value_info(
                    name,
                    helper.np_dtype_to_tensor_dtype(tensor.dtype),
                    [dim if isinstance(dim, int) else BATCH for dim in tensor.shape],
                )
                for name, tensor in tensors.items()
            ]
            for tensors in ({tensor.name: tensor for tensor in self._inputs}, outputs)
        )
        graph = helper.make_graph([*casts, *reversed(kept), *ends], "jaxhand", inputs, results, stored)
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="jaxhand")
        helper.set_model_props(model, metadata)
        return model


def _outside(array: np.ndarray, name: str, file: BinaryIO):
    """A constant of a model whose values are appended to another file."""
    from onnx import TensorProto, helper  # pyright: ignore[reportMissingImports]

    file.write(bytes(-file.tell() % PAGE))
    place = {"location": Path(file.name).name, "offset": file.tell(), "length": array.nbytes}
    file.write(array.tobytes())
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor = TensorProto(name=name, dims=array.shape, data_type=kind, data_location=TensorProto.EXTERNAL)
    for key, value in place.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def broadcast(tensors: Sequence[Tensor]) -> Shape:
    """The shape of an elementwise operation: along each axis the length that is not 1."""
    rank = max(len(tensor.shape) for tensor in tensors)
    padded = [(1,) * (rank - len(tensor.shape)) + tuple(tensor.shape) for tensor in tensors]
    return tuple(next((dim for dim in dims if dim != 1), 1) for dims in zip(*padded))


def same(first: Sequence[Dim], second: Sequence[Dim]) -> bool:
    """Whether two shapes are equal."""
    return len(first) == len(second) and all(a == b for a, b in zip(first, second))
