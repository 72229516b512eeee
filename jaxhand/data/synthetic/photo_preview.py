"""Write a sheet of photograph-like renders.

`jaxhand synthetic-photo --preview sheet.png`
"""

import argparse
import sys
import typing

from jaxhand.config import UserError
from jaxhand.data.synthetic import backgrounds, photo, photo_render
from jaxhand.data.synthetic.photo_scene import PARTS
from jaxhand.hand import draw
from jaxhand.hand.camera import project
from jaxhand.io import console, output_files

MARK = b"jaxhand synthetic-photo"  # in its files


def main(argv: typing.Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    parser = argparse.ArgumentParser(prog="jaxhand synthetic-photo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--preview",
        type=console.output_file(".png"),
        metavar="PNG",
        required=True,
        help="a sheet of images with and without skeletons",
    )
    parser.add_argument("--without", nargs="*", default=[], metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--backgrounds", default="", metavar="FOLDER", help="own photographs for the backgrounds")
    parser.add_argument("--size", type=int, default=224, help="side of an image, px (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed makes other hands (%(default)s)")
    parser.add_argument("--first", type=int, default=0, help="index of the first hand (%(default)s)")
    parser.add_argument("--count", type=int, default=32, help="how many hands (%(default)s)")
    parser.add_argument("--columns", type=int, default=8, help="hands in a row of the sheet (%(default)s)")
    parser.add_argument("--skeletons", action="store_true", help="draw the labelled joints")
    try:
        args = parser.parse_args(argv)
        parts = photo.parts_without("train", args.count, args.size, args.without)
        output_files.check_own(args.preview, MARK)
        if args.backgrounds:
            backgrounds.photographs_of(args.backgrounds)
        arrays = photo_render.render_range(
            args.seed, args.first, args.count, size=args.size, parts=parts, folder=args.backgrounds
        )
        cells = list(arrays["image"])
        if args.skeletons:
            joints = project(arrays["keypoints_3d"], arrays["K"])
            cells = [draw.draw_skeleton(image, uv) for image, uv in zip(cells, joints)]
        draw.write_png(args.preview, draw.grid(cells, columns=args.columns), MARK)
        print(f"{args.count} hands -> {args.preview}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
