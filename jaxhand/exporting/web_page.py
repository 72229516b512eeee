"""A run as a web page that finds hands in photographs, in videos and in front of the camera; `page_files` writes it."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import jaxhand
from jaxhand.config import UserError
from jaxhand.data.crop_rules import RULES
from jaxhand.exporting import formats, network, page_files, writing
from jaxhand.hand.skeleton import FINGER_COLORS, JOINT_NAMES, PARENTS, WRIST_COLOR
from jaxhand.inference.mediapipe_pipeline import HOW, RUN, has_networks
from jaxhand.inference.output import UNITS

_KINDS = {network.PALM: "palm", network.HAND: "hand"}  # name of an exported network → its name in the page


def export(
    workdir: str | Path, out: str | Path, *, folder: bool = False, detector: str | Path = RUN, say: Callable = print
) -> None:
    """Write the page of a run. Its networks are checked against the run before.

    A run of MediaPipe's networks finds the hands and reads them. For another run, MediaPipe's networks find the hands
    and their sides, as `predict --detector` does, and the run's network reads the crop of each.

    Args:
        workdir: run folder.
        out: the HTML file to write; with `folder` the folder to write.
        folder: write a folder for a static server in place of one file.
        detector: run folder of MediaPipe's networks, for a run of another model.
        say: called with one line about each network and the page.

    Raises:
        UserError: there is no such run or detector, the page is not built, its network is not one that the page can
            run, or `out` cannot be written or is of another program.
    """
    out = Path(out)
    if not folder and out.suffix not in (".html", ".htm"):
        raise UserError(f"the page is one file: name it {out}.html, or add --folder for a folder")
    page_files.check_built()
    page_files.check_own(out, folder=folder)
    finds_hands = has_networks(workdir)
    if not finds_hands and not has_networks(detector):
        raise UserError(
            f"{detector} has no networks that find the hands for {workdir}: name a run with --detector. {HOW}"
        )
    networks, about = _networks(workdir if finds_hands else detector, say)
    if network.PALM not in about:
        raise UserError(f"{workdir} has no palm detector: {HOW}")
    own = None
    if not finds_hands:
        read, described = _networks(workdir, say)
        networks["own"], own = read["hand"], described[network.HAND]
        if own["crop"]["antialias_blur"]:
            raise UserError(f"{workdir}: the page has no crops with the rule {own['crop']['rule']}")
    settings = _settings(Path(workdir), own, about)
    write = page_files.write_folder if folder else page_files.write_file
    write(out, settings, networks)
    size = sum(file.stat().st_size for file in out.iterdir()) if folder else out.stat().st_size
    how = f"serve it: python -m http.server --directory {out}" if folder else "open it in a browser"
    say(f"{out}: {size / 1e6:.1f} MB; {how}")


def _networks(workdir: str | Path, say: Callable) -> tuple[dict[str, bytes], dict[str, dict]]:
    """The networks of a run as ONNX models by their names in the page, and their metadata by their own names."""
    with tempfile.TemporaryDirectory() as folder:
        files = writing.export(workdir, folder, "onnx", say=lambda line: say(line.replace(f"{folder}/", "")))
        about = json.loads(Path(folder, formats.METADATA).read_text())
        if any("data" in each for each in about.values()):
            raise UserError(f"{workdir}: the network is too large for a page")
        return {_KINDS[file.stem]: file.read_bytes() for file in files}, about


def _settings(workdir: Path, own: dict | None, found: dict[str, dict]) -> dict:
    """What web/src/settings.ts describes.

    Args:
        workdir: run folder.
        own: metadata of the run's network; None for a run of MediaPipe's networks.
        found: metadata of the networks that find the hands.
    """
    name = workdir.absolute().name
    hand = own or found[network.HAND]
    licences = [f"Weights of {name}: {hand['licence']}."]
    if own:
        licences.append(f"Networks that find the hands: {found[network.HAND]['licence']}.")
    crop = ("image_size", "crop_scale", "box_aspect", "pixel_center_offset", "mirror_left")
    return {
        "title": name,
        "about": " ".join([f"jaxhand {jaxhand.__version__}.", *licences, f"Libraries: {page_files.libraries()}."]),
        "joint_names": list(JOINT_NAMES),
        "parents": PARENTS.tolist(),
        "colors": [f"#{bytes(color).hex()}" for color in (WRIST_COLOR, *FINGER_COLORS)],
        "units": UNITS,
        "focal": hand["crop"]["focal"] if own else RULES["square"].focal,
        "own": {key: own["crop"][key] for key in crop} if own else None,
        "faces": sum(own["faces"], []) if own and "faces" in own else None,
    }
