"""Write a report of one or more runs: one HTML file with curves, metrics, tables and hands in 3D.

`jaxhand report RUN` predicts the run's test set and writes RUN/report.html, which opens without a network connection.
`jaxhand report RUN RUN` compares runs on the test set of the first one: hand by hand, with 95 % intervals.
"""

import argparse
import typing
from pathlib import Path

from jaxhand.io import console, output_files
from jaxhand.training import runtime

if typing.TYPE_CHECKING:
    from jaxhand.evaluation.report.measured import Measured


def main() -> int:
    """Parse the command line, measure the runs and write the page; returns the exit code."""
    description, usage = (__doc__ or "").strip().split("\n\n")
    parser = argparse.ArgumentParser(prog="jaxhand report", description=description, epilog=usage)
    parser.add_argument("workdir", type=console.path, nargs="+", metavar="RUN", help="run folder")
    names = "synthetic, NAME:PATH such as ho3d:PATH, or module:function:PATH (default: the first run's test set)"
    parser.add_argument("--data", metavar="NAME", help=names)
    parser.add_argument("--split", choices=("train", "val", "test"), help="default: the first run's data.test_split")
    out = "HTML file (default: report.html in the first run folder)"
    parser.add_argument("--out", type=console.output_file(".html", ".htm"), metavar="FILE", help=out)
    arguments = parser.parse_args()

    runtime.use_compilation_cache()
    from jaxhand.evaluation.report import page  # imported here, so that --help needs no JAX

    out = arguments.out or arguments.workdir[0] / "report.html"
    output_files.check_own(out, page.MARK)
    found, name, split = [], arguments.data, arguments.split
    for workdir in arguments.workdir:
        with console.patience(f"Predicting the hands of {workdir}; this can take some minutes"):
            found.append(measure(workdir, name, split))
        name, split = found[0].data, found[0].split
    print(f"Written to {page.write(found, out)}")
    return 0


def measure(workdir: Path, name: str | None = None, split: str | None = None) -> "Measured":
    """Predict a data set with the best checkpoint of a run; see `jaxhand.evaluation.report.measured.of_run`.

    Args:
        workdir: run folder.
        name: data set, as in `data.test`; None: that of the run.
        split: of the data set; None: that of the run.

    Raises:
        UserError: the folder contains no run, or the data set cannot be read or has no 3D labels.
    """
    import jax

    from jaxhand.evaluation.report import measured
    from jaxhand.training import eval_loop

    eval_model, best = eval_loop.load_best(workdir, metrics=())

    def evaluate(source, collect) -> None:
        batches = eval_loop.batches_of(source, eval_model)
        eval_loop.evaluate_dataset(eval_model, best.params, best.rest, batches, collect=collect)

    parameters = sum(leaf.size for leaf in jax.tree.leaves(best.params))
    meta = best.meta | {"step": best.step}
    return measured.of_run(workdir, measured.EvaluatedModel(best.config, meta, parameters, evaluate), name, split)


if __name__ == "__main__":
    runtime.run(main)
