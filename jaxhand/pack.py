"""Pack a data set into a few files with checksums: `jaxhand pack NAME PATH OUT`.

The name of the packed set in a config is NAME:OUT. The same command continues after an interruption, and repairs
damaged files."""

import argparse
import typing

from jaxhand.io import console
from jaxhand.training import runtime

SPLITS = ("train", "val", "test")  # those of `data.pack`, which --help must not import


def main(argv: typing.Sequence[str] | None = None) -> int:
    """Parse the command line and pack the data set; returns the exit code."""
    how = "The same command continues after an interruption, and repairs damaged files."
    description = "Pack a data set into a few files with checksums. It is then read as NAME:OUT."
    parser = argparse.ArgumentParser(prog="jaxhand pack", description=description, epilog=how)
    parser.add_argument("name", metavar="NAME", help="such as freihand or dexycb-s1")
    parser.add_argument("path", type=console.path, metavar="PATH", help="folder or file of the data set")
    parser.add_argument("out", type=console.output_path, metavar="OUT", help="folder to pack into")
    parser.add_argument("--split", nargs="+", choices=SPLITS, default=(), help="default: all that the set has")
    parser.add_argument("--shard-size", type=int, default=16384, metavar="N", help="records per file (default: 16384)")
    parser.add_argument("--mano", default="", metavar="PATH", help="MANO_RIGHT.pkl or its folder: poses and meshes")
    arguments = parser.parse_args(argv)
    from jaxhand.data import pack

    options = {"splits": arguments.split, "shard_size": arguments.shard_size, "mano_path": arguments.mano}
    pack.pack(arguments.name, arguments.path, arguments.out, **options)
    return 0


if __name__ == "__main__":
    runtime.run(main)
