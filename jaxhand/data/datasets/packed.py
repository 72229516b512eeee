"""A data set packed into a few ArrayRecord files (shards) with checksums: fast to copy, to verify, and to shuffle.

A folder contains `packed.json` (see `Manifest`) and the shards. A record is stored as MessagePack, with encoded image
and depth. Labels are those of the upright image: an image is turned by its EXIF orientation when it is read.
"""

import dataclasses
import json
import os
import typing
from pathlib import Path

import cv2
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from flax import serialization

from jaxhand.config import UserError, limits
from jaxhand.data.checks import check_form
from jaxhand.data.datasets.base import EncodedImageSource
from jaxhand.data.images.encoded import EncodedImage, decode
from jaxhand.data.record import Record, Source
from jaxhand.io.files import MALFORMED, one_line

FORMAT = 1


@dataclasses.dataclass
class Manifest:
    """The content of `packed.json`."""

    name: str  # name of the data set, such as "dexycb-s1"
    shard_size: int  # number of records in each shard; the last shard of a split may have fewer
    version: str  # version of jaxhand that packed the data set
    format: int = FORMAT
    complete: bool = False
    # split → count, shards (file, count, bytes, sha256); for "train" also `held_out`, the indices of the "val" records
    splits: dict = dataclasses.field(default_factory=dict)

    @staticmethod
    def read(folder: Path) -> "Manifest":
        """Read the manifest of a folder.

        Raises:
            UserError: the folder has no manifest, or the manifest is damaged or of another format.
        """
        path = folder / "packed.json"
        try:
            fields = json.loads(path.read_text())
            if fields["format"] != FORMAT:
                raise UserError(f"{path}: has format {fields['format']}, but must have {FORMAT}; pack the set again")
            manifest = Manifest(**fields)
            manifest.check()
            return manifest
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
        except UserError:
            raise
        except (*MALFORMED, RecursionError):
            raise UserError(f"{path}: is damaged; delete {folder} and pack the data set again") from None

    def check(self) -> None:
        """Check the types and numbers of the fields. Raises one of `files.MALFORMED` if `write` cannot write them."""
        for name, entry in self.splits.items():
            counts = [shard["count"] for shard in entry["shards"]]
            for shard in entry["shards"]:
                if shard["file"] != Path(shard["file"]).name or not isinstance(shard["sha256"], str):
                    raise ValueError(f"no shard {shard['file']}")
            numbers = [entry["count"], *counts, *(shard["bytes"] for shard in entry["shards"])]
            whole = all(type(number) is int and 0 <= number for number in [*numbers, *entry.get("held_out", [])])
            inside = max(entry.get("held_out", []), default=-1) < entry["count"] <= limits.RECORDS
            if not (whole and inside and (sum(counts) == entry["count"] or not self.complete)):
                raise ValueError(f"wrong numbers of records in {name}")
        if not (isinstance(self.name, str) and type(self.shard_size) is int and self.shard_size > 0):
            raise ValueError("wrong name or shard_size")

    def write(self, folder: Path) -> None:
        """Write `packed.json` to a folder, by an atomic rename."""
        part = folder / "packed.json.part"
        part.write_text(json.dumps(dataclasses.asdict(self)))
        os.replace(part, folder / "packed.json")


def load(path: str | Path, split: str, *, kind: str, without_val: bool = False) -> "PackedSet":
    """Open a split of a packed data set. File sizes are checked now, records when they are read.

    Args:
        path: the folder.
        split: "train", "val" or "test".
        kind: name of the data set, which must be its name in the manifest.
        without_val: leave the records of "val" out of "train".

    Raises:
        UserError: packing was not finished, the name or split does not exist, or a file is missing or cut off.
    """
    folder = Path(path).expanduser()
    manifest = Manifest.read(folder)
    again = f"run `jaxhand pack {manifest.name} SOURCE {folder}` again"
    if not manifest.complete:
        raise UserError(f"{folder}: packing was not finished; {again}")
    if manifest.name != kind:
        raise UserError(f"{folder}: contains {manifest.name}, not {kind}; use {manifest.name}:{path}")
    train = manifest.splits.get("train", {})
    held_out = train.get("held_out", [])
    is_held_out = split == "val" and held_out and "val" not in manifest.splits
    entry = train if is_held_out else manifest.splits.get(split)
    if entry is None:
        raise UserError(f"{folder}: the split {split} was not packed (only {', '.join(manifest.splits)}); {again}")
    for shard in entry["shards"]:
        file = folder / shard["file"]
        size = file.stat().st_size if file.is_file() else 0
        if size != shard["bytes"]:
            raise UserError(f"{file}: has {size:,} of {shard['bytes']:,} bytes; {again}")
    indices = np.arange(entry["count"])
    if is_held_out:
        indices = np.array(held_out)
    elif split == "train" and without_val:
        indices = np.delete(indices, held_out)
    return PackedSet(folder, entry["shards"], indices)


class PackedSet(EncodedImageSource):
    """A source of the records at `indices` in the shards."""

    def __init__(self, folder: Path, shards: list[dict], indices: np.ndarray):
        self._files = [folder / shard["file"] for shard in shards]
        counts = [shard["count"] for shard in shards]
        self._starts, self._indices = np.cumsum(counts) - counts, indices
        self._readers: list[ArrayRecordReader | None] = [None] * len(shards)  # each reader is opened when it is needed

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_readers": [None] * len(self._readers)}  # another process opens its own

    def __len__(self) -> int:
        return len(self._indices)

    def read_encoded(self, i: int) -> Record:
        """Return record i with its image as an `EncodedImage`."""
        fields = self._fields(i)
        image = EncodedImage(fields["image"], f"image {fields['name']} in {self._files[0].parent}")
        depth = None if fields.get("depth") is None else _depth(fields["depth"])
        if depth is not None and depth.shape != image.size[::-1]:
            raise UserError(f"{image.location}: the depth image has another size; pack the set again")
        return self._record(i, fields, image, depth)

    def read_annotation(self, i: int) -> Record:
        """Return record i without image and depth."""
        return self._record(i, self._fields(i), None, None)

    def _record(self, i: int, fields: dict, image: EncodedImage | None, depth: np.ndarray | None) -> Record:
        try:
            record = Record(**fields | {"image": image, "depth": depth})
        except TypeError as error:
            raise self._damage(i, error) from None
        check_form(record, f"{self._files[0].parent}: record {i}")
        return record

    def _fields(self, i: int) -> dict[str, typing.Any]:
        position = int(self._indices[i])
        shard = int(np.searchsorted(self._starts, position, side="right")) - 1
        try:
            reader = self._readers[shard]
            if reader is None:  # two threads may both open a reader, which does no harm
                reader = self._readers[shard] = ArrayRecordReader(str(self._files[shard]), "readahead_buffer_size:0")
            content = reader.read([position - int(self._starts[shard])])[0]
            fields = typing.cast(dict, serialization.msgpack_restore(content))
            if not isinstance(fields["image"], bytes) or not isinstance(fields.get("depth", b""), bytes):
                raise TypeError("an image is not encoded")
            return fields | {"name": str(fields["name"])}
        except (RuntimeError, *MALFORMED) as error:
            raise self._damage(i, error) from None

    def _damage(self, i: int, error: Exception) -> UserError:
        position = int(self._indices[i])
        shard = int(np.searchsorted(self._starts, position, side="right")) - 1
        reason = one_line(str(error).split(";")[0])
        return UserError(
            f"{self._files[shard]}: damaged at record {position} ({reason}); pack the set again, intact files are kept"
        )


def encode(source: Source, i: int) -> bytes:
    """Encode record i of a source as bytes, from which `PackedSet` reads an equal record.

    If the source has a method `encoded` and its bytes decode to the image of the record, these bytes are packed.
    Otherwise the image is packed as PNG. Depth in integer mm is packed as 16-bit PNG; other depth as a PNG whose four
    channels are the bytes of float32 values.
    """
    record = source[i]
    fields = {key: value for key, value in vars(record).items() if value is not None}
    encoded = getattr(source, "encoded", None)
    image = encoded(i)[0] if encoded else b""
    found = decode(image)
    if found is None or not np.array_equal(found, record.pixels):
        image = _png(record.pixels[..., ::-1])
    fields["image"] = image
    if record.depth is not None:
        depth = np.ascontiguousarray(record.depth, np.float32)
        whole = np.clip(depth, 0, 2**16 - 1).astype(np.uint16)
        fields["depth"] = _png(whole if np.array_equal(whole, depth) else depth[..., None].view(np.uint8))  # (H, W, 4)
    fields |= {key: np.asarray(value) for key, value in fields.items() if not isinstance(value, (bytes, str))}
    return serialization.msgpack_serialize(fields)


def _png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def _depth(content: bytes) -> np.ndarray:
    """Decode a packed depth image to (H, W) float32 mm."""
    pixels = decode(content, cv2.IMREAD_UNCHANGED)
    if pixels is None or (pixels.dtype, pixels.shape[2:]) not in ((np.uint16, ()), (np.uint8, (4,))):
        raise UserError("a depth image of a packed set is damaged: pack the set again")
    return pixels.astype(np.float32) if pixels.ndim == 2 else pixels.view(np.float32)[..., 0]
