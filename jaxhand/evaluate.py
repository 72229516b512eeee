"""Score the best checkpoint of a run, or a file of predictions that any program wrote.

`jaxhand evaluate WORKDIR [--data NAME …]` prints MPJPE and PA-MPJPE in mm and writes them to WORKDIR/evaluation.json,
which keeps the results of other data sets, splits and protocols. `--output FOLDER` writes to another folder. A set with
depth images is scored twice: with depth and without. `--metrics cs_mpjpe pa_auc` adds metrics. `--protocol freihand`
adds the scores of that benchmark's rules. `--data ho3d:PATH --submit pred.zip` also writes the file for the benchmark's
leaderboard.

`jaxhand evaluate WORKDIR --data folder:PATH --split train --fit-joint-mix OUT` fits, for models "mediapipe" and
"photo_net", the linear mix from the joints of the network to the labelled joints of a data set, and writes the network
with this mix to a new run folder.

`jaxhand evaluate --predictions pred.zip --ground-truth FOLDER --protocol freihand` needs no run. It computes the same
scores as the benchmark's official code, and writes scores.json and samples.csv.
"""

import argparse
import math
import typing

from jaxhand.config import UserError
from jaxhand.io import console, output_files
from jaxhand.training import runtime

if typing.TYPE_CHECKING:
    from jaxhand.evaluation import scoring

# Copies of `prediction_files.SUFFIXES` and of what `scoring.described()` returns, so that --help needs no JAX.
SUFFIXES = "pred.json, pred.zip, .txt or .csv in DexYCB's format, .npz, .npy"
PROTOCOLS = """\
  freihand: predictions xyz, [verts]; ground truth xyz, [verts]; metres, 21 joints; imitate_missing_scale=False
  ho3d: predictions xyz, [verts]; ground truth xyz, [verts]; metres, 21 joints; imitate_missing_scale=False
  dexycb: predictions joints; ground truth joints; millimetres, 21 joints
  interhand: predictions joints, [rel_root], [hand_type]; ground truth joints, joint_valid, hand_type, \
[hand_type_valid]; millimetres, 42 joints; averaging=interhand
  hamer: predictions keypoints_3d; ground truth keypoints_3d; metres, 21 joints; keypoint_list=None
  hint: predictions keypoints_2d; ground truth keypoints_2d, box_size; px, 21 joints"""
_NAMES = ", ".join(line.strip().partition(":")[0] for line in PROTOCOLS.splitlines())


def main() -> int:
    """Parse the command line, score, print and write the results; returns the exit code."""
    arguments = _parser().parse_args()
    _check(arguments)
    from jaxhand.evaluation import scoring  # imported here, so that --help and wrong arguments need no JAX

    protocol = scoring.protocol_of(arguments.protocol) if arguments.protocol else None
    options = scoring.options_of(protocol, arguments.option) if protocol else {}
    runtime.use_compilation_cache()
    if arguments.fit_joint_mix:
        from jaxhand.training.adaptation import fit_joint_mix

        [name] = arguments.data
        of_set = name, arguments.split or "train"
        ridges = {"ridge": arguments.ridge, "ridge_2d": arguments.ridge_2d}
        out = fit_joint_mix(arguments.workdir, *of_set, arguments.fit_joint_mix, **ridges)
        print(f"Written to {out}; start a training from it with training.init_from={out}")
    elif arguments.predictions:
        assert protocol is not None, "`_check` requires it"
        if arguments.report:
            from jaxhand.evaluation.report import measured, page

            output_files.check_own(arguments.report, page.MARK)
        files = arguments.predictions, arguments.ground_truth
        pair, _ = scoring.score_files(*files, protocol, options, arguments.output)
        if arguments.report:
            print(f"Written to {page.write([measured.of_pair(pair)], arguments.report)}")
    else:
        _score_run(arguments, protocol, options)
    return 0


def _parser() -> argparse.ArgumentParser:
    description, *usage = (__doc__ or "").strip().split("\n\n")
    usage = "\n".join([*usage, "\nArrays of a protocol, by their names in an .npz:", PROTOCOLS])
    parser = argparse.ArgumentParser(
        prog="jaxhand evaluate",
        description=description,
        epilog=usage,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run = parser.add_argument_group("the best checkpoint of a run")
    run.add_argument("workdir", type=console.path, nargs="?", help="run folder")
    names = "synthetic, NAME:PATH such as ho3d:PATH, or module:function:PATH (default: the run's test set)"
    run.add_argument("--data", nargs="+", metavar="NAME", help=names)
    metrics = "cs_mpjpe, pa_auc or MODULE:NAME (default: the run's training.metrics)"
    run.add_argument("--metrics", nargs="+", metavar="NAME", help=metrics)
    submit = "write the file for the leaderboard: pred.zip or pred.json, for DexYCB .txt; with depth also FILE_rgbd"
    run.add_argument("--submit", type=console.output_path, metavar="FILE", help=submit)
    run.add_argument("--split", choices=("train", "val", "test"), help="default: the run's data.test_split")
    fit = "fit the mix of joints on --data, and write the network with it to a new run folder"
    run.add_argument("--fit-joint-mix", type=console.output_path, metavar="OUT", help=fit)
    ridge = "how strongly the mix is drawn to the identity (default: 0.1; before a training 1)"
    run.add_argument("--ridge", type=float, default=0.1, metavar="NUMBER", help=ridge)
    run.add_argument("--ridge-2d", type=float, metavar="NUMBER", help="the same for joints in px (default: --ridge)")
    files = parser.add_argument_group("predictions in a file")
    files.add_argument("--predictions", type=console.path, metavar="FILE", help=SUFFIXES)
    labels = "as --predictions, or a folder of *_xyz.json"
    files.add_argument("--ground-truth", type=console.path, metavar="PATH", help=labels)
    both = parser.add_argument_group("for a run or a file")
    output = "where the results are written (default: the run folder, or next to the predictions)"
    both.add_argument("--output", type=console.output_path, metavar="FOLDER", help=output)
    files.add_argument(
        "--report",
        type=console.output_file(".html", ".htm"),
        metavar="FILE",
        help="also write a page with charts and tables, HTML",
    )
    both.add_argument("--protocol", metavar="NAME", help=f"rules of a benchmark: {_NAMES}")
    both.add_argument("--option", nargs="+", default=[], metavar="KEY=VALUE", help="option of the protocol, see below")
    return parser


def _check(arguments: argparse.Namespace) -> None:
    """Raise a UserError if arguments are missing or contradict each other."""
    of_run = [arguments.workdir, arguments.data, arguments.metrics, arguments.submit, arguments.split]
    of_files = [arguments.predictions, arguments.ground_truth]
    if any(of_run) and any(of_files):
        raise UserError("give either a run folder (with --data, --submit, …) or --predictions, not both")
    if any(of_files) and not all([*of_files, arguments.protocol]):
        raise UserError(f"--predictions, --ground-truth and --protocol must be given together (protocols: {_NAMES})")
    if not arguments.workdir and not any(of_files):
        raise UserError("give a run folder, or --predictions, --ground-truth and --protocol; --help explains them")
    if arguments.report and not arguments.predictions:
        raise UserError("--report is for --predictions; the report of a run is written by jaxhand report RUN")
    if arguments.option and not arguments.protocol:
        raise UserError("--option: has no effect without a protocol; add --protocol NAME")
    if arguments.submit and len(arguments.data or [""]) > 1:
        raise UserError("--submit: writes predictions for one data set only; give one NAME after --data")
    if arguments.fit_joint_mix and not (arguments.workdir and len(arguments.data or []) == 1):
        raise UserError("--fit-joint-mix needs a run folder and one --data to fit on, such as --data folder:PATH")
    for name, ridge in (("--ridge", arguments.ridge), ("--ridge-2d", arguments.ridge_2d or 0)):
        if not 0 <= ridge < math.inf:
            raise UserError(f"{name} must be at least 0 and finite, got {ridge}")
    if arguments.submit and arguments.split not in (None, "test"):
        raise UserError(f"--submit: writes predictions for the test split only; leave out --split {arguments.split}")
    if arguments.workdir and arguments.workdir.is_file():
        usage = f"--predictions {arguments.workdir} --ground-truth PATH --protocol NAME"
        raise UserError(f"{arguments.workdir}: is a file, not a run folder; to score a file of predictions: {usage}")


def _score_run(arguments: argparse.Namespace, protocol: "scoring.Protocol | None", options: dict) -> None:
    """Score the best checkpoint of a run on data sets."""
    # Imported here, because these imports would double the start-up time of scoring a file of predictions.
    from jaxhand.evaluation import run_scores
    from jaxhand.training import eval_loop

    workdir = arguments.workdir
    output = run_scores.output_folder(workdir, arguments.output)
    with console.patience("Loading the model; this can take a minute"):
        eval_model, best = eval_loop.load_best(workdir, metrics=arguments.metrics)

    def evaluate(source, collect) -> dict:
        batches = eval_loop.batches_of(source, eval_model)
        return eval_loop.evaluate_dataset(eval_model, best.params, best.rest, batches, collect=collect)[0]

    origin = best.meta.get("converted", {}).get("file")
    found = f"weights of {origin}" if origin else f"Epoch {best.meta['epoch']}, step {best.step}"
    print(f"Best model of {workdir}: {found}")
    chosen = {"split": arguments.split, "submit": arguments.submit, "protocol": protocol, "options": options}
    job = run_scores.Job(workdir, output, best.config, eval_model.metrics, evaluate, **chosen)
    results = [result for name in arguments.data or [best.config.data.test] for result in run_scores.score(job, name)]
    if output is None:
        print(f"Not written: {workdir} is read-only; --output FOLDER writes the results to another folder")
    else:
        at = {"step": best.step, "epoch": best.meta["epoch"]}
        print(f"Written to {run_scores.write(output, {'workdir': str(workdir)} | at, results)}")


if __name__ == "__main__":
    runtime.run(main)
