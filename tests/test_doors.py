"""Extensions from outside the package: each needs one file, and one line of config or command line.

Each extension point has an example in `TOYS` and a test: epoch metric, loss term.
"""

import json
import re

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TOYS = '''
"""An epoch metric and a loss term of somebody else's."""

import jax.numpy as jnp

from jaxhand.metrics import EpochMetric


def depth_sums(predictions, batch):
    error = jnp.abs(predictions["keypoints_3d"][..., 2] - batch["keypoints_3d"][..., 2]).mean(-1)
    return {"error": jnp.where(batch["valid"] > 0, error, 0).sum(), "hands": batch["valid"].sum()}


DEPTH = EpochMetric("depth_error", "mm", depth_sums, lambda sums: sums["error"] / sums["hands"], label="Depth error")


def bone_length(predictions, batch):
    """Error of the length of the index finger's first bone, in 100 mm: (B,)."""
    lengths = (jnp.linalg.norm(points["keypoints_3d"][:, 6] - points["keypoints_3d"][:, 5], axis=-1)
               for points in (predictions, batch))
    return jnp.abs(next(lengths) - next(lengths)) / 100 * batch["joint_valid"][:, 5] * batch["joint_valid"][:, 6]


def needs_a_mesh(predictions, batch):
    return predictions["vertices"].mean((1, 2))


no_metric = 3
'''
ONE_EPOCH = ["training.num_epochs=1", "data.train_samples=24"]


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """Python that makes the toys importable, as a package installed next to jaxhand would be."""
    folder = tmp_path_factory.mktemp("toys")
    (folder / "toys.py").write_text(TOYS)
    return f"import sys; sys.path.insert(0, {str(folder)!r})"


def test_an_epoch_metric_and_a_loss_term(tiny_yaml, tmp_path, command, toys):
    """Both are in the console, in metrics.jsonl or TensorBoard, and in evaluate, next to two optional metrics."""
    workdir = tmp_path / "run"
    lines = ["training.metrics=[toys:DEPTH, cs_mpjpe, pa_auc]", "loss.extra={toys:bone_length: 0.5}"]
    arguments = ["--config", tiny_yaml, "--workdir", workdir, *ONE_EPOCH, *lines]
    code, output, errors = command("train", *arguments, patch=toys)
    assert code == 0, errors
    [line] = [json.loads(text) for text in (workdir / "metrics.jsonl").read_text().splitlines()]
    joints = f"MPJPE: {line['mpjpe']:.3f} mm, PA-MPJPE: {line['pa_mpjpe']:.3f} mm"
    shown = [
        f"  {joints}, Avg Metric: {line['avg_metric']:.3f} mm",
        f"  Depth error: {line['depth_error']:.3f} mm",
        f"  CS-MPJPE: {line['cs_mpjpe']:.3f} mm",
        f"  PA-AUC: {line['pa_auc']:.3f}",
    ]
    lines = output.splitlines()
    first = next(number for number, text in enumerate(lines) if text.startswith("Epoch 0:"))
    assert lines[first + 1 : first + 5] == shown
    assert 0 < line["depth_error"] < line["cs_mpjpe"] and 0 < line["pa_auc"] < 1

    events = EventAccumulator(str(workdir / "tensorboard"))
    events.Reload()
    curve = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert curve["metric/depth_error"] == [pytest.approx(line["depth_error"], rel=1e-6)]
    for kind in ("train", "test"):
        names = ("joints_3d", "joints_2d", "depth", "distance", "size", "guesses", "toys:bone_length")
        weights = (1, 1, 1, 0.3, 1, 0.5, 0.5)
        total = sum(weight * curve[f"loss_{kind}/{name}"][0] for name, weight in zip(names, weights))
        assert curve[f"loss_{kind}/toys:bone_length"][0] > 0
        assert curve[f"loss_{kind}/loss"][0] == pytest.approx(total, rel=1e-5)

    code, output, errors = command("evaluate", workdir, patch=toys)
    assert code == 0, errors
    report = json.loads((workdir / "evaluation.json").read_text())
    measured = report["results"][0]
    assert measured["depth_error"] == pytest.approx(line["depth_error"], rel=1e-5)
    assert measured["cs_mpjpe"] == pytest.approx(line["cs_mpjpe"], rel=1e-5)
    assert f"    Depth error: {measured['depth_error']:.3f} mm" in output.splitlines()


def test_more_is_measured_of_a_run_that_is_done(finished, command, toys):
    code, output, errors = command("evaluate", finished, "--metrics", "pa_auc", "toys:DEPTH", patch=toys)
    assert code == 0, errors
    report = json.loads((finished / "evaluation.json").read_text())
    assert {"pa_auc", "depth_error"} <= report["results"][0].keys() and "cs_mpjpe" not in report["results"][0]
    assert re.search(r"\n    PA-AUC: 0\.\d{3}\n    Depth error: \d+\.\d{3} mm\n", output)


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("loss.extra={toys:needs_a_mesh: 1}", "loss term 'toys:needs_a_mesh' cannot be computed: neither"),
        ("loss.extra={toys:no_such: 1}", "loss term toys:no_such: toys has no no_such"),
        ("loss.extra={toys:bone_length: -1}", "loss.extra: the weight of toys:bone_length must be at least 0"),
        ("training.metrics=[toys:no_metric]", "training.metrics toys:no_metric: must be an EpochMetric, got int"),
        ("training.metrics=[pa_ac]", "training.metrics: unknown metric 'pa_ac'; did you mean 'pa_auc'?"),
        ("training.metrics=[mpjpe]", "training.metrics: unknown metric 'mpjpe'"),
        ("training.metrics=[pa_auc, pa_auc]", "training.metrics pa_auc: the name 'pa_auc' is already used"),
    ],
)
def test_mistakes_are_named_before_the_first_step(tiny_yaml, tmp_path, call, monkeypatch, toys, override, fault):
    from jaxhand import train

    monkeypatch.syspath_prepend(re.search(r"'(.*)'", toys)[1])
    code, output, errors = call(train.main, "--config", tiny_yaml, "--workdir", tmp_path / "run", override)
    assert code == 2 and output == "" and errors.startswith(f"error: {fault}") and errors.count("\n") == 1, errors
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
