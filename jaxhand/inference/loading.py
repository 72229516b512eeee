"""From a run folder to the predictor of its model."""

from pathlib import Path

from jaxhand.inference.arguments import ImagePredictor
from jaxhand.inference.mediapipe_pipeline import has_networks
from jaxhand.inference.mediapipe_predictor import MediapipePredictor
from jaxhand.inference.predictor import Predictor


def load(workdir: str | Path, *, batch_size: int = 32) -> ImagePredictor:
    """Load the best model of a run: a `MediapipePredictor` for MediaPipe's networks, else a `Predictor`.

    Args:
        workdir: run folder.
        batch_size: the most hands in one batch; a power of two.

    Raises:
        UserError: the folder holds no run, its parameters do not fit the model of its config, or `batch_size` is not a
            power of two.
    """
    kind = MediapipePredictor if has_networks(workdir) else Predictor
    return kind(workdir, batch_size=batch_size)
