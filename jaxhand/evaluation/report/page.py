"""Write the report as one HTML file: tables, charts, pictures and hands in 3D that can be turned."""

import base64
import datetime
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import jinja2
import numpy as np

import jaxhand
from jaxhand.config import UserError
from jaxhand.evaluation.prediction_files import draft_of
from jaxhand.evaluation.report import charts, intervals
from jaxhand.evaluation.report.measured import Measured
from jaxhand.hand.camera import project
from jaxhand.hand.draw import draw_skeleton
from jaxhand.hand.skeleton import BONES, FINGER_COLORS, FINGER_OF_JOINT, FINGERS, JOINT_NAMES, WRIST_COLOR
from jaxhand.io import output_files
from jaxhand.metrics.curves import eval_util
from jaxhand.metrics.tables import finger_means, joint_means

NAMES = {"mpjpe": "MPJPE", "pa_mpjpe": "PA-MPJPE"}
CASES = 6  # worst hands, and as many around the median
PICTURE = 288  # side of a picture, px
MARK = b"<p><small>jaxhand "  # in every page, before its version
GROUPS = 8  # groups of hands in a chart of the error over a property


def write(measured: Sequence[Measured], path: Path) -> Path:
    """Write the report of one or more runs on the same data set.

    Args:
        measured: the runs; all others are compared with the first.
        path: the HTML file.

    Raises:
        UserError: the runs were measured on different hands, or the file cannot be written.
    """
    first = measured[0]
    for other in measured[1:]:
        if not np.array_equal(other.names, first.names):
            raise UserError(
                f"{other.label} and {first.label} were measured on different hands; give one --data for both"
            )
    scored = np.logical_and.reduce([each.scored for each in measured])
    if not scored.any():
        raise UserError("no hand has a finite prediction of every run")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxhand.evaluation.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template("page.html").render(
        title=" and ".join(each.label for each in measured),
        data=", ".join(filter(None, (first.data, first.split))),
        count=int(scored.sum()),
        left_out=int(len(scored) - scored.sum()),
        runs=[{"label": each.label, "about": each.about, "config": _yaml(each.config)} for each in measured],
        metrics=_metrics(measured, scored),
        charts=_charts(measured, scored),
        fingers=_fingers(measured, scored),
        joints=_joints(measured, scored),
        cases=_cases(first),
        skeleton=json.dumps({"bones": BONES, "colors": _joint_colors()}),
        made=f"jaxhand {jaxhand.__version__}, {datetime.date.today():%Y-%m-%d}",
    )
    output_files.check_own(path, MARK)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {path.parent}: {error.strerror}") from None
    with draft_of(path) as draft:
        draft.write_text(text, encoding="utf-8")
    return path


def _metrics(measured: Sequence[Measured], scored: np.ndarray) -> list[dict]:
    """One row per run: means with their intervals, area under the curve, and the difference to the first run."""
    rows = []
    for number, each in enumerate(measured):
        row = {"label": each.label, "values": {}, "differences": {}}
        for key, name in NAMES.items():
            row["values"][name] = intervals.of_mean(each.errors[key][scored])
            if number:
                found = intervals.of_difference(measured[0].errors[key][scored], each.errors[key][scored])
                better = "better" if found.high < 0 else "worse" if found.low > 0 else "no clear difference"
                row["differences"][name] = (found, better)
        for key, name in NAMES.items():
            valid = each.valid[scored] > 0
            row["values"][f"AUC of {name}"] = eval_util(each.distances[key][scored], valid).auc
        rows.append(row)
    found = measured[0].baselines
    rows.append({"label": "mean pose of these labels", "values": {"MPJPE": found["mpjpe"]}, "differences": {}})
    rows.append({"label": "one rigid hand, aligned", "values": {"PA-MPJPE": found["pa_mpjpe"]}, "differences": {}})
    return rows


def _charts(measured: Sequence[Measured], scored: np.ndarray) -> dict[str, list[tuple[str, str]]]:
    """Section → charts with their captions."""
    names = [each.label for each in measured]
    found = {"Training": [], "Errors": [], "What the error depends on": []}
    curves = (("train_loss", "Training loss", ""), ("test_loss", "Test loss", ""), ("mpjpe", "MPJPE", "mm"))
    for key, caption, unit in (*curves, ("pa_mpjpe", "PA-MPJPE", "mm"), ("images_per_second", "Speed", "images/s")):
        series = {}
        for name, each in zip(names, measured):
            lines = [line for line in each.epochs if isinstance(line.get(key), (int, float))]
            if len(lines) > 1:
                series[name] = np.array([line["epoch"] for line in lines]), np.array([line[key] for line in lines])
        if series:
            found["Training"].append((caption, charts.lines(series, "epoch", unit or "loss", dots=True)))
    for key, name in NAMES.items():
        series = {}
        for label, each in zip(names, measured):
            measures = eval_util(each.distances[key][scored], each.valid[scored] > 0)
            series[label] = measures.thresholds, measures.pck
        caption = f"Share of joints with an error of at most a threshold ({name})"
        found["Errors"].append((caption, charts.lines(series, "threshold in mm", "share of the joints")))
    for key, name in NAMES.items():
        values = {label: each.errors[key][scored] for label, each in zip(names, measured)}
        found["Errors"].append((f"{name} of the hands", charts.histogram(values, f"{name} in mm")))
    for condition, (values, unit) in measured[0].conditions.items():
        series = {
            name: _grouped(values[scored], each.errors["pa_mpjpe"][scored]) for name, each in zip(names, measured)
        }
        caption = f"PA-MPJPE and {condition}; each point is an eighth of the hands"
        found["What the error depends on"].append(
            (caption, charts.lines(series, f"{condition} in {unit}", "mm", dots=True))
        )
    return {section: entries for section, entries in found.items() if entries}


def _grouped(values: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of values and errors over `GROUPS` groups of equal size, ordered by value."""
    order = [rows for rows in np.array_split(np.argsort(values, kind="stable"), GROUPS) if len(rows)]
    return np.array([values[rows].mean() for rows in order]), np.array([errors[rows].mean() for rows in order])


def _fingers(measured: Sequence[Measured], scored: np.ndarray) -> dict:
    rows = []
    for each in measured:
        for key, name in NAMES.items():
            means = finger_means(joint_means(each.distances[key][scored], each.valid[scored]))
            rows.append((each.label, name, [f"{mean:.2f}" for mean in means]))
    return {"head": ("wrist", *FINGERS), "rows": rows}


def _joints(measured: Sequence[Measured], scored: np.ndarray) -> dict:
    columns = [(each, key) for each in measured for key in NAMES]
    means = [joint_means(each.distances[key][scored], each.valid[scored]) for each, key in columns]
    head = [(each.label, NAMES[key]) for each, key in columns]
    return {
        "head": head,
        "rows": [(name, [f"{mean[row]:.2f}" for mean in means]) for row, name in enumerate(JOINT_NAMES)],
    }


def _cases(measured: Measured) -> dict[str, list[dict]]:
    """The worst hands by PA-MPJPE, and those around the median."""
    errors = np.where(measured.scored, measured.errors["pa_mpjpe"], -np.inf)
    order = np.argsort(-errors, kind="stable")[: int(measured.scored.sum())]
    middle = max(len(order) // 2 - CASES // 2, 0)
    return {
        "Worst hands": [_case(measured, row) for row in order[:CASES]],
        "Hands around the median": [_case(measured, row) for row in order[middle : middle + CASES]],
    }


def _case(measured: Measured, row: int) -> dict:
    pred, gt, valid = measured.pred[row], measured.gt[row], measured.valid[row] > 0
    seen = np.where(valid[:, None], gt, np.nan)
    relative = [np.round(points - points[0], 1).tolist() for points in (pred, np.where(valid[:, None], gt, 0))]
    joints = {"pred": relative[0], "true": relative[1], "valid": valid.tolist()}
    names = {name: f"{measured.errors[key][row]:.1f}" for key, name in NAMES.items()}
    distance = f"{np.nanmean(np.linalg.norm(seen, axis=-1)):.0f} mm away"
    return {
        "name": measured.names[row],
        "errors": names,
        "distance": distance,
        "picture": _picture(measured, row),
        "joints": json.dumps(joints),
    }


def _picture(measured: Measured, row: int) -> str:
    """The hand in its image with predicted and labelled joints side by side, as a data URL; empty without images."""
    if measured.source is None or measured.pixels is None:
        return ""
    record = measured.source[int(row)]
    valid = measured.valid[row] > 0
    true = project(np.where(valid[:, None], measured.gt[row], (0, 0, 1)), record.K)
    points = np.concatenate([measured.pixels[row], true[valid]])
    points = points[np.isfinite(points).all(-1)]
    low, high = np.percentile(points, 5, axis=0), np.percentile(points, 95, axis=0)
    side = max(1.6 * float((high - low).max()), 16.0)
    scale = PICTURE / side
    corner = (low + high) / 2 - side / 2
    matrix = np.array([[scale, 0, -scale * corner[0]], [0, scale, -scale * corner[1]]])
    crop = cv2.warpAffine(
        np.asarray(record.image), matrix, (PICTURE, PICTURE), flags=cv2.INTER_AREA, borderValue=(90, 90, 90)
    )
    pictures = [
        draw_skeleton(crop, (pixels - corner) * scale, scale=1, valid=shown)
        for pixels, shown in ((measured.pixels[row], None), (true, valid))
    ]
    done, encoded = cv2.imencode(".jpg", np.hstack(pictures)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode() if done else ""


def _joint_colors() -> list[str]:
    colors = [FINGER_COLORS[finger] if finger >= 0 else WRIST_COLOR for finger in FINGER_OF_JOINT]
    return ["#" + "".join(f"{channel:02x}" for channel in color) for color in colors]


def _yaml(config: dict, indent: int = 0) -> str:
    """A config as it is written in YAML."""
    lines = []
    for key, value in config.items():
        if isinstance(value, dict) and value:
            lines += [f"{' ' * indent}{key}:", _yaml(value, indent + 2)]
        else:
            lines.append(f"{' ' * indent}{key}: {json.dumps(value)}")
    return "\n".join(lines)
