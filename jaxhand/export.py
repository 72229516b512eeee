"""Write the networks of a run as files for other programs: `jaxhand export RUN OUT`; `--help` lists the options."""

import argparse
from pathlib import Path

from jaxhand.training import runtime

KINDS = ("stablehlo", "onnx")
_EXAMPLES = """examples:
  for JAX on a CPU, an NVIDIA or AMD GPU, or a TPU; the program needs neither jaxhand nor Flax:
    jaxhand export runs/quickstart exported
  for ONNX Runtime and other runtimes:
    jaxhand export runs/mediapipe exported --format onnx
docs/export.md shows how to load the files.
"""


def main() -> int:
    """Parse the command line and write the files; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="jaxhand export",
        description="Write the networks of a run as files for other programs, for any batch size. Every file is\n"
        "compared with the run before it gets its name. metadata.json says how to cut a crop, units and joints.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workdir", type=Path, metavar="RUN", help="run folder of a trained or converted model")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write the files into")
    parser.add_argument("--format", choices=KINDS, default=KINDS[0], help="form of the files (default: %(default)s)")
    parser.add_argument(
        "--half", action="store_true", help="store the weights in half precision: half the size; prints the error"
    )
    arguments = parser.parse_args()

    import jax

    jax.config.update("jax_platforms", "cpu")  # the check needs no accelerator, whose float32 sums may be coarser
    runtime.use_compilation_cache()
    from jaxhand.exporting import writing

    writing.export(arguments.workdir, arguments.out, arguments.format, half=arguments.half)
    return 0


if __name__ == "__main__":
    runtime.run(main)
