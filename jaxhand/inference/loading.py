"""From a run folder to the predictor of its model."""

import os
from pathlib import Path

from jaxhand.config import UserError
from jaxhand.inference.arguments import ImagePredictor
from jaxhand.inference.mediapipe_pipeline import has_networks
from jaxhand.inference.mediapipe_predictor import MediapipePredictor
from jaxhand.inference.predictor import Predictor
from jaxhand.training import runtime


def load(workdir: str | Path, *, batch_size: int = 32) -> ImagePredictor:
    """Load the best model of a run: a `MediapipePredictor` for MediaPipe's networks, else a `Predictor`.

    Args:
        workdir: run folder.
        batch_size: the most hands in one batch; a power of two.

    Raises:
        UserError: the folder holds no run, its parameters do not fit the model of its config, `batch_size` is not a
            power of two, or JAX finds no device.
    """
    if not isinstance(workdir, str | os.PathLike):
        raise UserError(
            f"a run must be given by the path of its folder, such as 'runs/quickstart', got {workdir!r:.60}"
        )
    workdir = Path(os.fspath(workdir)).expanduser()
    runtime.check_device()
    kind = MediapipePredictor if has_networks(workdir) else Predictor
    return kind(workdir, batch_size=batch_size)
