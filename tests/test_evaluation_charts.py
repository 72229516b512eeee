"""Charts: where values are drawn, round ticks, and what is left out."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from jaxhand.evaluation.report import charts

NAN = np.nan


def points(svg: str, number: int = 0) -> list[list[float]]:
    """The corners of line `number`."""
    text = re.findall(rf'<polyline class="line s{number}" points="([^"]*)"', svg)[0]
    return [[float(value) for value in pair.split(",")] for pair in text.split()]


def ticks(svg: str) -> tuple[list[str], list[str]]:
    """Texts of the ticks: along x, along y."""
    return tuple(
        re.findall(rf'<text class="tick"[^>]*text-anchor="{anchor}">([^<]*)', svg) for anchor in ("middle", "end")
    )


def test_data_fill_the_frame():
    """0 to 4 across the width without 52 and 12 units, 0 to 10 up the height without 12 and 40."""
    svg = charts.lines({"a": ([0, 1, 4], [0, 10, 5])}, "x [mm]", 'y "<1>"')
    assert points(svg) == [[52, 220], [151, 12], [448, 116]]
    assert ticks(svg) == (["0", "1", "2", "3", "4"], ["0", "2", "4", "6", "8", "10"])
    root = ElementTree.fromstring(svg)
    assert root.get("viewBox") == "0 0 460 260" and root.get("aria-label") == 'y "<1>" over x [mm]'
    grid = [element for element in root if element.get("class") == "grid"]
    assert [(e.get("x1"), e.get("x2")) for e in grid] == [("52", "448")] * 6
    assert (
        [e.get("y1") for e in grid]
        == [e.get("y2") for e in grid]
        == ["220.0", "178.4", "136.8", "95.2", "53.6", "12.0"]
    )
    texts = {e.text: e for e in root if e.tag == "text"}
    assert (texts["3"].get("x"), texts["3"].get("y")) == ("349.0", "236")
    assert (texts["6"].get("x"), texts["6"].get("y"), texts["6"].get("dy")) == ("46", "95.2", "4")
    name, turned = texts["x [mm]"], texts['y "<1>"']
    assert (name.get("x"), name.get("y"), name.get("class")) == ("250.0", "254", "name")
    assert (turned.get("transform"), turned.get("x"), turned.get("y")) == ("rotate(-90)", "-110.0", "12")


def test_the_axis_begins_at_0_unless_all_values_are_near_each_other():
    near = ticks(charts.lines({"a": ([0, 1], [40, 100])}, "x", "y"))[1]
    far = ticks(charts.lines({"a": ([0, 1], [39, 100])}, "x", "y"))[1]
    negative = ticks(charts.lines({"a": ([0, 1], [-5, 100])}, "x", "y"))[1]
    assert near[0] == "40" and far[0] == "0" and negative[0] == "0" and far[-1] == near[-1] == "100"
    assert points(charts.lines({"a": ([0, 1], [-5, 100])}, "x", "y"))[0][1] == 220  # below the lowest tick


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 6, [0, 1, 2, 3, 4, 5, 6]),
        (0, 6.1, [0, 2, 4, 6]),
        (0, 14, [0, 2.5, 5, 7.5, 10, 12.5]),
        (0, 16, [0, 5, 10, 15]),
        (0, 35, [0, 10, 20, 30]),
        (0.3, 0.7, [0.3, 0.4, 0.5, 0.6, 0.7]),
        (-3, 4, [-2, 0, 2, 4]),
        (7, 7, [7]),
    ],
)
def test_ticks_are_round_numbers(low, high, expected):
    assert charts._ticks(low, high) == expected


def test_several_lines_have_a_legend_and_colours():
    series = {f"run <{i}>": ([0, 1], [i, i]) for i in range(7)}
    svg = charts.lines(series, "x", "y", dots=True)
    assert re.findall(r'<span class="s(\d)">', svg) == list("0123450")
    assert "run &lt;3&gt;" in svg and svg.count("<circle ") == 14 and 'r="3"' in svg
    assert len(re.findall('class="line s0"', svg)) == 2
    one = charts.lines({"a": ([0, 1], [1, 2])}, "x", "y")
    assert "legend" not in one and "<circle" not in one


def test_what_is_not_finite_is_left_out():
    svg = charts.lines({"a": ([0, 1, NAN, 3], [0, np.inf, 1, 3])}, "x", "y")
    assert points(svg) == [[52, 220], [448, 12]]
    single = charts.lines({"a": ([2, NAN], [5, 5])}, "x", "y")  # one point is a dot
    assert points(single) == [[52, 220]] and '<circle class="dot s0" cx="52.0" cy="220.0"' in single
    assert charts.lines({"a": ([NAN], [1])}, "x", "y") == charts.histogram({"a": np.array([NAN])}, "x") == ""


def test_a_histogram_has_30_bins_up_to_the_99th_percentile():
    values = np.append(np.linspace(0, 30, 2000, endpoint=False), [1e6, NAN])
    svg = charts.histogram({"a": values, "b": values[:1000]}, "error, mm")
    steps = np.array(points(svg))
    assert len(steps) == 60 and "error, mm; the last bin holds all larger ones" in svg and "% of the hands" in svg
    np.testing.assert_allclose(np.diff(steps[::2, 0]), np.diff(steps[::2, 0])[0], atol=0.11)
    heights = steps[::2, 1]
    np.testing.assert_array_equal(heights, steps[1::2, 1])
    np.testing.assert_allclose(heights[1:-1], heights[1], atol=2)
    assert heights[-1] < heights[1] - 3  # the bin of all larger ones has more
    flat = np.array(points(charts.histogram({"a": np.zeros(5)}, "x")))
    assert flat[0].tolist() == [52, 12] and flat[-1].tolist() == [448, 220]  # all in the first of 30 bins up to 1
