"""Errors of hands as pure, jitted functions on batches of points in millimetres."""

from jaxhand.metrics.epoch import epoch_means, epoch_sums
from jaxhand.metrics.mesh import f_score, mpvpe, pa_mpvpe
from jaxhand.metrics.pose import mpjpe, pa_mpjpe, pck, pck_auc
from jaxhand.metrics.procrustes import procrustes_align

__all__ = [
    "epoch_means",
    "epoch_sums",
    "f_score",
    "mpjpe",
    "mpvpe",
    "pa_mpjpe",
    "pa_mpvpe",
    "pck",
    "pck_auc",
    "procrustes_align",
]
