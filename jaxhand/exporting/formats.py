"""The formats of exported networks: their bytes, and functions that run a file."""

import importlib.util
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax import export

from jaxhand.config import UserError
from jaxhand.exporting import onnx_ops
from jaxhand.exporting.network import Network, arguments
from jaxhand.models.depthwise import plain

PLATFORMS = ("cpu", "cuda", "tpu", "rocm")
METADATA = "metadata.json"
LARGEST = 2**31 - 1  # bytes of a file in either format

Runner = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def to_stablehlo(network: Network) -> bytes:
    """The function of a network in `jax.export`'s form, for any batch size and all platforms.

    The metadata are at the end of the file, as a ZIP archive that holds metadata.json; JAX ignores it.

    Raises:
        UserError: the network is too large.
    """
    [batch] = export.symbolic_shape("b")
    exported = export.export(jax.jit(network.function), platforms=PLATFORMS)(*arguments(network.inputs, batch))
    content = exported.serialize()
    _check_size(len(content))
    with zipfile.ZipFile(file := io.BytesIO(content), "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(METADATA, json.dumps(network.metadata))
    return file.getvalue()


def to_onnx(network: Network) -> bytes:
    """The function of a network as an ONNX model, for any batch size. Its `metadata_props` hold the metadata.

    Raises:
        UserError: the network is too large, or it contains an operation that is not converted.
    """
    try:
        with plain():
            model = onnx_ops.to_model(network.function, network.inputs, {"jaxhand": json.dumps(network.metadata)})
    except NotImplementedError as error:
        raise UserError(f"{network.metadata['model']} cannot be written as ONNX: it contains {error}") from error
    _check_size(model.ByteSize())
    return model.SerializeToString()


def _check_size(size: int) -> None:
    if size > LARGEST:
        raise UserError(f"the network has {size / 1e9:.1f} GB, and a file at most 2 GB: use --half")


def run_stablehlo(path: Path) -> Runner:
    """A function that runs a file of `to_stablehlo`."""
    exported = export.deserialize(bytearray(path.read_bytes()))
    call = jax.jit(exported.call)
    return lambda inputs: {name: np.asarray(array) for name, array in call(*inputs.values()).items()}


def run_onnx(path: Path) -> Runner:
    """A function that runs a file of `to_onnx` on the CPU."""
    import onnxruntime  # pyright: ignore[reportMissingImports]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # no advice about the graph
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads leave the CPU to others
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: {name: np.asarray(array) for name, array in zip(names, session.run(None, inputs))}


class Format(NamedTuple):
    """A format: the suffix of its files, and the functions that make and run them."""

    suffix: str
    make: Callable[[Network], bytes]
    run: Callable[[Path], Runner]
    packages: tuple[str, ...]  # that the functions import
    dtype: str | None  # type of the computation; None: that of the run


FORMATS = {
    "stablehlo": Format("jaxexport", to_stablehlo, run_stablehlo, ("flatbuffers",), None),
    "onnx": Format("onnx", to_onnx, run_onnx, ("onnx", "onnxruntime"), "float32"),
}


def require(kind: str) -> None:
    """Check that the packages of a format are installed.

    Raises:
        UserError: a package is missing.
    """
    missing = [name for name in FORMATS[kind].packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--format {kind} needs {' and '.join(missing)}: pip install {' '.join(missing)}")
