"""Where tests find MediaPipe's networks, and LiteRT to compare with; tests are skipped where they are missing."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from jaxhand import convert
from jaxhand.interop.mediapipe_weights import HAND, MODULES, PALM

HOW = "pip install --no-deps mediapipe==0.10.21, or JAXHAND_MEDIAPIPE=FOLDER of an unpacked wheel"


def source() -> Path:
    """The folder `mediapipe` of a wheel that holds the networks."""
    package = importlib.util.find_spec("mediapipe")
    folders = [Path(folder) for folder in (package and package.submodule_search_locations) or []]
    given = Path(os.environ.get("JAXHAND_MEDIAPIPE") or "nowhere")
    for folder in (given, given / "mediapipe", *folders):
        if (folder / "modules" / MODULES[PALM].format("full")).is_file():
            return folder
    pytest.skip(f"needs MediaPipe's networks: {HOW}")


class LiteRT:
    """A network run by Google's LiteRT, image by image; outputs in the order of their names."""

    def __init__(self, kind: str, size: str):
        interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="needs ai-edge-litert")
        self._network = interpreter.Interpreter(str(source() / "modules" / MODULES[kind].format(size)), num_threads=2)
        self._network.allocate_tensors()
        self._input = self._network.get_input_details()[0]["index"]
        self._outputs = [o["index"] for o in sorted(self._network.get_output_details(), key=lambda o: o["name"])]

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """(B, S, S, 3) in 0..1 → arrays (B, …)."""
        rows = []
        for image in images:
            self._network.set_tensor(self._input, image[None])
            self._network.invoke()
            rows.append([self._network.get_tensor(output)[0].copy() for output in self._outputs])
        return [np.stack(arrays) for arrays in zip(*rows)]


SIDES = {HAND: 224, PALM: 192}


def convert_run(out: Path) -> Path:
    """Convert the networks into the run folder `out`, with the command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["convert", "mediapipe", str(source()), str(out)])
        assert convert.main() == 0
    return out
