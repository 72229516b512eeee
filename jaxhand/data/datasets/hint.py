"""HInt: right and left hands from three sources of video, labelled only in 2D.

https://github.com/ddshan/hint. A hand has an image and a JSON file with the same name, which ends in _r or _l. The
frames of Ego4D must be downloaded from Ego4D. HInt can be read without them: a missing image is an error only when its
record is read. Labels are those of the upright image: an image is turned by its EXIF orientation when it is read.
"""

from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.config.json_text import parse_json
from jaxhand.data.crop_rules import RULES
from jaxhand.data.datasets import label_cache
from jaxhand.data.datasets.base import ManoLabels, SizedImageDataset, UnknownSplit
from jaxhand.data.record import Record
from jaxhand.io import files
from jaxhand.io.files import MALFORMED, one_line

SOURCES = ("newdays", "epick", "ego4d", "ego4d_seq")
JOINTS = ("all", "visible", "occluded")


def load(
    path: str | Path,
    split: str,
    *,
    variant: str = "",
    without_val: bool = False,
    mano: ManoLabels | None = None,
    joints: str = "all",
) -> "HInt":
    """Read the labels of HInt. The first call is slow; then the labels are cached.

    Args:
        path: HInt_annotation or HInt_annotation_partial, which contains TEST_newdays_img and other folders.
        split: "train", "val" or "test".
        variant: one of `SOURCES`, to read only this source. Empty: all existing sources except "ego4d_seq", as in the
            benchmark.
        without_val: no effect, because "train" and "val" share no record.
        mano: not used, because the labels are only joints.
        joints: the joints that are valid: "all", or those that the annotators marked as "visible" or "occluded".

    Raises:
        UserError: a folder is missing or a file is damaged; the message names it.
    """
    folder = Path(path).expanduser()
    if variant not in ("", *SOURCES):
        raise UnknownSplit(f"hint-{variant}: unknown; the sources are {', '.join(SOURCES)}; hint reads three")
    if split not in ("train", "val", "test") or joints not in JOINTS:
        raise UnknownSplit(f"hint, {split}, {joints}: unknown; use train, val or test, and joints {', '.join(JOINTS)}")
    wanted = [variant] if variant else SOURCES[:3]
    names = [f"{split.upper()}_{source}{'' if source.endswith('_seq') else '_img'}" for source in wanted]
    homes = [folder / name for name in names if (folder / name).is_dir()]
    if not homes:
        raise UserError(f"{folder}: contains none of {', '.join(names)}; give the folder HInt_annotation or …_partial")
    return HInt(folder, label_cache.cached(homes, lambda: _read(homes)), joints)


class HInt(SizedImageDataset):
    """The hands of HInt as records."""

    def __init__(self, folder: Path, arrays: dict[str, np.ndarray], joints: str):
        self._folder, self._arrays, self._joints = folder, arrays, joints

    def __len__(self) -> int:
        return len(self._arrays["name"])

    def file(self, i: int) -> Path:
        """Return the path of the image of record i."""
        return self._folder / str(self._arrays["name"][i], "utf-8")

    def annotate(self, i: int, image_size: tuple[int, int]) -> Record:
        """Return record i without its image. `image_size` is width and height of the image, px."""
        name, bbox, keypoints, occluded = (self._arrays[k][i] for k in ("name", "bbox", "keypoints", "occluded"))
        counted = {"all": np.ones(21, bool), "visible": ~occluded, "occluded": occluded}[self._joints]
        name = str(name, "utf-8")
        return Record(
            image=None,
            K=RULES["hamer"].camera(*image_size),
            keypoints_3d=np.zeros((21, 3), np.float32),
            joint_valid=np.zeros(21, np.float32),
            hand="right" if name.endswith("_r.jpg") else "left",
            bbox=bbox,
            name=name,
            keypoints_2d=keypoints,
            joint_valid_2d=counted.astype(np.float32),
        )


def _read(homes: list[Path]) -> dict[str, np.ndarray]:
    columns = {"name": [], "bbox": [], "keypoints": [], "occluded": []}
    for home in homes:
        for file in sorted(home.glob("*.json")):
            if file.stem[-2:] not in ("_r", "_l"):
                raise UserError(f"{file}: the name must end in _r or _l, for right or left")
            try:
                (hand,) = parse_json(files.read_bytes(file))
                columns["bbox"].append(np.reshape(np.float32(hand["bbox"]), 4))
                columns["keypoints"].append(np.reshape(np.float32(hand["keypoints"]), (21, 2)))
                columns["occluded"].append(np.reshape(np.array(hand["occlusion"], bool), 21))
            except MALFORMED as error:
                reason = one_line(repr(error))
                raise UserError(f"{file}: not labels of one hand ({reason}); download it again") from None
            if not np.isfinite([*columns["bbox"][-1], *columns["keypoints"][-1].ravel()]).all():
                raise UserError(f"{file}: bbox or keypoints are not finite; download the file again")
            columns["name"].append(f"{home.name}/{file.stem}.jpg".encode())
    if not columns["name"]:
        raise UserError(f"{homes[0]}: contains no .json file; download HInt again")
    arrays = {key: np.array(values) for key, values in columns.items()}
    return arrays | {"bbox": _corners(arrays["bbox"], arrays["keypoints"])}


def _corners(boxes: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """Return boxes (N, 4) as corners x0, y0, x1, y1 px.

    HInt does not document whether a box is two corners, or a corner and a size. The interpretation that is nearer to
    the bounding boxes of `keypoints` (N, 21, 2) is assumed.
    """
    corners, sizes = boxes, np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], -1)
    tight = np.concatenate([keypoints.min(1), keypoints.max(1)], -1)  # (N, 4)
    off = [np.median(np.abs(reading - tight).max(-1)) for reading in (corners, sizes)]
    return corners if off[0] <= off[1] else sizes
