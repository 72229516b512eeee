"""Error metrics of hands, as pure functions on batches of points in millimetres, and benchmark protocols."""

from jaxhand.metrics.align import align_by_joints, scale_align, scale_translation_align
from jaxhand.metrics.curves import eval_util, keypoint_3d_auc, keypoint_3d_pck, pck, pck_auc
from jaxhand.metrics.epoch import EpochMetric, epoch_sums, mesh_sums
from jaxhand.metrics.mesh import f_score, mpvpe, pa_mpvpe
from jaxhand.metrics.pixels import box_pck, box_squared_error
from jaxhand.metrics.pose import mpjpe, pa_mpjpe
from jaxhand.metrics.procrustes import procrustes_align
from jaxhand.metrics.protocols import PROTOCOLS
from jaxhand.metrics.sequence import acceleration_error, jitter
from jaxhand.metrics.tables import finger_means, joint_means
from jaxhand.metrics.two_hands import handedness_correct, mrrpe, two_hand_distances, two_hand_valid

__all__ = [
    "EpochMetric",
    "PROTOCOLS",
    "acceleration_error",
    "align_by_joints",
    "box_pck",
    "box_squared_error",
    "epoch_sums",
    "eval_util",
    "f_score",
    "finger_means",
    "handedness_correct",
    "jitter",
    "joint_means",
    "keypoint_3d_auc",
    "keypoint_3d_pck",
    "mesh_sums",
    "mpjpe",
    "mpvpe",
    "mrrpe",
    "pa_mpjpe",
    "pa_mpvpe",
    "pck",
    "pck_auc",
    "procrustes_align",
    "scale_align",
    "scale_translation_align",
    "two_hand_distances",
    "two_hand_valid",
]
