"""Score the best step of a run, or predictions that any program wrote to a file.

`python -m jaxhand.evaluate WORKDIR [--data NAME …]` prints MPJPE and PA-MPJPE in mm and writes them to
WORKDIR/evaluation.json. A set with depth is scored with it and without it. `--protocol freihand` counts as that
benchmark does as well; `--data ho3d:PATH --submit pred.zip` also writes the file that its leaderboard takes.
`python -m jaxhand.evaluate --predictions pred.zip --ground-truth FOLDER --protocol freihand` needs no run: it scores as
the benchmark's official code does, and writes scores.json and samples.csv.
"""

import argparse
import json
from pathlib import Path

from jaxhand.config import UserError
from jaxhand.evaluation import scoring
from jaxhand.evaluation.prediction_files import SUFFIXES
from jaxhand.metrics import MESH_METRICS, baselines
from jaxhand.training import runtime


def main() -> int:
    """Parse the command line, test, print and write the results; the exit code."""
    description, *usage = __doc__.strip().split("\n\n")
    how = argparse.RawDescriptionHelpFormatter
    name = "jaxhand evaluate"
    usage = "\n".join([*usage, "\nArrays of a protocol, by their names in an .npz:", *scoring.described()])
    parser = argparse.ArgumentParser(prog=name, description=description, epilog=usage, formatter_class=how)
    run = parser.add_argument_group("the best step of a run")
    run.add_argument("workdir", type=Path, nargs="?", help="run folder")
    names = "synthetic, NAME:PATH such as ho3d:PATH, or module:function:PATH (default: the run's test set)"
    run.add_argument("--data", nargs="+", metavar="NAME", help=names)
    submit = "the leaderboard's: pred.zip or pred.json, of DexYCB .txt; with depth also FILE_rgbd"
    run.add_argument("--submit", type=Path, metavar="FILE", help=submit)
    run.add_argument("--split", choices=("train", "val", "test"), help="default: the run's data.test_split")
    files = parser.add_argument_group("predictions in a file")
    files.add_argument("--predictions", type=Path, metavar="FILE", help=SUFFIXES)
    files.add_argument("--ground-truth", type=Path, metavar="PATH", help="the same, or a folder of *_xyz.json")
    files.add_argument("--output", type=Path, metavar="FOLDER", help="default: beside the predictions")
    both = parser.add_argument_group("how a benchmark counts, for either")
    both.add_argument("--protocol", metavar="NAME", help=", ".join(scoring.PROTOCOLS))
    both.add_argument("--option", nargs="+", default=[], metavar="KEY=VALUE", help="of the protocol, see below")
    arguments = parser.parse_args()
    of_run = [arguments.workdir, arguments.data, arguments.submit, arguments.split]
    of_files = [arguments.predictions, arguments.ground_truth]
    if any(of_run) and any([*of_files, arguments.output]):
        raise UserError("a run folder with --data, --submit is one way to score, --predictions another: give one")
    if any(of_files) and not all([*of_files, arguments.protocol]):
        names = ", ".join(scoring.PROTOCOLS)
        raise UserError(f"--predictions, --ground-truth and --protocol go together (protocols: {names})")
    if not arguments.workdir and not any(of_files):
        raise UserError("give a run folder, or --predictions, --ground-truth and --protocol; --help says more")
    if arguments.option and not arguments.protocol:
        raise UserError("--option is of a protocol: give --protocol NAME")
    if arguments.submit and len(arguments.data or [""]) > 1:
        raise UserError("--submit writes the file of one set: give one --data")
    if arguments.submit and arguments.split not in (None, "test"):
        raise UserError(f"--submit writes the file of the test split: leave out --split {arguments.split}")
    if arguments.workdir and arguments.workdir.is_file():
        usage = f"--predictions {arguments.workdir} --ground-truth PATH --protocol NAME"
        raise UserError(f"{arguments.workdir} is a file, not the folder of a run; to score predictions: {usage}")
    runtime.use_compilation_cache()
    (_score_files if any(of_files) else _score_run)(arguments)
    return 0


def _score_files(arguments) -> None:
    """Score a file of predictions by a protocol."""
    protocol = scoring.protocol_of(arguments.protocol)
    options = scoring.options_of(protocol, arguments.option)
    print(f"Reading {arguments.predictions} and {arguments.ground_truth}", flush=True)
    pair = scoring.load_pair(arguments.predictions, arguments.ground_truth, protocol)
    for warning in pair.warnings:
        print(f"warning: {warning}", flush=True)
    predictions = arguments.predictions
    folder = arguments.output or predictions.with_name(f"{predictions.stem}_{protocol.name}")
    scoring.make_folder(folder)
    scores = protocol.score(pair.pred, pair.gt, **options)
    print(scoring.table(pair, scores))
    print("Written to " + " and ".join(map(str, scoring.write(pair, scores, options, folder))))


def _score_run(arguments) -> None:
    """Score the best step of a run on data sets; its imports are here, they would double the start of the files'."""
    from jaxhand.training import testing

    tester, best = testing.load_best(arguments.workdir)
    origin = best.meta.get("converted", {}).get("file")
    found = f"weights of {origin}" if origin else f"Epoch {best.meta['epoch']}, step {best.step}"
    print(f"Best model of {arguments.workdir}: {found}")
    results = []
    for name in arguments.data or [best.config.data.test]:
        results += _score_data(name, tester, best, arguments)
    report = {"workdir": str(arguments.workdir), "step": best.step, "epoch": best.meta["epoch"], "results": results}
    report = json.loads(json.dumps(report), parse_constant=lambda _: None)  # JSON has no infinity
    path = arguments.workdir / "evaluation.json"
    try:
        path.write_text(json.dumps(report, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    print(f"Written to {path}")


def _score_data(name: str, tester, best, arguments) -> list[dict]:
    """Score one data set, with and without its depth, and write a leaderboard's file of each where it is asked for."""
    from jaxhand import data, models
    from jaxhand.data.record import WithoutDepth, sample_joints
    from jaxhand.evaluation.run_predictions import Gathered
    from jaxhand.evaluation.submission import Submission
    from jaxhand.training.testing import batches_of, mesh_line, run_test

    config, submit = best.config.data, arguments.submit
    protocol = arguments.protocol and scoring.protocol_of(arguments.protocol)
    options = scoring.options_of(protocol, arguments.option) if protocol else {}
    split = "test" if submit else arguments.split or config.test_split
    source = data.load(name, split, config, best.config.seed, models.hand_config(best.config))
    kinds = {"RGB-D": source, "RGB": WithoutDepth(source)} if source[0].depth is not None else {"RGB": source}
    files = {"RGB-D": submit.with_stem(f"{submit.stem}_rgbd"), "RGB": submit} if submit else {}
    submissions = {kind: Submission(name, source, files[kind]) for kind in kinds if submit}
    results = []
    print(f"{name}, {len(source)} hands:")
    for kind, records in kinds.items():
        gathered = submissions[kind].gathered if submit else Gathered(source)
        scores, _ = run_test(tester, best.params, best.rest, batches_of(records, tester), collect=gathered.collect)
        kept = ("test_loss", "mpjpe", "pa_mpjpe", "avg_metric", *MESH_METRICS, "count", "nonfinite", "invalid")
        results.append({"data": name, "input": kind} | {key: scores[key] for key in kept if key in scores})
        if scores["count"]:
            print(
                f"  {kind}: MPJPE: {scores['mpjpe']:.3f} mm, PA-MPJPE: {scores['pa_mpjpe']:.3f} mm, "
                f"Avg Metric: {scores['avg_metric']:.3f} mm"
            )
            if mesh_line(scores):
                print(f"    {mesh_line(scores)}")
        else:
            print(f"  {kind}: not scored, no hand has joints in 3D as ground truth; --protocol hint scores 2D joints")
        if scores["nonfinite"] or scores["count"] and scores["invalid"]:
            left_out = f"{scores['invalid']} hands left out for their labels"
            print(f"    {scores['nonfinite']} predictions not finite, {left_out}")
        if submit:
            print(f"    {submissions[kind].write()}")
        if protocol:
            folder = arguments.workdir / f"{protocol.name}_{name.partition(':')[0]}_{kind}"
            results[-1][protocol.name] = _by_protocol(protocol, options, gathered, name, folder)
    if scores["count"]:
        joints, valid = sample_joints(source, len(source))
        rigid_hand = baselines.rigid_hand(joints, joints, valid, valid)
        mean_pose = baselines.mean_pose(joints, joints, valid, valid)
        print("  Baselines, from this set's own labels:")
        print(f"    mean pose: MPJPE: {mean_pose:.3f} mm; one rigid hand, aligned: PA-MPJPE: {rigid_hand:.3f} mm")
    return results


def _by_protocol(protocol, options: dict, gathered, name: str, folder: Path) -> dict[str, float]:
    """Print and write what a run scores by a protocol; its official numbers."""
    from jaxhand.evaluation.run_predictions import pair

    found = pair(protocol.name, gathered, folder.parent, name)
    for warning in found.warnings:
        print(f"warning: {warning}")
    scores = protocol.score(found.pred, found.gt, **options)
    print(scoring.table(found, scores))
    print("Written to " + " and ".join(map(str, scoring.write(found, scores, options, folder))))
    return scores.values


if __name__ == "__main__":
    runtime.run(main)
