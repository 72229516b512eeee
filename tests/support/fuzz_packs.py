"""Valid rendered and packed hands for `fuzz`, and functions that read damaged ones."""

import json
import zlib
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from jaxhand.data import inspect, pack
from jaxhand.data.datasets import packed as packed_sets
from jaxhand.data.record import Record
from jaxhand.data.synthetic import dataset
from jaxhand.io import array_file

SHARD = "train-00000-of-00001.array_record"
COUNT, SIZE = 2, 8


def rendered() -> dict[str, np.ndarray]:
    """The arrays of a rendered set."""
    floats = {"K": (3, 3), "keypoints_3d": (21, 3), "pose": (24,), "shape": (10,), "turn": (3, 3)}
    arrays = {name: np.ones((COUNT, *shape), np.float32) for name, shape in floats.items()}
    return arrays | {
        "image": np.zeros((COUNT, SIZE, SIZE, 3), np.uint8),
        "depth": np.ones((COUNT, SIZE, SIZE), np.uint16),
    }


def read_rendered(path: Path) -> None:
    """Read a rendered set. The checksum of its header is made right first, so that damage is not noticed by that."""
    content = path.read_bytes()
    magic, length, _ = array_file._PREFIX.unpack(content[: array_file._PREFIX.size].ljust(array_file._PREFIX.size))
    header = content[array_file._PREFIX.size :][:length]
    path.write_bytes(array_file._PREFIX.pack(magic, length, zlib.crc32(header)) + content[array_file._PREFIX.size :])
    records = dataset.SyntheticSet(dataset.read_cache(path, COUNT, SIZE), "a", 1.4)
    assert records[len(records) - 1].image.shape == (SIZE, SIZE, 3)


class _Hands:
    """Two hands, the image of the first as a JPEG."""

    def __init__(self, image: bytes):
        self._image = image

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, i: int) -> Record:
        K = np.array([[500, 0, 32], [0, 500, 24], [0, 0, 1.0]])
        joints = np.arange(63.0).reshape(21, 3) + 500
        image = packed_sets.decode(self._image)
        more = {"depth": np.full((48, 64), 550.25), "bbox": np.array([1, 2, 30, 40]), "mano_pose": np.zeros(48)}
        more |= {"keypoints_2d": np.ones((21, 2)), "joint_valid_2d": np.ones(21), "vertices": np.ones((5, 3))}
        return Record(image, K, joints, np.ones(21), "left" if i else "right", name=str(i), **(more if i else {}))

    def encoded(self, i: int) -> tuple[bytes, None]:
        return self._image, None


def packed(home: Path, image: bytes) -> tuple[list[bytes], bytes, bytes]:
    """Pack two hands into `home`: returns the records, the shard, and the manifest."""
    source = _Hands(image)
    records = [packed_sets.encode(source, i) for i in range(COUNT)]
    shard = pack._write(source, range(COUNT), home / SHARD)
    entry = {"count": COUNT, "shards": [shard], "held_out": [1]}
    packed_sets.Manifest("folder", 16, "1", complete=True, splits={"train": entry}).write(home)
    return records, (home / SHARD).read_bytes(), (home / "packed.json").read_bytes()


def read_record(path: Path) -> None:
    """Read a record, from a shard that has it alone."""
    shard = path.with_name("one.array_record")
    writer = ArrayRecordWriter(str(shard), pack.OPTIONS)
    writer.write(path.read_bytes())
    writer.close()
    _read(packed_sets.PackedSet(path.parent, [{"file": shard.name, "count": 1}], np.arange(1)))


def read_shard(path: Path) -> None:
    """Read the records of a shard."""
    _read(packed_sets.PackedSet(path.parent, [{"file": path.name, "count": COUNT}], np.arange(COUNT)))


def read_manifest(path: Path) -> None:
    """Open each split of a manifest, and inspect the set."""
    for split, without_val in (("train", False), ("train", True), ("val", False), ("test", False)):
        try:
            _read(packed_sets.load(path.parent, split, kind="folder", without_val=without_val))
        except packed_sets.UserError as error:
            last = error
    inspect.inspect("folder", path.parent, say=lambda line: None)
    raise last


def _read(records: packed_sets.PackedSet) -> None:
    for i in range(min(len(records), 3)):
        record = records[i]
        assert record.pixels.shape == (48, 64, 3) and json.dumps(records.read_annotation(i).name)
