"""Write a run as files for other programs, or as a web page: `jaxhand export RUN OUT`; `--help` lists the options."""

import argparse

from jaxhand.io import console
from jaxhand.training import runtime

KINDS = ("stablehlo", "onnx")
_EXAMPLES = """examples:
  for JAX on a CPU, an NVIDIA or AMD GPU, or a TPU; the program needs neither jaxhand nor Flax:
    jaxhand export runs/quickstart exported
  for ONNX Runtime and other runtimes:
    jaxhand export runs/mediapipe exported --format onnx
  a web page that finds hands, in one file that works without a network:
    jaxhand export runs/mediapipe hands.html --web
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
    parser.add_argument("workdir", type=console.path, metavar="RUN", help="run folder of a trained or converted model")
    parser.add_argument(
        "out", type=console.output_path, metavar="OUT", help="folder to write the files into; with --web the HTML file"
    )
    parser.add_argument("--format", choices=KINDS, default=KINDS[0], help="form of the files (default: %(default)s)")
    parser.add_argument(
        "--half", action="store_true", help="store the weights in half precision: half the size; prints the error"
    )
    page = parser.add_argument_group("web page (docs/web.md)")
    page.add_argument("--web", action="store_true", help="write a web page, as one HTML file")
    page.add_argument("--folder", action="store_true", help="with --web: a folder for a static server")
    page.add_argument(
        "--detector", type=console.path, metavar="RUN", help="with --web: MediaPipe's networks, which find the hands "
        "for a run of another model (default: runs/mediapipe)",
    )  # fmt: skip
    arguments = parser.parse_args()
    if not arguments.web and (arguments.folder or arguments.detector):
        parser.error("--folder and --detector need --web")

    import jax

    jax.config.update("jax_platforms", "cpu")  # the check needs no accelerator, whose float32 sums may be coarser
    runtime.use_compilation_cache()
    from jaxhand.exporting import web_page, writing

    if arguments.web:
        detector = {"detector": arguments.detector} if arguments.detector else {}
        web_page.export(arguments.workdir, arguments.out, folder=arguments.folder, **detector)
    else:
        writing.export(arguments.workdir, arguments.out, arguments.format, half=arguments.half)
    return 0


if __name__ == "__main__":
    runtime.run(main)
