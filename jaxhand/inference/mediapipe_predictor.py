"""MediaPipe's networks as a predictor: photographs in, all their hands out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxhand.data.crop_rules import RULES
from jaxhand.hand.placement import place_by_depth
from jaxhand.inference.arguments import ImagePredictor, Photograph
from jaxhand.inference.mediapipe_pipeline import Pipeline, placed
from jaxhand.interop.mediapipe_weights import HAND


class MediapipePredictor(ImagePredictor):
    """The networks of a run of model "mediapipe" or "photo_net", as a function from images to hands in millimetres.

    Without boxes it detects the hands of each image and classifies their handedness. Boxes and sides that are given are
    used. Depth places the hands (`hand.placement.place_by_depth`).

    Args:
        workdir: run folder that `jaxhand convert mediapipe` wrote, or of a training that started from one.
        batch_size: the most hands or images in one batch; a power of two.

    Raises:
        UserError: the folder holds no such run, or `batch_size` is not a power of two.
    """

    def __init__(self, workdir: str | Path, *, batch_size: int = 32):
        self.model = HAND
        self.crop_rule = RULES["square"]  # whose camera is the guess for a photograph without a known one
        self.pipeline = Pipeline.load(workdir, batch_size=batch_size)

    def predict(self, photographs: Sequence[Photograph]) -> dict[str, np.ndarray]:
        """The arrays that `__call__` returns, for images with checked arguments."""
        unknown = [number for number, photograph in enumerate(photographs) if photograph.boxes is None]
        known = [number for number, photograph in enumerate(photographs) if photograph.boxes is not None]
        detected = self.pipeline([photographs[number].image for number in unknown])
        in_boxes = self.pipeline.in_boxes(*([vars(photographs[n])[key] for n in known] for key in ("image", "boxes")))
        found = dict(zip([*unknown, *known], [*detected, *in_boxes]))
        rows = [self._placed(photograph, found[number]) for number, photograph in enumerate(photographs)]
        image = np.repeat(np.arange(len(rows)), [len(hands["score"]) for hands in rows])
        return {key: np.concatenate([hands[key] for hands in rows]) for key in rows[0]} | {"image": image}

    def _placed(self, photograph: Photograph, found: dict) -> dict[str, np.ndarray]:
        """The hands of a photograph, as `Pipeline` found them, in its camera's frame."""
        count, pixels = len(found["score"]), found["keypoints_2d"]
        K = np.tile(photograph.camera(self.crop_rule), (count, 1, 1))
        joints = placed(found, K)
        if photograph.depth is not None:
            joints = [place_by_depth(*hand, photograph.depth) for hand in zip(joints, pixels)]
        sides = photograph.sides if photograph.boxes is not None else photograph.sides * count
        return {
            "keypoints_3d": np.asarray(joints, np.float32).reshape(-1, 21, 3),
            "keypoints_2d": np.asarray(pixels, np.float32),
            "is_right": np.array([likely > 0.5 if side is None else side == "right"
                                  for side, likely in zip(sides, found["right"])], bool),
            "score": np.asarray(found["score"], np.float64),
            "boxes": np.asarray(found["boxes"] if photograph.boxes is None else photograph.boxes, np.float64),
            "K": K,
        }  # fmt: skip
