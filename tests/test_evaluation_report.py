"""The report: numbers equal to those of an epoch, intervals that hold, and a page that needs nothing else."""

import base64
import json
import re

import cv2
import numpy as np
import pytest

from jaxhand import evaluate, report
from jaxhand.config import UserError
from jaxhand.data.record import Record
from jaxhand.evaluation.report import charts, intervals, page
from jaxhand.evaluation.report.measured import Measured
from jaxhand.evaluation.scoring import protocol_of


def measured(label, noise, *, count=40, names=None, seed=3):
    """Hands of two sizes with errors of `noise` mm; labels at 500 mm; the first hand has no label."""
    rng = np.random.default_rng(0)
    gt = rng.normal(0, 40, (count, 21, 3)) + (0, 0, 500)
    pred = gt + np.random.default_rng(seed).normal(0, noise, gt.shape)
    valid = np.ones((count, 21))
    valid[0] = 0
    names = np.array([f"hand {i}" for i in range(count)] if names is None else names)
    return Measured(label, "set", "test", names, pred, gt, valid)


@pytest.fixture(scope="module")
def of_trained(trained):
    return report.measure(trained.workdir)


def test_a_run_is_measured_as_in_its_epochs(trained, of_trained):
    lines = [json.loads(line) for line in (trained.workdir / "metrics.jsonl").read_text().splitlines()]
    best = min(lines, key=lambda line: line["avg_metric"])
    for name, values in of_trained.errors.items():
        np.testing.assert_allclose(values.mean(), best[name], rtol=1e-4)
    assert [line["epoch"] for line in of_trained.epochs] == [0, 1, 2] and of_trained.config["model"]["width"] == 32


def test_the_page_needs_nothing_else(trained, of_trained, tmp_path):
    text = page.write([of_trained], tmp_path / "new" / "report.html").read_text()
    assert len(text) < 1_500_000
    assert not re.findall(r'(?:src|href)="(?!data:)|url\(|https?://(?!www\.w3\.org)|@import', text)
    assert text.count("<canvas ") == text.count("data:image/jpeg") == 2 * page.CASES
    assert text.count("<svg ") == 5 + 4 + 3  # training, errors, conditions
    mean = intervals.of_mean(of_trained.errors["mpjpe"])
    assert f"{mean.mean:.2f} <small>[{mean.low:.2f}, {mean.high:.2f}]</small>" in text
    assert str(trained.workdir) in text and "width: 32" in text


def test_two_runs_are_compared_hand_by_hand(tmp_path):
    worse, better = measured("<worse>", 9.0), measured("better", 6.0, seed=4)
    text = page.write([worse, better, measured("same", 9.0)], tmp_path / "a.html").read_text()
    assert text.count("no clear difference") == 2 and len(re.findall(r":\s*better", text)) == 2
    assert "<worse>" not in text and "&lt;worse&gt;" in text
    assert "39 hands; 1 are left out" in text


def test_runs_on_different_hands_are_not_compared(tmp_path):
    with pytest.raises(UserError, match="measured on different hands"):
        page.write([measured("a", 1), measured("b", 1, names=[str(i) for i in range(40)])], tmp_path / "a.html")


def test_an_interval_holds_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    found = [intervals.of_mean(rng.exponential(10, 100)) for _ in range(200)]
    assert 0.88 < np.mean([one.low <= 10 <= one.high for one in found]) < 0.99
    wide, narrow = intervals.of_mean(rng.normal(0, 1, 50)), intervals.of_mean(rng.normal(0, 1, 5000))
    assert narrow.high - narrow.low < (wide.high - wide.low) / 5
    before = rng.normal(20, 10, 300)
    low, high = intervals.of_difference(before, before - 1 + rng.normal(0, 0.5, 300))[1:]
    assert -1.2 < low < high < -0.8  # much narrower than that of two means


def test_the_lines_of_a_chart_are_where_the_values_are():
    text = charts.lines({"a": (np.array([0, 10]), np.array([0.0, 5.0]))}, "x in mm", "y")
    (points,) = re.findall(r'points="([^"]+)"', text)
    first, last = (tuple(map(float, point.split(","))) for point in points.split())
    ticks = {float(t): float(y) for y, t in re.findall(r'y="([\d.]+)" dy="4" text-anchor="end">([\d.]+)<', text)}
    assert first[1] == ticks[0] and last[1] == ticks[5] and first[0] < last[0]
    assert charts.lines({"a": (np.array([np.nan]), np.array([1.0]))}, "x", "y") == ""
    text = charts.histogram({"a": np.array([1.0] * 98 + [2, 500])}, "mm")
    assert re.findall(r'text-anchor="end">(\d+)<', text)[-1] == "80"  # nearly all in one bin, despite the far one


def test_the_command(trained, copy_of, call):
    workdir = copy_of(trained)
    code, output, errors = call(report.main, workdir, "--data", "synthetic")
    assert (code, errors) == (0, "") and output.endswith(f"Written to {workdir / 'report.html'}\n")
    code, _, errors = call(report.main, workdir / "nothing")
    assert code == 2 and len(errors.splitlines()) == 1


def test_the_report_of_a_file_of_predictions(tmp_path, call):
    hands = measured("", 5.0)
    for name, joints in (("pred", hands.pred), ("gt", hands.gt)):
        np.savez(tmp_path / f"{name}.npz", joints=joints)
    files = ["--predictions", tmp_path / "pred.npz", "--ground-truth", tmp_path / "gt.npz", "--protocol", "dexycb"]
    code, output, errors = call(evaluate.main, *files, "--report", tmp_path / "page.html")
    assert code == 0, errors
    assert output.endswith(f"Written to {tmp_path / 'page.html'}\n")
    assert protocol_of("dexycb").name in (tmp_path / "page.html").read_text()
    assert call(evaluate.main, *files, "--report", tmp_path / "page.html")[0] == 0  # its own page is replaced
    (tmp_path / "notes.html").write_text("of the user")
    code, _, errors = call(evaluate.main, *files, "--report", tmp_path / "notes.html")
    assert code == 2 and f"error: {tmp_path / 'notes.html'}: exists, was not written by this command" in errors
    code, _, errors = call(report.main, tmp_path, "--out", tmp_path / "notes.html")
    assert code == 2 and f"error: {tmp_path / 'notes.html'}: exists, was not written by this command" in errors
    with pytest.raises(UserError, match="notes.html: exists"):
        page.write([hands], tmp_path / "notes.html")
    assert (tmp_path / "notes.html").read_text() == "of the user"
    code, _, errors = call(evaluate.main, tmp_path, "--report", tmp_path / "page.html")
    assert code == 2 and "jaxhand report RUN" in errors


def seen_hands(**options) -> Measured:
    """Four hands with wrist, index and little finger: seen from the front, the edge, at 60 degrees, and unlabelled."""
    gt = np.zeros((4, 21, 3))
    for row, angle in enumerate(np.radians([0, 90, 60, 0])):
        gt[row, 5] = [-30 * np.cos(angle), 80, -30 * np.sin(angle)]
        gt[row, 17] = [30 * np.cos(angle), 80, 30 * np.sin(angle)]
        gt[row] -= gt[row].mean(0)
        gt[row] += [0, 0, 400 + 100 * row]
    valid = np.ones((4, 21))
    valid[3] = 0
    return Measured("run", "set", "test", np.array(list("abcd")), gt + 1.0, gt, valid, **options)


def test_distance_view_and_size():
    pixels = np.zeros((4, 21, 2))
    pixels[:, 8] = [[30, 40], [50, 20], [1, 2], [3, 4]]
    found = seen_hands(pixels=pixels).conditions
    assert {name: unit for name, (_, unit) in found.items()} == {
        "distance": "mm", "view": "degrees", "size in the image": "px",
    }  # fmt: skip
    np.testing.assert_allclose(found["distance"][0][:3], [400, 500, 600])
    np.testing.assert_allclose(found["view"][0][:3], [0, 90, 60], atol=1e-5)
    np.testing.assert_allclose(found["size in the image"][0], [40, 50, 2, 4])
    assert "size in the image" not in seen_hands().conditions


def test_only_labelled_joints_count_for_the_distance():
    measured = seen_hands()
    measured.gt[0, 20], measured.valid[0, 20] = 1e6, 0
    assert measured.conditions["distance"][0][0] == pytest.approx(400, rel=1e-3)


def test_a_picture_is_the_region_of_the_hand_twice():
    """Left with the predicted joints, right with the labelled ones, here none: colours tell the place in the image."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:200, :250]
    image = np.stack([x, y, np.full_like(x, 50)], -1).astype(np.uint8)
    pixels = rng.uniform([100, 60], [160, 100], (1, 21, 2))
    gt, none = np.ones((1, 21, 3)), np.zeros((1, 21))
    source = [Record(image, np.eye(3), gt[0], none[0], "right")]
    hand = Measured("run", "set", "test", np.array(["a"]), gt, gt, none, pixels=pixels, source=source)
    content = base64.b64decode(page._picture(hand, 0).removeprefix("data:image/jpeg;base64,"))
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert picture.shape == (page.PICTURE, 2 * page.PICTURE, 3)
    right = picture[:, page.PICTURE :].astype(float)
    low, high = np.percentile(pixels[0], [5, 95], axis=0)
    side = 1.6 * (high - low).max()
    places = (low + high) / 2 - side / 2 + np.arange(page.PICTURE)[:, None] * side / page.PICTURE
    np.testing.assert_allclose(
        right[20:-20, 20:-20].mean((0, 2)) * 3, (places[20:-20, 0] + 50 + places[20:-20, 1].mean()), atol=6
    )
    np.testing.assert_allclose(right[20:-20, 20:-20, 1].mean(1), places[20:-20, 1], atol=6)
    assert np.abs(picture[:, : page.PICTURE].astype(float) - right).max() > 100  # the predicted skeleton
    assert page._picture(measured("a", 1.0), 0) == ""


def test_a_config_in_yaml():
    text = page._yaml({"a": {"b": {"c": 1}, "d": "x"}, "e": [1, 2], "f": {}})
    assert text == 'a:\n  b:\n    c: 1\n  d: "x"\ne: [1, 2]\nf: {}'
    assert page._joint_colors()[:2] == ["#f0f0f0", "#eb4034"] and len(page._joint_colors()) == 21
