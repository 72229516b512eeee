"""Write images or a video of synthetic hands: `python -m jaxhand.data.synthetic --preview sheet.png`.

The command `jaxhand synthetic` does the same. With `--clip FILE` it writes a video, and has other options.
"""

import sys

from jaxhand.data.synthetic import clip, dataset


def main() -> int:
    """Run the command and return the exit status."""
    if any(argument.partition("=")[0] == "--clip" for argument in sys.argv[1:]):
        return clip.main()
    try:
        return dataset.main()
    finally:
        if {"-h", "--help"} & set(sys.argv[1:]):
            print("\na video instead: jaxhand synthetic --clip MP4; its options: jaxhand synthetic --clip MP4 --help")


if __name__ == "__main__":
    sys.exit(main())
