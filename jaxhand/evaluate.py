"""Score the best step of a run: `python -m jaxhand.evaluate WORKDIR [--data NAME …]`.

Prints MPJPE and PA-MPJPE in mm and writes them to WORKDIR/evaluation.json. A set with depth is scored with it and
without it.
"""

import argparse
import json
from pathlib import Path

from jaxhand import data
from jaxhand.config import UserError
from jaxhand.data.record import WithoutDepth, labels
from jaxhand.metrics import baselines
from jaxhand.training import runtime
from jaxhand.training.testing import batches_of, load_best, run_test


def main() -> int:
    """Parse the command line, test, print and write the results; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jaxhand.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=Path, help="run folder")
    names = "synthetic or folder:PATH (default: the run's test set)"
    parser.add_argument("--data", nargs="+", metavar="NAME", help=names)
    arguments = parser.parse_args()
    runtime.use_compilation_cache()
    tester, best = load_best(arguments.workdir)
    print(f"Best model of {arguments.workdir}: Epoch {best.meta['epoch']}, step {best.step}")
    results = []
    for name in arguments.data or [best.config.data.test]:
        results += _evaluate(name, tester, best)
    report = {"workdir": str(arguments.workdir), "step": best.step, "epoch": best.meta["epoch"], "results": results}
    report = json.loads(json.dumps(report), parse_constant=lambda _: None)  # JSON has no infinity
    path = arguments.workdir / "evaluation.json"
    try:
        path.write_text(json.dumps(report, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    print(f"Written to {path}")
    return 0


def _evaluate(name: str, tester, best) -> list[dict]:
    """Score one data set, with and without its depth."""
    config = best.config.data
    source = data.load(name, config.test_split, config, best.config.seed)
    kinds = {"RGB-D": source, "RGB": WithoutDepth(source)} if source[0].depth is not None else {"RGB": source}
    joints, valid = labels(source, len(source))
    rigid_hand = baselines.rigid_hand(joints, joints, valid, valid)
    mean_pose = baselines.mean_pose(joints, joints, valid, valid)
    results = []
    print(f"{name}, {len(source)} hands:")
    for kind, records in kinds.items():
        scores, _ = run_test(tester, best.params, best.rest, batches_of(records, tester))
        kept = ("test_loss", "mpjpe", "pa_mpjpe", "avg_metric", "count", "nonfinite", "invalid")
        results.append({"data": name, "input": kind} | {key: scores[key] for key in kept})
        print(
            f"  {kind}: MPJPE: {scores['mpjpe']:.3f} mm, PA-MPJPE: {scores['pa_mpjpe']:.3f} mm, "
            f"Avg Metric: {scores['avg_metric']:.3f} mm"
        )
        if scores["nonfinite"] or scores["invalid"]:
            print(f"    {scores['nonfinite']} predictions not finite, {scores['invalid']} hands left out for their labels")
    print("  Baselines, from this set's own labels:")
    print(f"    mean pose: MPJPE: {mean_pose:.3f} mm; one rigid hand, aligned: PA-MPJPE: {rigid_hand:.3f} mm")
    return results


if __name__ == "__main__":
    runtime.run(main)
