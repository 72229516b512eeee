"""HInt: hands in the wild from three sources of video, right and left, labelled in 2D only.

https://github.com/ddshan/hint. A hand has an image and a JSON file with the same name, which ends in _r or _l. Only
Ego4D itself distributes its frames: a set without them can be read, and a missing image is an error only when its
record is read.
"""

import json
from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.data.crop_rules import RULES
from jaxhand.data.datasets import label_cache
from jaxhand.data.datasets.base import ManoLabels, SizedImageDataset
from jaxhand.data.record import Record
from jaxhand.io import files

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
    """Read the labels of HInt; the first call is slow, then they are cached. Images are opened with their record.

    Args:
        path: HInt_annotation or HInt_annotation_partial, the folder of TEST_newdays_img and so on.
        split: "train", "val" or "test".
        variant: one of `SOURCES` reads only that source; empty reads all that exist except "ego4d_seq", as the
            benchmark does.
        without_val: no effect, "train" and "val" share no record.
        mano: not used, the set has joints only.
        joints: which joints count: "all", or those that the annotators marked "visible" or "occluded".

    Raises:
        UserError: a folder is missing or a file is damaged; the error names it.
    """
    folder = Path(path).expanduser()
    if variant not in ("", *SOURCES):
        raise UserError(f"hint-{variant}: unknown; the sources are {', '.join(SOURCES)}, or plain hint")
    if split not in ("train", "val", "test") or joints not in JOINTS:
        raise UserError(f"hint, {split}, {joints}: unknown; there are train, val, test, and joints {', '.join(JOINTS)}")
    wanted = [variant] if variant else SOURCES[:3]
    names = [f"{split.upper()}_{source}{'' if source.endswith('_seq') else '_img'}" for source in wanted]
    homes = [folder / name for name in names if (folder / name).is_dir()]
    if not homes:
        raise UserError(f"{folder}: holds none of {', '.join(names)}; it should be HInt_annotation or …_partial")
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
        """Return record i without its image, which has this width and height in px."""
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
                (hand,) = json.loads(files.read_bytes(file))
                columns["bbox"].append(np.reshape(np.float32(hand["bbox"]), 4))
                columns["keypoints"].append(np.reshape(np.float32(hand["keypoints"]), (21, 2)))
                columns["occluded"].append(np.reshape(np.array(hand["occlusion"], bool), 21))
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{file}: not labels of one hand ({error!r}); download it again") from None
            if not np.isfinite([*columns["bbox"][-1], *columns["keypoints"][-1].ravel()]).all():
                raise UserError(f"{file}: its numbers are not finite; download it again")
            columns["name"].append(f"{home.name}/{file.stem}.jpg".encode())
    if not columns["name"]:
        raise UserError(f"{homes[0]}: holds no .json file")
    arrays = {key: np.array(values) for key, values in columns.items()}
    return arrays | {"bbox": _corners(arrays["bbox"], arrays["keypoints"])}


def _corners(boxes: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """Return boxes (N, 4) as corners x0, y0, x1, y1 px.

    The format of the files is not documented: boxes are two corners, or a corner and a size. The form whose boxes are
    nearer to the boxes around `keypoints` (N, 21, 2) is assumed.
    """
    corners, sizes = boxes, np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], -1)
    tight = np.concatenate([keypoints.min(1), keypoints.max(1)], -1)  # (N, 4)
    off = [np.median(np.abs(reading - tight).max(-1)) for reading in (corners, sizes)]
    return corners if off[0] <= off[1] else sizes
