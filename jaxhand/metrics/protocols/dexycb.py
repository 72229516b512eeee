"""DexYCB's hand pose evaluation, `hpe_eval.py`."""

import jax
import numpy as np

from jaxhand.config import UserError
from jaxhand.metrics.curves import eval_util
from jaxhand.metrics.pose import distances
from jaxhand.metrics.procrustes import aligned_distances
from jaxhand.metrics.protocols.base import Protocol, Scores, in_mm, in_pieces

PIECE = 8192  # number of samples computed at once
ALIGNMENTS = ("absolute", "root-relative", "procrustes")


@jax.jit
def _distances(pred, gt):
    """Distances (B, 21) mm for each of `ALIGNMENTS`."""
    return distances(pred, gt), distances(pred, gt, root=0), aligned_distances(pred, gt, reflection=True)


def dexycb(pred: dict, gt: dict) -> Scores:
    """Absolute, wrist-relative and Procrustes-aligned errors, mm, over the samples that show a hand.

    DexYCB's label of an image without a hand is -1 everywhere, or -1000 after conversion from m to mm.

    Args:
        pred: `joints` (N, 21, 3) mm, in DexYCB's joint order.
        gt: the labels, in the same form.

    Raises:
        UserError: no sample shows a hand.
    """
    target = np.asarray(gt["joints"], np.float64)
    shown = ~((target == -1) | (target == -1000)).all((1, 2))
    if not shown.any():
        raise UserError("dexycb: every sample of the ground truth is -1, so no image shows a hand")

    def piece(pred, gt):
        return dict(zip(ALIGNMENTS, _distances(*in_mm(1, gt[:, :1], pred, gt))))

    found = in_pieces(piece, PIECE, pred["joints"][shown], target[shown])
    values, samples, joints, curves = {}, {}, {}, {}
    for name, errors in found.items():
        measures = eval_util(errors)
        values |= {f"{name}/mpjpe": measures.mean, f"{name}/auc": measures.auc}
        samples[name] = np.full(len(target), np.nan)
        samples[name][shown] = errors.mean(1)
        joints[name], curves[name] = measures.joints, np.stack([measures.thresholds, measures.pck])
    units = {f"{name}/mpjpe": "mm" for name in found} | {name: "mm" for name in found}
    return Scores(values, samples, units, joints, curves)


DEXYCB = Protocol(
    "dexycb",
    dexycb,
    pred={"joints": (21, 3)},
    gt={"joints": (21, 3)},
    joint_order="dexycb",
    source="NVlabs/dex-ycb-toolkit dex_ycb_toolkit/hpe_eval.py",
)
