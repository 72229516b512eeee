"""The formats of exported networks: functions that write a file, and functions that run it."""

import importlib.util
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
DATA = ".data"  # suffix of the file with the weights of an ONNX model above 2 GB, after the name of the model's file
LARGEST = 2**31 - 2**26  # bytes of the weights in a file of StableHLO, which has at most 2 GB

Runner = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def to_stablehlo(network: Network, path: Path) -> None:
    """Write the function of a network in `jax.export`'s form, for any batch size and all platforms.

    The metadata are at the end of the file, as a ZIP archive that holds metadata.json; JAX ignores it.

    Raises:
        UserError: the network is too large.
    """
    if network.size > LARGEST:
        size = f"{network.size / 1e9:.1f} GB"
        raise UserError(f"the network has {size}, and a file of StableHLO at most 2 GB: use --half or --format onnx")
    [batch] = export.symbolic_shape("b")
    exported = export.export(jax.jit(network.function), platforms=PLATFORMS)(*arguments(network.inputs, batch))
    path.write_bytes(exported.serialize())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(METADATA, json.dumps(network.metadata))


def to_onnx(network: Network, path: Path) -> None:
    """Write the function of a network as an ONNX model, for any batch size. Its `metadata_props` hold the metadata.

    The weights of a model above 2 GB are in a second file, path + ".data".

    Raises:
        UserError: the network contains an operation that is not converted.
    """
    about = {"jaxhand": json.dumps(network.metadata)}
    try:
        with plain():
            model = onnx_ops.to_model(network.function, network.inputs, about, data_file(path))
    except NotImplementedError as error:
        raise UserError(f"{network.metadata['model']} cannot be written as ONNX: it contains {error}") from error
    path.write_bytes(model.SerializeToString())


def data_file(path: Path) -> Path:
    """The file with the weights of an ONNX model that is too large for one file."""
    return path.with_name(path.name + DATA)


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
    """A format: suffix and mark of its files, and the functions that write and run them."""

    suffix: str
    mark: bytes  # in every file, see `output_files.check_own`
    write: Callable[[Network, Path], None]
    run: Callable[[Path], Runner]
    packages: tuple[str, ...]  # that the functions import
    dtype: str | None  # type of the computation; None: that of the run


FORMATS = {
    "stablehlo": Format("jaxexport", METADATA.encode(), to_stablehlo, run_stablehlo, ("flatbuffers",), None),
    "onnx": Format("onnx", b'"metadata_version"', to_onnx, run_onnx, ("onnx", "onnxruntime"), "float32"),
}


def require(kind: str) -> None:
    """Check that the packages of a format are installed.

    Raises:
        UserError: a package is missing.
    """
    missing = [name for name in FORMATS[kind].packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--format {kind} needs {' and '.join(missing)}: pip install {' '.join(missing)}")
