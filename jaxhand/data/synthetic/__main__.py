"""Write images or a video of synthetic hands: `python -m jaxhand.data.synthetic --preview sheet.png`.

The command `jaxhand synthetic` does the same. With `--clip FILE` it writes a video, and has other options.
"""

import sys

from jaxhand.data.synthetic import clip, dataset


def main() -> int:
    """Run the command and return the exit status."""
    is_clip = any(argument.partition("=")[0] == "--clip" for argument in sys.argv[1:])
    if not is_clip and {"-h", "--help"} & set(sys.argv[1:]):
        print("A video instead of images: --clip MP4; its options: --clip MP4 --help\n")
    return (clip if is_clip else dataset).main()


if __name__ == "__main__":
    sys.exit(main())
