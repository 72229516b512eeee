"""Score predictions by a benchmark's protocol: read the files, check them, score them and report."""

import csv
import difflib
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

import jaxhand
from jaxhand.config import UserError, yaml_text
from jaxhand.evaluation import plausibility
from jaxhand.evaluation.prediction_files import draft_of, read
from jaxhand.hand.skeleton import FINGERS, JOINT_NAMES, JOINT_ORDERS
from jaxhand.io import output_files
from jaxhand.metrics.protocols import PROTOCOLS, Protocol, Scores
from jaxhand.metrics.tables import finger_means

SCORES, SAMPLES = "scores.json", "samples.csv"
MARK = b'"jaxhand": "'  # in every scores.json, before the version
WORST = 5  # number of worst samples in the table
_UNLABELLED = (-1, -1000)  # DexYCB's label of an image without a hand, in m and in mm


@dataclass(frozen=True)
class Pair:
    """Predictions and ground truth of the same samples, checked, in the protocol's unit, frame and joint order."""

    protocol: Protocol
    pred: dict[str, np.ndarray]  # arrays (N, …), with the names of the protocol
    gt: dict[str, np.ndarray]
    ids: np.ndarray  # (N,) names of the samples: the ids in the files, or indices
    pred_files: list[Path]
    gt_files: list[Path]
    warnings: list[str]  # possible mistakes, one sentence each


def described() -> list[str]:
    """Text for `--help`, one line per protocol: its arrays, unit and options."""
    lines = []
    for name, protocol in PROTOCOLS.items():
        sides = ((protocol.pred, protocol.pred_optional), (protocol.gt, protocol.gt_optional))
        pred, gt = (", ".join([*needed, *(f"[{name}]" for name in optional)]) for needed, optional in sides)
        space = "px" if "2d" in pred else plausibility.unit_of(protocol.unit_mm)
        options = "".join(f"; {key}={default}" for key, default in protocol.options.items())
        lines.append(f"  {name}: predictions {pred}; ground truth {gt}; {space}, {protocol.joints} joints{options}")
    return lines


def protocol_of(name: str) -> Protocol:
    """Find a protocol by its name.

    Raises:
        UserError: the name is unknown; the error suggests a similar name.
    """
    if name not in PROTOCOLS:
        near = difflib.get_close_matches(name, PROTOCOLS, n=1)
        meant = f" did you mean {near[0]!r}?" if near else ""
        raise UserError(f"unknown protocol {name!r};{meant} known protocols: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def options_of(protocol: Protocol, texts: Sequence[str]) -> dict:
    """Parse options of a protocol from texts `key=value`. A value must have the type of the option's default.

    Raises:
        UserError: a text is not `key=value`, the protocol has no such option, or a value has the wrong type.
    """
    options, known = {}, protocol.options
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key not in known:
            have = ", ".join(f"{name}={default}" for name, default in known.items()) or "none"
            raise UserError(f"no option {text!r} of {protocol.name}; its options and their defaults: {have}")
        kind = tuple if known[key] is None else type(known[key])
        try:
            if kind is tuple:
                options[key] = tuple(map(int, value.split(",")))
            else:
                options[key] = yaml_text.typed(yaml_text.parse(value, text))
        except ValueError:
            options[key] = None
        if type(options[key]) is not kind:
            wanted = "whole numbers such as 0,4,8" if kind is tuple else f"a {kind.__name__} such as {known[key]}"
            raise UserError(f"option {key} of {protocol.name} must be {wanted}, got {value!r}")
    return options


def score_files(
    predictions: Path, ground_truth: Path, protocol: Protocol, options: dict, output: Path | None = None
) -> tuple[Pair, Scores]:
    """Score a file of predictions by a protocol: print the scores and write them.

    Args:
        predictions, ground_truth: paths, see `prediction_files.read`.
        protocol: how the predictions are scored.
        options: options of the protocol.
        output: folder to write to; None: the folder `<name>_<protocol>` next to the predictions.

    Returns:
        The predictions with their ground truth, and their scores.

    Raises:
        UserError: see `load_pair` and `report`.
    """
    print(f"Reading {predictions} and {ground_truth}", flush=True)
    pair = load_pair(predictions, ground_truth, protocol)
    return pair, report(pair, options, output or predictions.with_name(f"{predictions.stem}_{protocol.name}"))


def report(pair: Pair, options: dict, folder: Path | None) -> Scores:
    """Score a pair, print its warnings and the table of scores, and write the files.

    Args:
        pair: the predictions and ground truth.
        options: options of the pair's protocol.
        folder: where `scores.json` and `samples.csv` are written; None: they are not written.

    Raises:
        UserError: an option is unknown, or the folder cannot be written to.
    """
    for warning in pair.warnings:
        print(f"warning: {warning}", flush=True)
    if folder is not None:
        make_folder(folder)
        output_files.check_own(folder / SCORES, MARK, folder / SAMPLES)
    scores = pair.protocol.score(pair.pred, pair.gt, **options)
    print(table(pair, scores))
    if folder is not None:
        print("Written to " + " and ".join(map(str, write(pair, scores, options, folder))))
    return scores


def load_pair(predictions: str | Path, ground_truth: str | Path, protocol: Protocol) -> Pair:
    """Read predictions and ground truth, match their samples, and check them for mistakes.

    Args:
        predictions, ground_truth: paths, see `prediction_files.read`.
        protocol: defines the names, shapes, unit and joint order of the arrays.

    Raises:
        UserError: a file cannot be read, samples are missing, a value is not finite, or a shape or unit is wrong.
    """
    pred, pred_files = read(predictions, [*protocol.pred, *protocol.pred_optional])
    gt, gt_files = read(ground_truth, [*protocol.gt, *protocol.gt_optional])
    sides = ((protocol.pred, protocol.pred_optional), (protocol.gt, protocol.gt_optional))
    for path, arrays, shapes in zip((pred_files[0], gt_files[0]), (pred, gt), sides):
        protocol.checked(f"arrays of {path}", arrays, *shapes)
        _check_lengths(arrays, path)
    pred, gt, ids, notes = _matched(pred, gt, pred_files[0], gt_files[0])
    _check_finite(pred, ids, pred_files)
    _check_finite(gt, ids, gt_files, gt.get("joint_valid"))
    warnings = notes + [
        f"no scores of {name}: only {files[-1]} contains this array"
        for name in protocol.pred_optional
        for files, has, lacks in ((gt_files, gt, pred), (pred_files, pred, gt))
        if name in protocol.gt_optional and name in has and name not in lacks
    ]
    _check_pixels(pred, gt, ids, pred_files[0], gt_files[0])
    warnings += _compared(pred, gt, ids, protocol, pred_files[0], gt_files[0])
    return Pair(protocol, pred, gt, ids, pred_files, gt_files, warnings)


def table(pair: Pair, scores: Scores) -> str:
    """The scores as text: the official scores, the errors per finger, and the worst samples."""
    main, worst, scored = _worst(scores)
    count = f"{len(pair.ids)} samples" if scored == len(pair.ids) else f"{scored} of {len(pair.ids)} samples"
    lines = [f"{pair.protocol.name}, {count}, as {pair.protocol.source}:"]
    # HInt's protocol also has a score per joint, such as "kp0…".
    values = {name: value for name, value in scores.values.items() if not re.match(r"kp\d", name)}
    fingers = {
        f"{name} {side}".rstrip(): finger_means(hand, ~np.isnan(hand))
        for name, joints in scores.joints.items()
        for side, hand in _hands(joints, pair.protocol).items()
    }
    width = max(map(len, [*values, *fingers]))
    for name, value in values.items():
        unit = scores.units.get(name, "")
        in_mm = f"{value * 10:12.3f} mm" if unit == "cm" else ""
        lines.append(f"  {name:{width}}{value:12.4f} {unit:2}{in_mm}".rstrip())
    if len(values) < len(scores.values):
        lines.append(f"  and {len(scores.values) - len(values)} scores of single joints")
    if fingers:
        lines.append(f"By finger, mm:\n  {'':{width}}" + "".join(f"{name:>9}" for name in ("wrist", *FINGERS)))
    for name, means in fingers.items():
        lines.append(f"  {name:{width}}" + "".join(f"{mean:9.2f}" for mean in means))
    heads = {name: f"{name} {scores.units[name]}" for name in scores.samples if name in scores.units}
    names = [str(pair.ids[row]) for row in worst]
    width = max(map(len, ["sample", *names]))
    lines.append(f"Worst samples by {main}:\n  {'sample':{width}}" + "".join(f"  {head:>7}" for head in heads.values()))
    for name, row in zip(names, worst):
        cells = (f"  {scores.samples[key][row]:{max(7, len(head))}.2f}" for key, head in heads.items())
        lines.append(f"  {name:{width}}" + "".join(cells))
    return "\n".join(lines)


def write(pair: Pair, scores: Scores, options: dict, folder: Path) -> list[Path]:
    """Write `scores.json` and `samples.csv`; a value that is not finite is null in the JSON and empty in the CSV.

    Args:
        pair: the predictions and ground truth.
        scores: the scores of the pair.
        options: options of the protocol.
        folder: folder to write to, which is created if necessary.

    Returns:
        Paths of the two files.

    Raises:
        UserError: they cannot be written.
    """
    main, worst, scored = _worst(scores)
    report = {
        "protocol": pair.protocol.name,
        "source": pair.protocol.source,
        "options": options,
        "predictions": [_readable(path) for path in pair.pred_files],
        "ground_truth": [_readable(path) for path in pair.gt_files],
        "samples": len(pair.ids),
        "scored": scored,
        "values": scores.values,
        "units": scores.units,
        "joints_mm": {name: _named(joints, pair.protocol) for name, joints in scores.joints.items()},
        "curves": {name: {"mm": mm, "share": share} for name, (mm, share) in scores.curves.items()},
        "worst_samples": {main: [_readable(name) for name in pair.ids[worst]]}
        if pair.ids.dtype.kind == "U"
        else {main: pair.ids[worst].tolist()},
        "warnings": [_readable(warning) for warning in pair.warnings],
        "jaxhand": jaxhand.__version__,
    }
    columns = [f"{name}_{scores.units[name]}" if name in scores.units else name for name in scores.samples]
    rows = zip(pair.ids.tolist(), *(values.tolist() for values in scores.samples.values()))
    table_text = io.StringIO()
    writer = csv.writer(table_text, lineterminator="\n")
    writer.writerow(["sample", *columns])
    writer.writerows(
        [_readable(name), *(f"{v:.6g}" if np.isfinite(v) else "" for v in values)] for name, *values in rows
    )
    paths = [folder / SCORES, folder / SAMPLES]
    make_folder(folder)
    for path, text in zip(paths, (_json(report), table_text.getvalue().encode())):
        with draft_of(path) as draft:
            draft.write_bytes(text)
    return paths


def make_folder(folder: Path) -> None:
    """Make a folder if necessary, and check that it is writable.

    Raises:
        UserError: the folder cannot be made, is not writable, or is among the checkpoints of a run.
    """
    output_files.check_place(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose another folder with --output") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"cannot write to {folder}: permission denied; choose another folder with --output")


def _readable(text: object) -> str:
    """A path or name as text for a file in UTF-8; bytes of a file's name that are not UTF-8 become "?"."""
    return str(text).encode(errors="replace").decode()


def _json(report: dict) -> bytes:
    return orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY) + b"\n"


def _named(joints: np.ndarray, protocol: Protocol) -> dict[str, float]:
    """Convert mean errors of joints, as in `Scores.joints`, to a dict: name of the joint → mean error."""
    hands = {f"{side}_".lstrip("_"): hand.tolist() for side, hand in _hands(joints, protocol).items()}
    return {side + name: mean for side, hand in hands.items() for name, mean in zip(JOINT_NAMES, hand)}


def _hands(joints: np.ndarray, protocol: Protocol) -> dict[str, np.ndarray]:
    """Split an array of joints into hands (21,), in our joint order. Keys: "right" and "left", or "" for one hand."""
    hands = joints.reshape(-1, 21)[:, np.array(JOINT_ORDERS[protocol.joint_order])]
    return dict(zip(("right", "left") if len(hands) == 2 else ("",), hands))


def _worst(scores: Scores) -> tuple[str, np.ndarray, int]:
    """Find the worst samples: name of the error, rows of the samples, and number of samples that have the error.

    Of several joint errors, the one with the smallest mean is used. It is the error after the most alignment, and
    describes the shape of a hand best.
    """
    over_joints = [name for name in scores.samples if name in scores.joints] or list(scores.samples)[:1]
    main = min(over_joints, key=lambda name: np.nanmean(scores.samples[name]))
    errors = scores.samples[main]
    order = np.argsort(-np.nan_to_num(errors, nan=-np.inf, posinf=np.inf), kind="stable")
    scored = int(np.isfinite(errors).sum())
    return main, order[: min(WORST, scored)], scored


def _check_lengths(arrays: dict, path: Path) -> None:
    (first, values), *others = [(name, values) for name, values in arrays.items()]
    for name, other in others:
        if len(other) != len(values):
            raise UserError(f"{path}: {first} has {len(values)} samples but {name} has {len(other)}")
    if not len(values):
        raise UserError(f"{path}: contains no samples")


def _matched(pred: dict, gt: dict, pred_file: Path, gt_file: Path) -> tuple[dict, dict, np.ndarray, list[str]]:
    """Return predictions and ground truth in the same order of samples, the names of the samples, and warnings.

    Predictions without ids must already be in the order of the ground truth.
    """
    pred_ids, (labels, *_) = pred.pop("id", None), [values for name, values in gt.items() if name != "id"]
    gt_has_ids = "id" in gt
    gt_ids = gt.pop("id", np.arange(len(labels)))
    if pred_ids is None:
        [count, *_] = (len(values) for values in pred.values())
        if count != len(labels):
            raise UserError(
                f"{pred_file}: has {count} samples, but {gt_file} has {len(labels)}: "
                "there must be one prediction per sample of the ground truth, in the same order"
            )
        by_position = f"{gt_file} has ids, but {pred_file} has none: samples are matched by their position"
        return pred, gt, gt_ids, [by_position] if gt_has_ids else []
    for file, found in ((pred_file, pred_ids), (gt_file, gt_ids)):
        values, counts = np.unique(found, return_counts=True)
        if (counts > 1).any():
            raise UserError(f"{file}: {(counts > 1).sum()} ids are not unique, such as {values[counts > 1][0]}")
    shown = ~np.isin(labels, _UNLABELLED).reshape(len(labels), -1).all(1)
    all_ids = gt_ids
    gt, gt_ids = {name: values[shown] for name, values in gt.items()}, gt_ids[shown]
    missing = gt_ids[~np.isin(gt_ids, pred_ids)]
    if len(missing):
        raise UserError(f"{pred_file}: lacks sample {missing[0]} ({len(missing)} of {len(gt_ids)} samples are missing)")
    others = pred_ids[~np.isin(pred_ids, all_ids)]
    listed = ", ".join(map(str, others[:WORST])) + (", …" if len(others) > WORST else "")
    unused = f"{len(others)} of {len(pred_ids)} predictions are left out: {gt_file} has no sample {listed}"
    order = np.argsort(pred_ids)
    rows = order[np.searchsorted(pred_ids, gt_ids, sorter=order)]
    return {name: values[rows] for name, values in pred.items()}, gt, gt_ids, [unused] if len(others) else []


def _check_finite(arrays: dict, ids, files: list[Path], valid=None) -> None:
    """Raise UserError if a coordinate of a valid point is not finite."""
    for i, (name, values) in enumerate(arrays.items()):
        if values.dtype.kind != "f":
            continue
        bad = ~np.isfinite(values)
        if valid is not None and values.shape[:2] == valid.shape[:2]:
            bad &= (valid > 0).reshape(*valid.shape[:2], *[1] * (values.ndim - 2))
        if bad.any():
            sample, *where = np.argwhere(bad)[0]
            count = bad.reshape(len(bad), -1).any(1).sum()
            point = f", point {where[0]}," if where else ""
            raise UserError(
                f"{files[min(i, len(files) - 1)]}: sample {ids[sample]} of {name}{point} is not finite "
                f"({values[tuple(np.argwhere(bad)[0])]}); {count} of {len(values)} samples have such values"
            )


def _check_pixels(pred: dict, gt: dict, ids, pred_file: Path, gt_file: Path) -> None:
    """Raise UserError if 2D points cannot be scored: no joint is labelled, a box has no size, or they are in 0..1."""
    if "box_size" not in gt:
        return
    [points], target = pred.values(), gt["keypoints_2d"]
    if not (target[..., 2] > 0.5).any():
        raise UserError(f"{gt_file}: no joint of keypoints_2d has a confidence > 0.5")
    empty = ~(gt["box_size"] > 0)
    if empty.any():
        raise UserError(
            f"{gt_file}: box_size of sample {ids[empty.argmax()]} must be positive, in px ({empty.sum()} samples)"
        )
    if np.abs(points).max() < 2 < np.abs(target[..., :2]).max():
        raise UserError(f"{pred_file}: seems to be in 0..1, but the protocol needs px of the image")


def _compared(pred: dict, gt: dict, ids, protocol: Protocol, pred_file: Path, gt_file: Path) -> list[str]:
    """Return warnings about implausible 3D points; raise UserError if a unit is wrong."""
    name, target = next(iter(protocol.pred)), gt[next(iter(protocol.gt))]
    if protocol.pred[name][-1] != 3:
        return []
    joints, target, names = plausibility.fully_labelled_hands(pred[name], target[..., :3], ids, gt.get("joint_valid"))
    plausibility.check_units(joints, target, names, protocol.unit_mm, f"{pred_file}", f"{gt_file}")
    warnings = plausibility.prediction_warnings(joints, target, names, protocol)
    if "verts" in pred and "verts" in gt:
        for side, file in ((pred, pred_file), (gt, gt_file)):
            warnings += plausibility.mesh_offset_warnings(side[name], side["verts"], protocol.unit_mm, str(file))
    return warnings
