"""What a predictor that never looks at the image scores: the numbers to read a network's errors against."""

import numpy as np

from jaxhand.metrics.pose import mpjpe, pa_mpjpe
from jaxhand.metrics.procrustes import procrustes_align


def mean_pose(train, test, train_valid=None, test_valid=None) -> float:
    """MPJPE in mm of predicting the mean wrist-relative pose of the training set for every test hand.

    Args:
        train: (N, J, 3) mm.
        test: (M, J, 3) mm.
        train_valid, test_valid: (N, J) and (M, J) masks, or None for all.
    """
    mean = _mean(train - train[:, :1], train_valid)
    return float(np.mean(mpjpe(np.broadcast_to(mean, test.shape), test, root=0, valid=test_valid)))


def rigid_hand(train, test, train_valid=None, test_valid=None, rounds: int = 3) -> float:
    """PA-MPJPE in mm of one rigid hand, aligned to every test hand.

    The hand is the mean of the training hands after aligning each to it (generalised Procrustes, Gower 1975). The mean
    pose itself would be a straw man: averaged over views, a skeleton collapses.

    Args:
        train: (N, J, 3) mm.
        test: (M, J, 3) mm.
        train_valid, test_valid: (N, J) and (M, J) masks, or None for all.
        rounds: of aligning and averaging.
    """
    whole = np.ones(len(train), bool) if train_valid is None else np.asarray(train_valid).all(1)
    hands = train[whole] if whole.any() else train
    hand = hands[0]
    for _ in range(rounds):
        hand = np.asarray(procrustes_align(hands, np.broadcast_to(hand, hands.shape))).mean(0)
    return float(np.mean(pa_mpjpe(np.broadcast_to(hand, test.shape), test, valid=test_valid)))


def _mean(joints, valid):
    """Mean over hands of (N, J, 3), joint by joint over the hands in which it is valid."""
    weight = np.ones(joints.shape[:2]) if valid is None else np.asarray(valid, float)
    return (joints * weight[..., None]).sum(0) / np.maximum(weight.sum(0), 1)[:, None]
