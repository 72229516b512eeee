"""Check a data set before training on it: `jaxhand inspect NAME PATH [--sheet FILE.png]`.

The command prints the content of each split, missing or unreadable files, and implausible labels. Exit code: 0 if the
data set is complete and plausible, 1 if not, 2 after an error.
"""

import argparse
import sys
import typing

from jaxhand.config import UserError
from jaxhand.io import console
from jaxhand.training import runtime

SPLITS = ("train", "val", "test")  # those of `data.inspect`, which --help must not import


def main(argv: typing.Sequence[str] | None = None) -> int:
    """Parse the command line, check the data set and print the faults; returns the exit code."""
    parser = argparse.ArgumentParser(prog="jaxhand inspect", description=__doc__)
    parser.add_argument("name", metavar="NAME", help="data set, such as freihand, dexycb-s1 or module:function")
    parser.add_argument(
        "path", type=console.path, metavar="PATH", help="folder or file of the data set, as downloaded or packed"
    )
    parser.add_argument(
        "--split", nargs="+", choices=SPLITS, default=(), help="splits to check (default: all that the set has)"
    )
    sheet = "write a picture of some hands with their labels"
    parser.add_argument("--sheet", type=console.output_file(".png"), metavar="FILE.png", help=sheet)
    parser.add_argument("--all", action="store_true", help="decode every image (default: some of each split)")
    parser.add_argument("--part", action="store_true", help="the set is meant to be smaller than the published one")
    arguments = parser.parse_args(argv)
    from jaxhand.data.inspect import inspect  # imported here, so that --help needs no JAX

    options = {"splits": arguments.split, "sheet": arguments.sheet, "decode_all": arguments.all, "part": arguments.part}
    try:
        faults = inspect(arguments.name, arguments.path, **options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(*(faults or ["Complete: every image exists, and nothing is doubtful."]), sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    runtime.run(main)
