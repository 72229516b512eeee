"""The command `jaxhand COMMAND …`: it runs the same functions as `python -m jaxhand.COMMAND`.

A command's module is imported when the command is called, so that `jaxhand --help` is quick.
"""

import difflib
import importlib
import sys

import jaxhand
from jaxhand.io import console

COMMANDS = {  # name of a command → (module with its `main`, description)
    "train": ("jaxhand.train", "train a network; without a config, the quickstart"),
    "evaluate": ("jaxhand.evaluate", "score a run on data sets, or score a file of predictions"),
    "report": ("jaxhand.report", "write a page about one or more runs, with curves, tables and hands in 3D"),
    "predict": ("jaxhand.predict", "predict the hands in photographs or a video with a trained run"),
    "synthetic": ("jaxhand.data.synthetic.__main__", "draw synthetic training images, or a video of hands that move"),
    "synthetic-photo": ("jaxhand.data.synthetic.photo_preview", "draw a page of photograph-like training images"),
    "inspect": ("jaxhand.inspect", "check a data set before training on it"),
    "pack": ("jaxhand.pack", "pack a data set into a few files with checksums"),
    "convert": ("jaxhand.convert", "convert released weights of HaMeR, WiLoR, ViTPose or MediaPipe into a run"),
    "export": ("jaxhand.export", "write the networks of a run as files for other programs: StableHLO or ONNX"),
    "summary": ("jaxhand.summary", "count parameters, FLOPs and activations; estimate the cost on many devices"),
}


def usage() -> str:
    """The text of `jaxhand --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: jaxhand COMMAND …",
            "",
            "Train, evaluate and run networks for 3D hand pose from colour and depth images.",
            "",
            "commands:",
            *lines,
            "",
            "`jaxhand COMMAND --help` explains a command; `jaxhand --version` prints the version.",
        ]
    )


def main() -> None:
    """Run the command in `sys.argv[1]`, and exit with its exit code."""
    console.prepare()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help", "help"):
        print(usage())
    elif name == "--version":
        print(f"jaxhand {jaxhand.__version__}")
    elif name in COMMANDS:
        from jaxhand.training import runtime

        del sys.argv[1]
        runtime.run(importlib.import_module(COMMANDS[name][0]).main)
    else:
        nearest = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"commands: {', '.join(COMMANDS)}"
        print(f"error: unknown command {name!r}; {hint}", file=sys.stderr)
        sys.exit(2)
