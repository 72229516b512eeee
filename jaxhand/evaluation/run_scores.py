"""Compute the scores of a run on data sets, print them, and write them to the run folder."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxhand import data, models
from jaxhand.config import Config, UserError
from jaxhand.data import set_checks
from jaxhand.data.record import Record, Source, WithoutDepth, read_annotation, stacked_joints
from jaxhand.evaluation import scoring
from jaxhand.evaluation.run_predictions import PredictionCollector, to_protocol
from jaxhand.evaluation.submission import Submission
from jaxhand.metrics import baselines
from jaxhand.metrics.epoch import COUNTS, EpochMetric, console_lines
from jaxhand.metrics.protocols import Protocol


@dataclasses.dataclass(frozen=True)
class Job:
    """Settings for scoring data sets.

    Attributes:
        workdir: run folder.
        config: config of the run.
        metrics: the metrics that `evaluate` measures.
        evaluate: function (source, collect) → results by name. `collect` must be called with each host batch and its
            predictions.
        split: split of the data sets; None: the test split of the config.
        submit: path of the file for the leaderboard; None: no file is written.
        protocol: protocol of a benchmark that also scores the predictions, or None.
        options: options of the protocol.
    """

    workdir: Path
    config: Config
    metrics: Sequence[EpochMetric]
    evaluate: Callable[..., dict]
    split: str | None = None
    submit: Path | None = None
    protocol: Protocol | None = None
    options: dict = dataclasses.field(default_factory=dict)


def score(job: Job, name: str) -> list[dict]:
    """Score a data set, with and without its depth images, and print the results.

    Args:
        job: how the data set is scored.
        name: name of the data set, as in `data.test`.

    Returns:
        One dict per kind of input ("RGB-D", "RGB"), for `evaluation.json`.

    Raises:
        UserError: there is a mistake in the data set, the protocol or the file for the leaderboard.
    """
    config = job.config
    split = "test" if job.submit else job.split or config.data.test_split
    source = data.load(name, split, config.data, config.seed, models.hand_config(config))
    kinds = {"RGB-D": source, "RGB": WithoutDepth(source)} if source[0].depth is not None else {"RGB": source}
    submissions = {}
    if job.submit:
        files = {"RGB-D": job.submit.with_stem(f"{job.submit.stem}_rgbd"), "RGB": job.submit}
        submissions = {kind: Submission(name, source, files[kind]) for kind in kinds}
    records = _annotations(source)
    results = []
    print(f"{name}, {len(source)} hands:")
    for note in set_checks.check({name: source}, strict=config.data.strict):
        print(f"  Data check: {note}")
    for kind, records_of_kind in kinds.items():
        collector = PredictionCollector()
        found = job.evaluate(records_of_kind, collector.collect)
        kept = ("test_loss", *(metric.name for metric in job.metrics), *COUNTS)
        results.append({"data": name, "input": kind} | {key: found[key] for key in kept if key in found})
        _print(kind, found, job.metrics)
        if submissions:
            print(f"    {submissions[kind].write(collector, records)}")
        if job.protocol:
            folder = job.workdir / f"{job.protocol.name}_{name.partition(':')[0]}_{kind}"
            pair = to_protocol(job.protocol.name, collector, records, job.workdir, name)
            results[-1][job.protocol.name] = scoring.report(pair, job.options, folder).values
    if found["count"]:
        print("  Baselines, from the labels of this set:")
        print(f"    {baselines.own_line(stacked_joints(records))}")
    return results


def write(workdir: Path, report: dict) -> Path:
    """Write `evaluation.json` to the run folder; infinity becomes null, because JSON has no infinity.

    Args:
        workdir: run folder.
        report: dict for JSON.

    Returns:
        Path of the file.

    Raises:
        UserError: the file cannot be written.
    """
    report = json.loads(json.dumps(report), parse_constant=lambda _: None)
    path = workdir / "evaluation.json"
    try:
        path.write_text(json.dumps(report, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    return path


def _annotations(source: Source) -> list[Record]:
    """All labels of a source, without the images and depth images."""
    records = (read_annotation(source, i) for i in range(len(source)))
    return [dataclasses.replace(record, image=None, depth=None) for record in records]


def _print(kind: str, results: dict, metrics: Sequence[EpochMetric]) -> None:
    if results["count"]:
        first, *others = console_lines(metrics, results)
        print(f"  {kind}: {first}")
        for line in others:
            print(f"    {line}")
    else:
        print(f"  {kind}: not scored, because no hand has 3D labels; use --protocol hint to score 2D joints")
    if results["nonfinite"] or results["count"] and results["invalid"]:
        left_out = f"{results['invalid']} hands left out because of invalid labels"
        print(f"    {results['nonfinite']} predictions not finite, {left_out}")
