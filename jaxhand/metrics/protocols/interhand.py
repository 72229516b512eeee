"""InterHand2.6M's official evaluation (InterNet), and mmpose's averages of the same errors."""

import jax
import numpy as np
from numpy.typing import ArrayLike

from jaxhand.config import UserError
from jaxhand.metrics.protocols.base import Protocol, Scores, in_pieces
from jaxhand.metrics.tables import joint_means, mean_where
from jaxhand.metrics.two_hands import ROOTS, handedness_correct, mrrpe, two_hand_distances, two_hand_valid

PIECE = 8192  # number of samples computed at once
HANDS = {"right": (1, 0), "left": (0, 1), "interacting": (1, 1)}
AVERAGINGS = ("interhand", "mmpose")
CELLS, CROP, VOLUME_MM = 64, 256, 400  # InterNet's heat map: cells per axis, width in px, depth in mm


@jax.jit
def _errors(pred, gt, valid, relative_root):
    return {
        "joints": two_hand_distances(pred, gt),
        "valid": two_hand_valid(valid),
        "MRRPE": mrrpe(pred, gt, valid=valid, relative_root=relative_root),
    }


def interhand(pred: dict, gt: dict, *, averaging: str = "interhand") -> Scores:
    """MPJPE relative to the wrist of each hand (all, single and interacting hands), MRRPE, handedness accuracy.

    Args:
        pred: `joints` (N, 42, 3) mm; optional `hand_type` (N, 2) and `rel_root` (N, 3) mm, the vector from the right
            to the left wrist. By default, the vector is computed from the predicted joints.
        gt: `joints` (N, 42, 3) mm, `joint_valid` (N, 42), `hand_type` (N,) text; optional `hand_type_valid` (N,).
        averaging: "interhand": each joint is averaged over its valid samples, then the 42 joints are averaged. This
            includes the wrists, whose error is 0. "mmpose": the mean over all valid joints of all samples. A joint that
            is never valid is left out (the official code stops).

    Raises:
        UserError: `averaging` or a `hand_type` is unknown, or no joint is labelled.
    """
    if averaging not in AVERAGINGS:
        raise UserError(f"interhand: averaging must be {' or '.join(AVERAGINGS)}, not {averaging!r}")
    kinds = gt["hand_type"].astype(str)
    unknown = np.flatnonzero(~np.isin(kinds, list(HANDS)))
    if unknown.size:
        raise UserError(
            f"interhand: hand_type of sample {unknown[0]} is {str(kinds[unknown[0]])!r}; use {', '.join(HANDS)}"
        )
    roots = pred["joints"][:, ROOTS[1]] - pred["joints"][:, ROOTS[0]]
    arrays = pred["joints"], gt["joints"], gt["joint_valid"], pred.get("rel_root", roots)
    found = in_pieces(_errors, PIECE, *arrays)
    distance, valid, interacting = found["joints"], found["valid"], kinds == "interacting"
    if not valid.any():
        raise UserError("interhand: joint_valid has no labelled joint of a hand whose wrist is labelled")
    samples = {"MPJPE": mean_where(distance, valid, 1), "MRRPE": np.where(interacting, found["MRRPE"], np.nan)}
    values, joints = {}, {}
    for name, rows in (("all", interacting | ~interacting), ("single", ~interacting), ("interacting", interacting)):
        if (keep := valid[rows]).any():
            joints[name] = joint_means(distance[rows], keep)
            entries = (joints[name], keep.any(0)) if averaging == "interhand" else (distance[rows], keep)
            values[f"MPJPE_{name}"] = mean_where(*entries)
    both = interacting & (gt["joint_valid"][:, ROOTS] > 0).all(1)
    if both.any():
        values["MRRPE"] = mean_where(samples["MRRPE"], both)
    if "hand_type" in pred:
        correct = handedness_correct(pred["hand_type"], np.array([HANDS[kind] for kind in kinds]))
        labelled = gt.get("hand_type_valid", np.ones(len(kinds))) > 0
        samples["HandednessAcc"] = np.where(labelled, correct, np.nan)
        values["HandednessAcc"] = mean_where(correct, labelled)
    units = {name: "mm" for name in (*values, *samples) if name != "HandednessAcc"}
    return Scores({name: float(value) for name, value in values.items()}, samples, units, joints)


def from_volumes(
    joint_coord: ArrayLike,
    rel_root_depth: ArrayLike,
    inv_trans: ArrayLike,
    focal: ArrayLike,
    princpt: ArrayLike,
    abs_depth: ArrayLike,
) -> dict[str, np.ndarray]:
    """Convert InterNet's outputs to `joints` and `rel_root` for `interhand`, as InterNet's `evaluate` does.

    Args:
        joint_coord: (N, 42, 3) x, y, z in cells of the 64^3 volume, which covers the 256 px crop and 400 mm of depth.
        rel_root_depth: (N,) depth of the left wrist relative to the right one, in cells: 64 cells cover 400 mm.
        inv_trans: (N, 2, 3) affine matrix from pixels of the crop to pixels of the image.
        focal: (2,) or (N, 2) px.
        princpt: (2,) or (N, 2) px.
        abs_depth: (N, 2) mm of the right and the left wrist.

    Returns:
        `{"joints": (N, 42, 3), "rel_root": (N, 3)}`, mm in the camera's frame.
    """
    arrays = (np.asarray(array, np.float64) for array in (joint_coord, rel_root_depth, inv_trans, abs_depth))
    joint_coord, rel_root_depth, inv_trans, abs_depth = arrays
    focal, princpt = (np.broadcast_to(value, (len(joint_coord), 2))[:, None] for value in (focal, princpt))
    crop = np.concatenate([joint_coord[..., :2] * (CROP / CELLS), np.ones_like(joint_coord[..., :1])], -1)
    image = np.einsum("nij,nkj->nki", inv_trans, crop)
    # `behinds`: depth of the right and of the left wrist, relative to the right wrist.
    depth, behinds = _depth(joint_coord[..., 2]), (0, _depth(rel_root_depth)[:, None])

    def camera(joints, depth):
        return np.concatenate([(image[:, joints] - princpt) / focal * depth[..., None], depth[..., None]], -1)

    right, left = (camera([root], depth[:, [root]] + abs_depth[:, :1] + behind) for root, behind in zip(ROOTS, behinds))
    joints = camera(slice(None), depth + np.repeat(abs_depth, 21, 1))
    return {"joints": joints, "rel_root": (left - right)[:, 0]}


def _depth(cells):
    """Convert a depth in cells to mm from the centre of the volume."""
    return (cells / CELLS * 2 - 1) * (VOLUME_MM / 2)


INTERHAND = Protocol(
    "interhand",
    interhand,
    pred={"joints": (42, 3)},
    gt={"joints": (42, 3), "joint_valid": (42,), "hand_type": ()},
    pred_optional={"rel_root": (3,), "hand_type": (2,)},
    gt_optional={"hand_type_valid": ()},
    joint_order="interhand",
    joints=42,
    source="facebookresearch/InterHand2.6M data/InterHand2.6M/dataset.py evaluate",
)
