"""Read and write files of predictions and ground truth: JSON (FreiHAND, HO-3D), text (DexYCB), .npz and .npy.

The unit, camera frame and joint order of the arrays are not changed.
"""

import codecs
import contextlib
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import orjson

from jaxhand.config import UserError, limits
from jaxhand.config.json_text import parse_json
from jaxhand.io import numpy_files
from jaxhand.io.archives import DAMAGED, Archive
from jaxhand.io.files import MALFORMED, one_line

BLOCK = 2**20  # number of bytes read at once
SUFFIXES = "pred.json, pred.zip, .txt or .csv in DexYCB's format, .npz, .npy"
_WHITE = b" \t\r\n"
_LEAD = b" \t\n\r\f\v,[]"  # what may come before the first number of a sample
_DEXYCB_COLUMNS = 64  # id, x1, y1, z1, …, z21


def read(path: str | Path, names: Sequence[str]) -> tuple[dict[str, np.ndarray], list[Path]]:
    """Read predictions or ground truth; the values are not checked.

    Args:
        path: `pred.json` ([xyz, verts], also inside a zip), `*_xyz.json` (with `*_verts.json`, if that file is in the
            same folder), a folder with these files, text with lines `id,x1,y1,z1,…,z21` (DexYCB), .npz, or .npy.
        names: names of the arrays to read: joints first, then vertices, then any other. In a file without names, the
            arrays must be in this order. In an .npz, the names are the keys, and other keys are ignored.

    Returns:
        Arrays by name: (N, points, 3) float64, or as stored in an .npz or .npy, with float16 as float32; also `id` (N,)
        if the file has ids.
        Paths of the files that were read.

    Raises:
        UserError: a file is missing, cut off, ragged or has an unknown format; the error names the file, and the
            sample or line.
    """
    path = Path(path).expanduser()
    try:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
        if path.is_dir():
            path = _labels_in(path)
        if path.suffix == ".json":
            return _read_json_files(path, names)
        if path.suffix == ".zip":
            return dict(zip(names, _read_zip(path, names))), [path]
        if path.suffix in (".txt", ".csv"):
            ids, joints = _read_dexycb(path)
            return {"id": ids, names[0]: joints}, [path]
        if path.suffix in (".npz", ".npy"):
            return _read_numpy(path, names), [path]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    raise UserError(f"{path}: unknown file format; known formats: {SUFFIXES}, or a folder with *_xyz.json")


def write_freihand(path: str | Path, xyz: np.ndarray, verts: np.ndarray) -> None:
    """Write a `pred.json` for FreiHAND or HO-3D, inside a zip if the path ends in .zip. `read` reads such files.

    Args:
        path: the file; it is written completely or not at all.
        xyz: (N, 21, 3) m. FreiHAND: OpenCV camera frame, our joint order. HO-3D: OpenGL frame (y and z negated),
            HO-3D's joint order (`hand.skeleton.from_our_order`).
        verts: (N, V, 3) m, in the camera frame of `xyz`.

    Raises:
        UserError: a value is not finite, the lengths differ, or the file cannot be written.
    """
    arrays = [_checked(xyz, "xyz", path), _checked(verts, "verts", path)]
    if len(arrays[0]) != len(arrays[1]):
        raise UserError(f"{path}: not written: xyz has {len(arrays[0])} samples, but verts has {len(arrays[1])}")
    content = orjson.dumps(arrays, option=orjson.OPT_SERIALIZE_NUMPY)
    with draft_of(path) as draft:
        if Path(path).suffix == ".zip":
            with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("pred.json", content)
        else:
            draft.write_bytes(content)


def write_dexycb(path: str | Path, ids: np.ndarray, joints: np.ndarray) -> None:
    """Write a result file in DexYCB's text format, one line `id,x1,y1,z1,…,z21` per image. `read` reads such files.

    Args:
        path: the file; it is written completely or not at all.
        ids: (N,) indices of the images in the split of the DexYCB toolkit.
        joints: (N, 21, 3) mm, OpenCV camera frame, not relative to the wrist.

    Raises:
        UserError: a value is not finite, the shapes do not fit, or the file cannot be written.
    """
    joints = _checked(joints, "joints", path)
    if joints.shape != (len(ids), 21, 3):
        raise UserError(f"{path}: not written, joints must be ({len(ids)}, 21, 3), got {joints.shape}")
    rows = orjson.dumps(joints.reshape(len(ids), 63), option=orjson.OPT_SERIALIZE_NUMPY)  # [[…],[…]]
    lines = rows.decode().strip("[]").split("],[")
    with draft_of(path) as draft:
        draft.write_text("".join(f"{int(i)},{line}\n" for i, line in zip(ids, lines)))


@contextlib.contextmanager
def draft_of(path: str | Path) -> Iterator[Path]:
    """Context manager with a temporary path. At the end its file is renamed to `path`; after an error, deleted.

    Raises:
        UserError: the file cannot be written.
    """
    path = Path(path).expanduser()
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield draft
        os.replace(draft, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def _checked(points: np.ndarray, name: str, path) -> np.ndarray:
    points = np.ascontiguousarray(points)
    if points.ndim != 3 or points.shape[-1] != 3:
        raise UserError(f"{path}: not written, {name} must be (N, points, 3), got {points.shape}")
    bad = ~np.isfinite(points).all((1, 2))
    if bad.any():
        raise UserError(f"{path}: not written, sample {bad.argmax()} of {name} is not finite (JSON has no NaN)")
    return points


def _labels_in(folder: Path) -> Path:
    """Find the `*_xyz.json` in a folder; if there are several, `evaluation_xyz.json`."""
    found = sorted(folder.glob("*_xyz.json"))
    preferred = [path for path in found if path.name == "evaluation_xyz.json"] or found
    if len(preferred) != 1:
        fault = f"several; give one of {', '.join(path.name for path in found)}" if found else "none"
        raise UserError(f"{folder}: there must be one *_xyz.json in this folder, found {fault}")
    return preferred[0]


def _read_json_files(path: Path, names) -> tuple[dict, list[Path]]:
    with path.open("rb") as stream:
        arrays = dict(zip(names, _read_json(stream, path, names)))
    vertex_file = path.with_name(path.name.removesuffix("_xyz.json") + "_verts.json")
    if len(arrays) > 1 or not path.name.endswith("_xyz.json") or len(names) < 2 or not vertex_file.exists():
        return arrays, [path]
    with vertex_file.open("rb") as stream:
        [arrays[names[1]]] = _read_json(stream, vertex_file, names[1:2])
    return arrays, [path, vertex_file]


def _read_zip(path: Path, names) -> list[np.ndarray]:
    try:
        with Archive(path) as archive:
            infos = archive.infolist()
            members = [i for i in infos if i.filename.endswith(".json") and not i.filename.startswith("__MACOSX")]
            chosen = [info for info in members if info.filename.rpartition("/")[2] == "pred.json"] or members
            if len(chosen) != 1:
                found = one_line(", ".join(info.filename for info in (chosen or infos)[:4])) or "nothing"
                raise UserError(f"{path}: must contain one pred.json, found {found}")
            with archive.open_member(chosen[0]) as stream:
                return _read_json(stream, f"{path}:{one_line(chosen[0].filename)}", names)
    except UserError:
        raise
    except DAMAGED as error:
        advice = "make it again: zip -j pred.zip pred.json"
        raise UserError(f"{path}: not a complete zip file, or encrypted ({one_line(error)}); {advice}") from None


def _read_json(stream, where, names) -> list[np.ndarray]:
    """Read one list of samples, or a list of such lists, from JSON: an array (N, points, 3) per list.

    A sample is [[x, y, z], …]; its end is found by `]]`. The samples are parsed one by one, because Python lists of the
    complete file would take ten times the memory of the arrays.
    """
    lists: list[_Samples] = []
    rest, opening, closed, spaced = b"", b"", False, None

    def here() -> str:
        return f"{where}: sample {lists[-1].count if lists else 0} of {names[max(min(len(lists), len(names)), 1) - 1]}"

    while block := stream.read(BLOCK):
        if spaced is None:
            block = block.removeprefix(codecs.BOM_UTF8)
            spaced = re.search(rb"\]\s+\]", block) is not None  # indented JSON: remove the white space
        *pieces, rest = (rest + (block.translate(None, _WHITE) if spaced else block)).split(b"]]")
        if len(rest) > limits.SAMPLE_BYTES:
            raise UserError(
                f"{here()} has more than {limits.SAMPLE_BYTES:,} characters; it must be a list of [x, y, z]"
            )
        for piece in pieces:
            numbers = piece.lstrip(_LEAD)
            lead = piece[: len(piece) - len(numbers)]
            brackets = lead.translate(None, b"," + _WHITE)
            if not lists:
                opening, lists = brackets, [_Samples()]
                if opening not in (b"[[[", b"[[[["):
                    raise UserError(f"{where}: must contain [{', '.join(names[:2])}] or samples [[x, y, z], …]")
            elif closed or brackets not in (b"[[", b"][[[", b"][", b"]", b""):
                raise UserError(f"{here()} is not a list of [x, y, z]")
            elif brackets.startswith(b"][") and opening == b"[[[[":
                lists.append(_Samples())
            if numbers:
                lists[-1].add(numbers, here)
            else:
                closed = True
    if not lists:
        if not rest.translate(None, _WHITE).startswith(b"[[["):
            raise UserError(f"{where}: {'wrong content' if rest else 'empty'}; it must contain lists of [x, y, z]")
        lists = [_Samples()]
    if rest.strip() != b"]" if opening == b"[[[" else rest.strip() or not closed:
        raise UserError(f"{here()}: the file is cut off here; write or copy the file again")
    if len(lists) > 2:
        raise UserError(f"{where}: contains {len(lists)} lists, expected [{', '.join(names[:2])}]")
    return [samples.array() for samples in lists if samples.count]


class _Samples:
    """The samples of a list. Their numbers are in one growing buffer, because small arrays need twice the memory."""

    def __init__(self):
        self.count, self._points, self._values = 0, 0, bytearray()

    def add(self, text: bytes, here: Callable[[], str]) -> None:
        """Parse a sample `x, y, z], [x, …, z` of J points, and append it. All samples must have the same J."""
        points = text.count(b"[") + 1
        if self.count == limits.SAMPLES:
            raise UserError(f"{here()} is one too many: at most {limits.SAMPLES:,} samples are read")
        try:
            values = np.array(parse_json(b"[%b]" % text.translate(None, b"[]")), float)  # null becomes NaN
        except MALFORMED:
            raise UserError(f"{here()} is not a list of [x, y, z]") from None
        if values.shape != (3 * points,):
            raise UserError(f"{here()} is ragged: {values.size} numbers in {points} points of [x, y, z]")
        if self.count and self._points != points:
            raise UserError(f"{here()} has {points} points, but the samples before have {self._points}")
        self.count, self._points = self.count + 1, points
        self._values += values.data

    def array(self) -> np.ndarray:
        """Return the samples (N, J, 3), float64."""
        return np.frombuffer(self._values, float).reshape(self.count, self._points, 3)


def _read_dexycb(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read ids (N,) and joints (N, 21, 3) from lines of 64 numbers."""
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    if not lines:
        raise UserError(f"{path}: empty; the file must contain one line id,x1,y1,z1,…,z21 per image")
    for number, line in enumerate(lines, start=1):
        if line.count(b",") != _DEXYCB_COLUMNS - 1:
            found = line.count(b",") + 1
            raise UserError(f"{path}: line {number} has {found} numbers, not {_DEXYCB_COLUMNS} (id,x1,y1,z1,…,z21)")
    try:
        pieces = (b",".join(lines[start : start + 1000]) for start in range(0, len(lines), 1000))
        table = np.concatenate([np.array(orjson.loads(b"[%b]" % piece), float) for piece in pieces])
    except MALFORMED:
        table = np.array([_line(line, f"{path}: line {number}") for number, line in enumerate(lines, start=1)])
    table = np.reshape(table, (-1, _DEXYCB_COLUMNS))
    ids, first, counts = np.unique(table[:, 0], return_index=True, return_counts=True)
    if (counts > 1).any():
        raise UserError(f"{path}: id {ids[counts > 1][0]:g} is in more than one line")
    odd = ~(np.abs(ids) < 2**53) | (ids != np.round(ids))
    if odd.any():
        raise UserError(f"{path}: line {first[odd][0] + 1} starts with {ids[odd][0]:g}; an id must be a whole number")
    return table[:, 0].astype(int), table[:, 1:].reshape(-1, 21, 3)


def _line(line: bytes, where: str) -> list[float]:
    """Parse a line of numbers that are not all JSON, such as "nan", "1." and "+1"."""
    try:
        return [float(value) for value in line.split(b",")]
    except ValueError as error:
        raise UserError(f"{where} contains text that is not a number ({one_line(error)})") from None


def _read_numpy(path: Path, names) -> dict[str, np.ndarray]:
    fault = "not a complete {} file of numbers ({})"
    if path.suffix == ".npy":
        arrays = {names[0]: numpy_files.read_npy(path, fault=fault)}
    else:
        found = numpy_files.read_npz(path, (*names, "id"), fault=fault)
        arrays = {name: found[name] for name in (*names, "id") if name in found}
    if names[0] not in arrays:
        others = one_line(", ".join(numpy_files.names_in(path))) or "none"
        raise UserError(f"{path}: has no array {names[0]!r}; the arrays are: {others}")
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub" and name != "hand_type":
            raise UserError(f"{path}: array {name!r} must contain numbers, got {array.dtype}")
    # Sums in float16 overflow at 65504, and its 11 bits are too few for a mean.
    return {name: array.astype(np.float32) if array.dtype == np.float16 else array for name, array in arrays.items()}
