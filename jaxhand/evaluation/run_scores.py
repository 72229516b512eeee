"""Compute the scores of a run on data sets, print them, and write them to the run folder."""

import contextlib
import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxhand import data, models
from jaxhand.config import Config
from jaxhand.data import set_checks
from jaxhand.data.record import Record, Source, WithoutDepth, read_annotation, stacked_joints
from jaxhand.evaluation import scoring
from jaxhand.evaluation.prediction_files import draft_of
from jaxhand.evaluation.run_predictions import PredictionCollector, to_protocol
from jaxhand.evaluation.submission import Submission
from jaxhand.io import output_files
from jaxhand.metrics import baselines
from jaxhand.metrics.epoch import COUNTS, EpochMetric, console_lines, sample_errors
from jaxhand.metrics.protocols import Protocol

OF_RUN = ("workdir", "step", "epoch")  # what a result in evaluation.json says about its run
NAMES = 5  # names of hands in a line about what is left out, at most


@dataclasses.dataclass(frozen=True)
class Job:
    """Settings for scoring data sets.

    Attributes:
        workdir: run folder.
        output: folder for the scores of a protocol; None: they are only printed.
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
    output: Path | None
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
        about = {"data": name, "split": split, "input": kind, "protocol": job.protocol and job.protocol.name}
        results.append(about | {key: found[key] for key in kept if key in found})
        _print(kind, found, job.metrics, records)
        if submissions:
            print(f"    {submissions[kind].write(collector, records)}")
        if job.protocol:
            pair = to_protocol(job.protocol.name, collector, records, job.workdir, name)
            folder = job.output and _scores_folder(job.output, f"{name.partition(':')[0]}_{kind}", pair)
            results[-1][job.protocol.name] = scoring.report(pair, job.options, folder).values
    if found["count"]:
        print("  Baselines, from the labels of this set:")
        print(f"    {baselines.own_line(stacked_joints(records))}")
        for result in results:
            if warning := baselines.warning(result["mpjpe"], baselines.mean_pose_of(*2 * [stacked_joints(records)])):
                print(f"  {result['input']}: {warning}")
    return results


def output_folder(workdir: Path, chosen: Path | None) -> Path | None:
    """The folder for the results of a run: the chosen one, else the run folder, or None if that is read-only.

    Raises:
        UserError: the chosen folder cannot be made, or is not writable.
    """
    if chosen is not None:
        scoring.make_folder(chosen)
        return chosen
    return workdir if os.access(workdir, os.W_OK) or not workdir.is_dir() else None


def write(folder: Path, about: dict, results: list[dict]) -> Path:
    """Write `evaluation.json`. Earlier results stay in it, except those of the same run, data set, split and
    protocol. A file that cannot be understood is renamed.

    Infinity becomes null, because JSON has no infinity.

    Args:
        folder: the run folder, or another one.
        about: `workdir`, `step` and `epoch` of the run; they are also added to each result.
        results: the results, see `score`. They come first in the file.

    Returns:
        Path of the file.

    Raises:
        UserError: the file cannot be written.
    """
    path = folder / "evaluation.json"
    results = [result | {key: about[key] for key in OF_RUN} for result in results]
    kept = [old for old in _earlier(path) if not any(_same_question(old, new) for new in results)]
    report = json.loads(json.dumps(about | {"results": results + kept}), parse_constant=lambda _: None)
    with draft_of(path) as draft:
        draft.write_text(json.dumps(report, indent=2) + "\n")
    return path


def _earlier(path: Path) -> list[dict]:
    """The results in an `evaluation.json`, or none if there is no such file; each with the step that it is of."""
    try:
        report = json.loads(path.read_text())
        return [{key: report[key] for key in OF_RUN} | result for result in report["results"]]
    except OSError:  # no such file; one that cannot be read cannot be written either, which `write` reports
        return []
    except (ValueError, KeyError, TypeError, RecursionError):
        aside = path.with_name(f"{path.name}.damaged")
        with contextlib.suppress(OSError):
            output_files.keep_aside(aside)
            os.replace(path, aside)
            print(f"{path} is damaged or of another program: it is now {aside}")
        return []


def _same_question(old: dict, new: dict) -> bool:
    """Whether two results are of the same run, data set, split, input and protocol. Old results lack some of these."""
    keys = ("workdir", "data", "split", "input", "protocol")
    return all(old.get(key, new[key]) == new[key] for key in keys)


def _scores_folder(output: Path, name: str, pair: scoring.Pair) -> Path:
    """The folder for the scores of a protocol; a number is appended if one has those of another run or data set."""
    name = f"{pair.protocol.name}_{name}"
    for folder in itertools.chain([output / name], (output / f"{name}_{number}" for number in itertools.count(2))):
        try:
            old = json.loads((folder / "scores.json").read_text())
            same = [*old["predictions"], *old["ground_truth"]] == [str(pair.pred_files[0]), str(pair.gt_files[0])]
        except OSError:
            same = True  # no scores
        except (ValueError, KeyError, TypeError):
            same = False  # damaged, or of another program
        if same:
            return folder
    raise AssertionError("the numbers do not end")


def _annotations(source: Source) -> list[Record]:
    """All labels of a source, without the images and depth images."""
    records = (read_annotation(source, i) for i in range(len(source)))
    return [dataclasses.replace(record, image=None, depth=None) for record in records]


def _print(kind: str, results: dict, metrics: Sequence[EpochMetric], records: list[Record]) -> None:
    if results["count"]:
        first, *others = console_lines(metrics, results)
        print(f"  {kind}: {first}")
        for line in others:
            print(f"    {line}")
    else:
        print(f"  {kind}: not scored, because no hand has 3D labels; use --protocol hint to score 2D joints")
    if results["nonfinite"] or results["count"] and results["invalid"]:
        left_out = f"{results['invalid']} hands left out because of invalid labels{_unusable(records)}"
        print(f"    {results['nonfinite']} predictions not finite, {left_out}")


def _unusable(records: list[Record]) -> str:
    """The names of the first hands without a usable 3D label, in brackets; empty if there are none."""
    joints, valid = (
        jnp.asarray([getattr(each, key) for each in records], jnp.float32) for key in ("keypoints_3d", "joint_valid")
    )
    usable = sample_errors(joints, joints, valid, metrics=())[1]
    names = [records[row].name for row in np.flatnonzero(~np.asarray(usable))]
    return f" ({', '.join(names[:NAMES])}{', …' if len(names) > NAMES else ''})" if names else ""
