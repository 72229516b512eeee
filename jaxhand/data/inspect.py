"""Check a data set before training on it: the content of each split, missing or unreadable files, odd labels."""

import collections
import concurrent.futures
import dataclasses
import itertools
import os
import runpy
import typing
from pathlib import Path

import cv2
import numpy as np

from jaxhand import data
from jaxhand.config import UserError
from jaxhand.data import label_sample, set_checks
from jaxhand.data.checks import check_depth, check_form
from jaxhand.data.crop import crop, image_size
from jaxhand.data.datasets.base import UnknownSplit
from jaxhand.data.datasets.packed import Manifest
from jaxhand.data.images.encoded import EncodedImage
from jaxhand.data.label_sample import Sample
from jaxhand.data.record import Record, Source, read_annotation, read_encoded, spread
from jaxhand.hand import anatomy, draw
from jaxhand.hand.camera import project
from jaxhand.hand.skeleton import JOINT_NAMES
from jaxhand.io import output_files

SPLITS = ("train", "val", "test")
OWN_SPLITS = {"freihand": ("train", "test"), "ho3d": ("train", "test"), "rhd": ("train", "test")}  # no own val
OWN_SPLITS |= {"folder": ("train", "test"), "dexycb-json": ("train", "test"), "hamer": ("train",)}
PUBLISHED = {  # number of images per split, as reported by authors or users; one number per version of the set
    "freihand": {"train": (130240,), "test": (3960,)},
    "ho3d": {"train": (66034, 83325), "test": (11524, 20137)},
    "dexycb": {"train": (406888,)},  # only images with a hand
    "interhand": {"train": (1361062,), "val": (380125,), "test": (849160,)},
    "rhd": {"train": (41258,), "test": (2728,)},
    "hint": {"train": (12446, 24098), "val": (1175, 1689), "test": (3660, 5374)},  # without and with Ego4D
}
MIN_SHARE_OF_PUBLISHED = 0.8  # below 1, because we do not count frames without a labelled hand
MAX_LABELS = 20000  # largest number of labels that are checked, evenly spread over the split
MAX_DECODED = 200  # largest number of images that are decoded per split, unless `decode_all` is set
MARK = b"jaxhand inspect"  # in its contact sheets
CELLS, CELL_PX = 24, 224  # number and side of the contact sheet's cells
DEPTH_RATIO = (0.5, 2)  # plausible range of (depth image at a joint) / (z of the joint's label)
_CHUNK = 1024


def inspect(
    kind: str,
    path: str | Path,
    *,
    splits: typing.Sequence[str] = (),
    sheet: str | Path | None = None,
    decode_all: bool = False,
    part: bool = False,
    say: typing.Callable[[str], None] = print,
) -> list[str]:
    """Check every label and file of a data set, and decode some or all images.

    Args:
        kind, path: as for `data.read`.
        splits: the splits to check; empty: all splits of the data set.
        sheet: PNG file for a contact sheet: hands with their labels drawn over them.
        decode_all: decode every image.
        part: the set is meant to be a part; its size is not compared with the published size.
        say: function that is called with every line of the report.

    Returns:
        One sentence for each missing, unreadable or doubtful thing; empty for a complete and plausible data set.

    Raises:
        UserError: the name is unknown, the path does not exist, or the sheet cannot be written.
    """
    path = Path(path).expanduser()
    if not (path / "packed.json").is_file():
        data.reader(kind)  # raises a UserError if the name is unknown
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; give the path of the data set")
    if sheet and Path(sheet).exists() and Path(sheet).resolve().is_relative_to(path.resolve()):
        raise UserError(f"{sheet}: is a file of the data set; write the sheet to another folder")
    if sheet:
        output_files.check_own(Path(sheet), MARK)
    faults, cells = _missing_tars(path) if kind == "hamer" else [], []
    wanted, samples = splits or _own_splits(kind, path), {}
    for split in wanted:
        try:
            source = data.read(kind, path, split)
        except UnknownSplit:
            raise
        except UserError as error:
            say(f"{split}: cannot be read")
            optional = ":" in kind and not splits  # a reader from outside the package need not have all splits
            state = "cannot be read, so --split should name the others" if optional else "half-downloaded or damaged"
            faults.append(f"{split}: {state}: {error}")
            continue
        found, good, samples[split] = _split(kind, path, split, source, decode_all, part, say)
        faults += [f"{split}: {fault}" for fault in found]
        if sheet:
            cells += [_cell(source[int(i)], split) for i in _spread(good, CELLS // len(wanted))]
    for first, second in itertools.combinations(samples, 2):
        faults += [f"{first} and {second}: doubtful: {text}" for text in _overlap(samples[first], samples[second])]
    if sheet and cells:
        draw.write_png(sheet, draw.grid(cells, columns=min(8, CELLS // len(wanted))), MARK)
        say(f"Written to {sheet}")
    return faults


def _own_splits(kind: str, path: Path) -> tuple[str, ...]:
    if (path / "packed.json").is_file():
        return tuple(Manifest.read(path).splits)
    if path.suffix in (".json", ".npz"):  # one file is one split
        return ("test",)
    return OWN_SPLITS.get(kind) or OWN_SPLITS.get(kind.partition("-")[0], SPLITS)


def _overlap(first: Sample | None, second: Sample | None) -> list[str]:
    return [] if first is None or second is None else set_checks.overlap(first, second)


def _split(
    kind: str, path: Path, split: str, source: Source, decode_all: bool, part: bool, say
) -> tuple[list[str], np.ndarray, Sample | None]:
    """Report on one split. Returns the faults, the indices of the records that could be decoded, and the labels."""
    names = _images(source)
    there = _present(names) if hasattr(source, "file") else np.ones(len(names), bool)
    images, missing = len(set(names)), list(dict.fromkeys(names[i] for i in np.flatnonzero(~there)))
    published = PUBLISHED.get(kind, {}).get(split, ()) if path.is_dir() else ()
    counts = f" (published: {' or '.join(f'{count:,}' for count in published)})" if published else ""
    say(f"{split}: {len(source):,} hands in {images:,} images{counts}{_held_out(kind, path, split)}")
    faults = []
    if published and images < MIN_SHARE_OF_PUBLISHED * min(published) and not part:
        counts = f"labels of {images:,} images, where {min(published):,} are published"
        faults.append(f"half-downloaded: {counts}")
        say("  (if the set is meant to be a part of the published one: --part)")
    if missing:
        how_many = f"{len(missing):,} of {images:,} images are missing or empty"
        first = os.path.relpath(missing[0], path) if path.is_dir() else missing[0]
        faults.append(f"half-downloaded: {how_many}, first {first}")
    rows = np.flatnonzero(there)
    faults += [f"left out: {text}" for text in getattr(source, "left_out", [])]
    sample = _sample(source, _spread(rows, MAX_LABELS), say)
    if sample is not None:
        faults += [f"wrong: {text}" for text in set_checks.faults(sample)]
        faults += [f"doubtful: {text}" for text in set_checks.doubts(sample)]
    rows = rows if decode_all else _spread(rows, MAX_DECODED)
    decoded = _decode(source, rows)
    say(f"  files     {images - len(missing):,} of {images:,} images are there; {len(rows):,} hands were decoded")
    broken = [found for found in decoded if isinstance(found, UserError)]
    if broken:
        faults.append(f"{len(broken):,} of {len(rows):,} hands decoded cannot be read, first: {broken[0]}")
    faults += _report_images([found for found in decoded if isinstance(found, _Decoded)], say)
    return faults, rows[np.array([isinstance(found, _Decoded) for found in decoded], bool)], sample


def _images(source: Source) -> list[str]:
    """Return the image file of every record; the image's name if images are inside tars or shards."""
    file = getattr(source, "file", None)
    if file is not None:
        return [str(file(i)) for i in range(len(source))]
    return [read_annotation(source, i).name.partition("#")[0] for i in range(len(source))]


def _present(names: list[str]) -> np.ndarray:
    """Return a mask (N,): True if the file exists and is not empty."""
    files = sorted(set(names))

    def sized(some: list[str]) -> list[str]:
        return [name for name in some if _size(name) > 0]

    with concurrent.futures.ThreadPoolExecutor(16) as pool:  # in parallel, because network disks have a high latency
        pieces = pool.map(sized, [files[k : k + _CHUNK] for k in range(0, len(files), _CHUNK)])
        present = {name for piece in pieces for name in piece}
    return np.array([name in present for name in names], bool)


def _size(file: str) -> int:
    try:
        return os.stat(file).st_size
    except OSError:
        return 0


def _held_out(kind: str, path: Path, split: str) -> str:
    if split != "train" or "val" in _own_splits(kind, path):
        return ""
    try:
        return f"; {len(data.read(kind, path, 'val')):,} of the hands can be held out as val"
    except UserError:  # too few records, or a file without a split "val"
        return ""


def _missing_tars(folder: Path) -> list[str]:
    """Return one sentence if tars of HaMeR are missing between others. Missing tars at the end cannot be detected."""
    numbers = sorted(int(tar.stem) for tar in folder.glob("*.tar") if tar.stem.isdigit())
    missing = sorted(set(range(max(numbers, default=-1) + 1)) - set(numbers))
    if not missing:
        return []
    of = f"{len(missing)} of at least {numbers[-1] + 1} tars are missing"
    return [f"half-downloaded: {of}, first {missing[0]:06d}.tar"]


def _sample(source: Source, rows: np.ndarray, say) -> Sample | None:
    """Read the labels of the records `rows`, and report on them; None without a record."""
    if not len(rows):
        return None
    headers = {int(k): label_sample.header(source, int(rows[k])) for k in spread(len(rows), MAX_DECODED)}
    headers = {k: header for k, header in headers.items() if header is not None}
    records = [read_annotation(source, i) for i in rows]
    for i, record in zip(rows, records):
        check_form(record, f"record {i}")
    sample = Sample.of(records, headers)
    posed = np.mean([record.mano_pose is not None for record in records])
    in_3d = sample.valid.any(-1)
    say(
        f"  hands     {sample.left.mean():.0%} left; {in_3d.mean():.0%} with joints in 3D, {posed:.0%} with a MANO pose"
    )
    least = int(sample.valid_2d.mean(0).argmin())
    fewest = "" if sample.valid_2d.all() else f"; fewest {JOINT_NAMES[least]}, {sample.valid_2d[:, least].mean():.0%}"
    say(f"  joints    {sample.valid_2d.mean():.0%} are labelled{fewest}")
    if sample.boxed.any():
        say(f"  boxes     {sample.boxed.mean():.0%} of the hands have one")
    turned = sum(header.orientation != 1 for header in headers.values())
    if turned:
        say(f"  turned    {turned:,} of {len(headers):,} images by EXIF; labels must be those of the upright image")
    if in_3d.any():  # else K is not measured, either
        _report_bones(sample, say)
    return sample


def _report_bones(sample: Sample, say) -> None:
    say(f"  cameras   focal length {_range(sample.K[:, 0, 0])} px")
    say(f"  distance  {_range(sample.joints[sample.valid][:, 2])} mm")
    joints = sample.joints * np.where(sample.left[:, None, None], (-1, 1, 1), 1)
    whole = joints[sample.valid.all(-1)]
    if not len(whole):
        say("  bones     no hand has all joints labelled: unit, joint order and handedness are not checked")
        return
    say(
        f"  bones     of {len(whole):,} hands, {anatomy.hand_scale(whole):.2f} times as long as an adult's, off by "
        f"{anatomy.bone_deviation(whole):.2f}; {anatomy.bending_share(whole):.0%} bend towards their palm"
    )


class _Decoded(typing.NamedTuple):
    """Measurements on one decoded record."""

    size: str  # width x height
    inside: float  # fraction of the labelled joints inside the image; NaN if no joint is labelled
    depth: float  # median of (depth image at a joint) / (z of the joint's label); NaN if unknown


def _decode(source: Source, rows: np.ndarray) -> list[_Decoded | UserError]:
    """Decode the records `rows` in parallel. Returns the measurements or the error of each record, in order."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        pieces = [rows[k : k + _CHUNK] for k in range(0, len(rows), _CHUNK)]
        return [found for piece in pieces for found in pool.map(lambda i: _decode_one(source, int(i)), piece)]


def _decode_one(source: Source, i: int) -> _Decoded | UserError:
    try:
        record = read_encoded(source, i)
        if isinstance(record.image, EncodedImage):
            record.image.verify()
        width, height = image_size(record)
        check_depth(record, record.name)
    except UserError as error:
        return error
    points, valid = _pixels(record)
    valid &= np.isfinite(points).all(-1)
    inside = np.all((points > -0.5) & (points < (width - 0.5, height - 0.5)), axis=-1)[valid]  # (n,)
    depth = np.nan
    if record.depth is not None and np.any(record.joint_valid):
        x, y = np.clip(np.round(np.where(valid[:, None], points, 0)), 0, (width - 1, height - 1)).astype(int).T
        ratio = (record.depth[y, x] / np.maximum(record.keypoints_3d[:, 2], 1))[(record.joint_valid > 0) & valid]
        depth = np.median(ratio[ratio > 0]) if (ratio > 0).any() else np.nan
    return _Decoded(f"{width}x{height}", inside.mean() if len(inside) else np.nan, depth)


def _report_images(decoded: list[_Decoded], say) -> list[str]:
    """Report on decoded images. Returns one sentence for each doubtful property."""
    if not decoded:
        return []
    size, *others = (size for size, _ in collections.Counter(found.size for found in decoded).most_common())
    more = f" and {len(others)} other sizes" if others else ""
    inside, depth = (np.array([found[k] for found in decoded]) for k in (1, 2))
    inside, depth = inside[np.isfinite(inside)], depth[np.isfinite(depth)]
    say(f"  images    {size} px{more}" + (f"; {inside.mean():.0%} of the joints lie in them" if len(inside) else ""))
    faults = []
    if len(depth):
        say(f"  depth     at the joints is {_range(depth)} times the labels'")
        if not DEPTH_RATIO[0] < np.median(depth) < DEPTH_RATIO[1]:
            faults.append(f"doubtful: depth at the joints is {np.median(depth):.3g} times the labels': not in mm?")
    return faults


def _pixels(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """Return the 2D labels (21, 2) px and their validity (21,) bool."""
    if record.keypoints_2d is not None:
        return np.asarray(record.keypoints_2d, np.float64), np.asarray(record.joint_valid_2d) > 0
    valid = np.asarray(record.joint_valid) > 0
    return project(np.where(valid[:, None], record.keypoints_3d, (0, 0, 1)).astype(np.float64), record.K), valid


def _cell(record: Record, split: str) -> np.ndarray:
    """Draw one cell of the contact sheet. A left hand is not mirrored."""
    hand = crop(dataclasses.replace(record, hand="right"), CELL_PX, 1.6)
    cell = draw.draw_skeleton(hand["image"], hand["keypoints_2d"], scale=1, valid=hand["joint_valid_2d"])
    cell[-14:] //= 4
    text = f"{split} {record.hand} {record.name.partition('#')[0][-26:]}"
    cv2.putText(cell, text, (3, CELL_PX - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.33, (255, 255, 255), 1, cv2.LINE_AA)
    return cell


def _spread(rows: np.ndarray, most: int) -> np.ndarray:
    """Return at most `most` of the rows, evenly spread."""
    return rows[spread(len(rows), most)]


def _range(values) -> str:
    low, middle, high = np.percentile(values, (0, 50, 100))
    return f"{low:,.4g} … {middle:,.4g} … {high:,.4g}"


if __name__ == "__main__":  # the older name of `jaxhand inspect`
    runpy.run_module("jaxhand.inspect", run_name="__main__")
