"""Convert data: `python -m jaxhand.convert data NAME PATH OUT` packs a set into a few files with checksums.

The set is then read as NAME:OUT. The same command goes on where it was interrupted, and mends what is damaged.
"""

import argparse

from jaxhand.data import pack
from jaxhand.training import runtime


def main() -> int:
    """Parse the command line and convert; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jaxhand.convert", description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="what", required=True)
    of_data = kinds.add_parser("data", help="pack a data set", description=pack.pack.__doc__.splitlines()[0])
    of_data.add_argument("name", metavar="NAME", help="such as freihand or dexycb-s1")
    of_data.add_argument("path", metavar="PATH", help="where the set is")
    of_data.add_argument("out", metavar="OUT", help="folder to pack into")
    of_data.add_argument("--split", nargs="+", choices=pack.SPLITS, default=(), help="default: all that the set has")
    of_data.add_argument("--shard-size", type=int, default=16384, metavar="N", help="records a file (default: 16384)")
    arguments = parser.parse_args()
    pack.pack(
        arguments.name, arguments.path, arguments.out, splits=arguments.split, shard_size=arguments.shard_size
    )
    return 0


if __name__ == "__main__":
    runtime.run(main)
