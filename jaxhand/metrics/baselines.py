"""Baselines for the errors of a network: the errors of two predictors that do not use the image."""

import math

import numpy as np

from jaxhand.metrics.numpy_align import aligned


def lines(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> list[str]:
    """Text lines with both baselines, which are printed before training.

    Args:
        train: joints (N, J, 3) mm of the training set and their mask (N, J).
        test: joints (M, J, 3) mm of the test set and their mask (M, J).
    """
    if not (len(train[0]) and len(test[0])):
        return ["Baseline: none, because the set has no 3D labels"]
    mean_text, rigid_text = _texts(train, test, "{} = {:.3f} mm")
    return [
        f"Baseline (mean pose of the training set): {mean_text}",
        f"Baseline (one rigid hand, aligned): {rigid_text}",
    ]


def own_line(labels: tuple[np.ndarray, np.ndarray]) -> str:
    """One line with both baselines of a set, computed from the labels of the same set.

    Args:
        labels: joints (N, J, 3) mm and their mask (N, J), N > 0.
    """
    mean_text, rigid_text = _texts(labels, labels, "{}: {:.3f} mm")
    return f"mean pose: {mean_text}; one rigid hand, aligned: {rigid_text}"


def mean_pose_of(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    """`mean_pose` in mm of joints with their masks, as for `lines`; infinity if a set has no labels."""
    (joints, valid), (test_joints, test_valid) = train, test
    return mean_pose(joints, test_joints, valid, test_valid) if len(joints) and len(test_joints) else math.inf


def warning(mpjpe: float, baseline: float) -> str | None:
    """A sentence for an MPJPE in mm that is worse than `mean_pose`, the error of the mean pose; else None."""
    if mpjpe <= baseline:
        return None
    return (
        f"Worse than the mean pose: MPJPE {mpjpe:.3f} mm, without any network {baseline:.3f} mm. "
        "The network learned nothing that helps on this set"
    )


def _texts(train, test, form: str) -> tuple[str, str]:
    (joints, valid), (test_joints, test_valid) = train, test
    return (
        form.format("MPJPE", mean_pose_of(train, test)),
        form.format("PA-MPJPE", rigid_hand(joints, test_joints, valid, test_valid)),
    )


def mean_pose(
    train: np.ndarray, test: np.ndarray, train_valid: np.ndarray | None = None, test_valid: np.ndarray | None = None
) -> float:
    """MPJPE in mm if the prediction for every test hand is the mean wrist-relative pose of the training set.

    Args:
        train: (N, J, 3) mm.
        test: (M, J, 3) mm.
        train_valid, test_valid: (N, J) and (M, J) masks, or None for all.
    """
    mean = _mean(train - train[:, :1], train_valid)
    return _error(mean - mean[0], test - test[:, :1], test_valid)


def rigid_hand(
    train: np.ndarray,
    test: np.ndarray,
    train_valid: np.ndarray | None = None,
    test_valid: np.ndarray | None = None,
    rounds: int = 3,
) -> float:
    """PA-MPJPE in mm if the prediction for every test hand is one rigid hand.

    The rigid hand is the mean of the training hands after alignment (generalised Procrustes, Gower 1975). The mean pose
    without alignment would be too weak a baseline, because the average of a skeleton over many views collapses.

    Args:
        train: (N, J, 3) mm.
        test: (M, J, 3) mm.
        train_valid, test_valid: (N, J) and (M, J) masks, or None for all.
        rounds: number of iterations; each one aligns the hands to the mean and averages them again.
    """
    complete = np.ones(len(train), bool) if train_valid is None else np.asarray(train_valid).all(1)
    hands = train[complete] if complete.any() else train
    hand = hands[0]
    for _ in range(rounds):
        hand = aligned(hands, np.broadcast_to(hand, hands.shape)).mean(0)
    return _error(aligned(np.broadcast_to(hand, test.shape), test, valid=test_valid), test, test_valid)


def _error(joints, targets, valid) -> float:
    """Mean distance of the valid joints of each hand, averaged over the hands, mm."""
    distance = np.linalg.norm(joints - targets, axis=-1)  # (N, J)
    weight = np.ones(distance.shape) if valid is None else np.asarray(valid, float)
    return float(np.mean((distance * weight).sum(1) / np.maximum(weight.sum(1), 1)))


def _mean(joints, valid):
    """Mean hand (J, 3) of (N, J, 3). Each joint is averaged over the hands in which this joint is valid."""
    weight = np.ones(joints.shape[:2]) if valid is None else np.asarray(valid, float)
    return (joints * weight[..., None]).sum(0) / np.maximum(weight.sum(0), 1)[:, None]
