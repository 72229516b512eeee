"""Errors of hands as pure, jitted functions on batches of points in millimetres."""

from jaxhand.metrics.pose import mpjpe, pa_mpjpe
from jaxhand.metrics.procrustes import procrustes_align

__all__ = ["mpjpe", "pa_mpjpe", "procrustes_align"]
