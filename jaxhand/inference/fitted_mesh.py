"""Meshes for models that predict joints only: the surface of a hand model, fitted to the joints."""

from collections.abc import Sequence

import numpy as np

from jaxhand import hand
from jaxhand.config import HandConfig
from jaxhand.hand.fitting import fit_all
from jaxhand.inference.arguments import ImagePredictor, Photograph


class FittedMeshPredictor(ImagePredictor):
    """A predictor without a mesh, with `vertices`, `faces` and `surface_keypoints_3d` that are fitted to its joints.

    The fit reads the joints only: the thickness of the hand is the usual one for its bones, not the photograph's.

    Args:
        predictor: returns joints.
        config: the hand model, as for `hand.load`.

    Raises:
        UserError: MANO's file is missing or damaged.
    """

    def __init__(self, predictor: ImagePredictor, config: HandConfig):
        self._predictor, self._hand_model = predictor, hand.load(config)
        self.model, self.crop_rule = predictor.model, predictor.crop_rule

    def predict(self, photographs: Sequence[Photograph]) -> dict[str, np.ndarray]:
        """The arrays that `__call__` returns, for images with checked arguments."""
        found = self._predictor.predict(photographs)
        is_right = found["is_right"][:, None, None]
        mirror = np.where(is_right, 1, np.array([-1, 1, 1], np.float32))  # (N, 1, 3)
        vertices, joints = fit_all(self._hand_model, found["keypoints_3d"] * mirror)
        faces = self._hand_model.faces
        return found | {
            "vertices": vertices * mirror,
            "faces": np.where(is_right, faces, faces[:, ::-1]),  # (N, F, 3)
            "surface_keypoints_3d": joints * mirror,
        }
