"""PCK of the joints in the image, for sets that are labelled there only, such as HInt."""

import numpy as np

from jaxhand.metrics.pixels import BOX_THRESHOLDS, box_pck
from jaxhand.metrics.tables import mean_where


class BoxPCK:
    """Gathers joints in the image batch by batch, and scores them by the hand's box as HInt does (see `box_pck`).

        pck = BoxPCK(config.crop_scale)
        run_test(…, collect=pck.collect)
        pck.values()

    Args:
        crop_scale: side of the crop over the longer side of the hand's box.
    """

    def __init__(self, crop_scale: float):
        self._crop_scale, self._batches = crop_scale, []

    def collect(self, batch: dict, predictions: dict) -> None:
        """Add a host batch and its predictions; rows that fill the batch are left out."""
        rows = batch["valid"] > 0
        arrays = predictions["keypoints_2d"], batch["keypoints_2d"], batch["joint_valid_2d"]
        self._batches.append([array[rows] for array in arrays])
        self._box = batch["image"].shape[1] / self._crop_scale  # px of the crop

    def values(self) -> dict[str, float]:
        """`pck_0.05`, `pck_0.1` and `pck_0.15`: the mean over joints of their share of hits; NaN if none is labelled."""
        pred, gt, valid = map(np.concatenate, zip(*self._batches))
        shares = box_pck(pred, gt, np.full(len(pred), self._box), valid=valid)  # (3, 21)
        return {f"pck_{part}": float(mean_where(s, ~np.isnan(s))) for part, s in zip(BOX_THRESHOLDS, shares)}
