"""Meshes for models that predict joints only: the surface of a hand model, fitted to the joints."""

from collections.abc import Sequence

import jax
import numpy as np

from jaxhand import hand
from jaxhand.config import HandConfig
from jaxhand.hand.fitting import fit
from jaxhand.inference.arguments import ImagePredictor, Photograph

_BATCH = 8  # hands that are fitted at a time; the last hands are repeated up to this number, so one size is compiled


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
        faces, (vertices, joints) = self._hand_model.faces, self._fit(found["keypoints_3d"] * mirror)
        return found | {
            "vertices": vertices * mirror,
            "faces": np.where(is_right, faces, faces[:, ::-1]),  # (N, F, 3)
            "surface_keypoints_3d": joints * mirror,
        }

    def _fit(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fit right hands to joints (N, 21, 3) mm: vertices (N, V, 3) mm, and the joints of the surface (N, 21, 3)."""
        count = len(joints)
        parts = [(np.zeros((0, self._hand_model.num_vertices, 3), np.float32), np.zeros((0, 21, 3), np.float32))]
        for start in range(0, count, _BATCH):
            rows = np.minimum(np.arange(start, start + _BATCH), count - 1)
            fitted = jax.device_get(fit(self._hand_model, joints[rows]))
            parts.append((fitted.vertices, fitted.joints))
        vertices, joints = (np.concatenate(arrays)[:count] for arrays in zip(*parts))
        return vertices, joints
