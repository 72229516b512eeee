"""Write the networks of a run as files, each checked against the run before it gets its name."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax

from jaxhand.config import UserError
from jaxhand.config.json_text import parse_json
from jaxhand.exporting import checking, formats
from jaxhand.exporting import network as networks
from jaxhand.exporting.network import Network
from jaxhand.inference.mediapipe_pipeline import has_networks, palm_folder
from jaxhand.io import output_files
from jaxhand.io.files import MALFORMED


def export(workdir: str | Path, out: str | Path, kind: str, *, half: bool = False, say: Callable = print) -> list[Path]:
    """Write the network for hands of a run, and the palm detector that belongs to a run of MediaPipe's networks.

    Args:
        workdir: run folder.
        out: folder to write hand.SUFFIX, palm_detector.SUFFIX and metadata.json into.
        kind: "stablehlo" or "onnx".
        half: store the weights in half precision, at half the size.
        say: called with one line about each file.

    Returns:
        The files of the networks.

    Raises:
        UserError: there is no such run, a package is missing, the folder cannot be written to or has files of
            another program with the same names, or a file computes something else than the run; such a file is removed.
    """
    out, form = Path(out), formats.FORMATS[kind]
    formats.require(kind)
    _check_folder(out)
    chosen = [networks.hand(workdir, half=half, dtype=form.dtype)]
    if has_networks(workdir) and palm_folder(workdir):
        chosen.append(networks.palm_detector(workdir, half=half))
    files = [out / f"{network.name}.{form.suffix}" for network in chosen]
    for file in files:
        output_files.check_own(file, form.mark, formats.data_file(file))
    try:
        out.mkdir(parents=True, exist_ok=True)
        for network, file in zip(chosen, files):
            _write(network, file, kind, half, say)
        about = {network.name: network.metadata | _names(file) for network, file in zip(chosen, files)}
        (out / formats.METADATA).write_text(json.dumps(about, indent=1))
    except OSError as error:
        raise UserError(f"cannot write to {error.filename or out}: {error.strerror}") from error
    return files


def _names(file: Path) -> dict[str, str]:
    """The names of a network's files, for the metadata."""
    data = formats.data_file(file)
    return {"file": file.name} | ({"data": data.name} if data.exists() else {})


def _check_folder(out: Path) -> None:
    """Raise a UserError if the folder has a metadata.json that this module did not write, which would be replaced."""
    file = out / formats.METADATA
    try:
        about = parse_json(file.read_bytes())
        own = all("metadata_version" in network for network in about.values())
    except OSError:  # no such file; one that cannot be read cannot be written either, which `export` reports
        return
    except MALFORMED:
        own = False
    if not own:
        raise UserError(f"{file}: is not of `jaxhand export`, and would be replaced; choose another folder")


def _write(network: Network, file: Path, kind: str, half: bool, say: Callable) -> None:
    """Write one file, with a second one for its weights where it needs that: in another folder, until it is checked."""
    form = formats.FORMATS[kind]
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".") as folder:
        draft = Path(folder, file.name)
        form.write(network, draft)
        inputs = checking.batches(network)
        reference = jax.jit(network.function) if half else network.reference
        found = checking.differences(reference, form.run(draft), inputs, what=file.name)
        formats.data_file(file).unlink(missing_ok=True)
        size = 0
        for made in sorted(Path(folder).iterdir(), reverse=True):  # the weights first
            size += made.stat().st_size
            os.replace(made, file.with_name(made.name))
    images = f"{checking.RANDOM} random and {checking.RENDERED} rendered images"
    say(f"{file}: {size / 1e6:.1f} MB, checked on {images}: at most {checking.by_unit(found)} from the run")
    if half:
        lost = checking.cost(network, inputs[-1])
        say(f"  half precision changes the predictions by {checking.by_unit(lost)} on average")
