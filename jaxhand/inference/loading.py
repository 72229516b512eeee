"""From a run folder to the predictor of its model."""

import os
from pathlib import Path

from jaxhand import config as configs
from jaxhand import models
from jaxhand.config import HandConfig, UserError
from jaxhand.inference.arguments import ImagePredictor
from jaxhand.inference.fitted_mesh import FittedMeshPredictor
from jaxhand.inference.mediapipe_pipeline import has_networks
from jaxhand.inference.mediapipe_predictor import MediapipePredictor
from jaxhand.inference.predictor import Predictor
from jaxhand.training import runtime


def load(workdir: str | Path, *, batch_size: int = 32, fit_mesh: bool | str | Path = False) -> ImagePredictor:
    """Load the best model of a run: a `MediapipePredictor` for MediaPipe's networks, else a `Predictor`.

    Args:
        workdir: run folder.
        batch_size: the most hands in one batch; a power of two.
        fit_mesh: True: a model without a mesh becomes a `FittedMeshPredictor` with the hand model of the run's config.
            A path: likewise, with the MANO of this file.

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
    predictor = kind(workdir, batch_size=batch_size)
    if not fit_mesh or models.find(predictor.model).has_mesh:
        return predictor
    in_run = configs.load(workdir / "config.yaml").hand
    return FittedMeshPredictor(predictor, in_run if fit_mesh is True else HandConfig(str(fit_mesh), in_run.tips))
