"""Pack any data set on disk into shards for `datasets/packed.py`. Each shard is verified by reading it back."""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import os
import typing
import zlib
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

import jaxhand
from jaxhand import data
from jaxhand.config import UserError
from jaxhand.data.datasets.packed import Manifest, PackedSet, encode
from jaxhand.data.record import Record, Source, read_annotation, spread

SPLITS = ("train", "val", "test")
OPTIONS = "group_size:1,uncompressed"  # records are read one by one, and images are compressed already
_CHUNK = 64  # records encoded in parallel
_COMPARED = 200  # number of random records per split that are compared with the source


def pack(
    kind: str,
    path: str | Path,
    out: str | Path,
    *,
    splits: typing.Sequence[str] = (),
    shard_size: int = 16384,
    mano_path: str | Path = "",
    say: typing.Callable[[str], None] = print,
) -> None:
    """Pack a data set, or continue after an interruption: shards with the correct checksum are kept.

    Args:
        kind: name of the data set, such as "dexycb-s1".
        path: folder or file of the data set.
        out: folder to pack into.
        splits: some of `SPLITS`; empty: all splits of the data set.
        shard_size: number of records per shard.
        mano_path: MANO's file, for vertices and for poses that need MANO's arrays; empty: these labels are not packed.
        say: function that is called with every line of progress.

    Raises:
        UserError: the data set has a mistake, `out` contains other files or cannot be written, or the written records
            differ from the source.
    """
    out = Path(out).expanduser()
    if shard_size < 1:
        raise UserError(f"--shard-size must be at least 1, got {shard_size}")
    sources = _open(kind, path, splits, mano_path, say)
    held_out = _held_out(kind, path, sources["train"]) if "train" in sources else []
    for split, source in sources.items():
        for sentence in getattr(source, "left_out", []):
            say(f"{split}: {sentence}")
    manifest = _begin(kind, out, shard_size, sources)
    for split, source in sources.items():
        if split == "val" and held_out:
            entry, indices = manifest.splits["train"], np.array(held_out)
        else:
            entry, indices = _shards(split, source, out, manifest, say), np.arange(len(source))
        if split == "train":
            entry["held_out"] = held_out
        _compare(source, PackedSet(out, entry["shards"], indices), f"{out}: {split}")
    manifest.complete = True
    with _writing(out):
        manifest.write(out)
    say(f"{', '.join(f'{split} {len(source):,}' for split, source in sources.items())} records: read {kind}:{out}")


def _open(kind: str, path, splits, mano_path, say) -> dict:
    """Open the source of every split. A split that the user did not name may be missing."""
    sources, missing = {}, []
    for split in splits or SPLITS:
        try:
            sources[split] = data.read(kind, path, split, mano_path=mano_path)
        except UserError as error:
            if splits:
                raise
            missing.append((split, error))
    if not sources:
        raise missing[0][1]
    for split, error in missing:
        say(f"{split} is left out: {error}")
    return sources


def _held_out(kind: str, path, train) -> list[int]:
    """Return the sorted indices of the records of "train" that are left out by `without_val`."""
    try:
        without = data.read(kind, path, "train", without_val=True)
    except UserError:  # the data set is too small for a split "val"
        return []
    if len(without) == len(train):
        return []
    indices, kept = [], 0
    for i in range(len(train)):
        if kept < len(without) and _key(train, i) == _key(without, kept):
            kept += 1
        else:
            indices.append(i)
    return indices


def _key(source: Source, i: int) -> tuple:
    record = read_annotation(source, i)
    return record.name, record.hand, np.asarray(record.keypoints_3d).tobytes()


def _begin(kind: str, out: Path, shard_size: int, sources: dict[str, Source]) -> Manifest:
    """Return the manifest of an earlier packing of the same data set, or a new manifest.

    Raises:
        UserError: the folder contains anything else, which is left as it is.
    """
    with _writing(out):
        out.mkdir(parents=True, exist_ok=True)
        if (out / "packed.json").exists():
            manifest = Manifest.read(out)
            if (manifest.name, manifest.shard_size) != (kind, shard_size):
                holds = f"{manifest.name} in shards of {manifest.shard_size}"
                raise UserError(f"{out}: contains {holds}, not {kind} in shards of {shard_size}; choose another folder")
            for split, source in sources.items():
                if split in manifest.splits:
                    _check_same(split, source, out, manifest.splits[split])
        elif any(out.iterdir()):
            raise UserError(f"{out}: is not empty and contains no packed set; choose another folder")
        else:
            manifest = Manifest(kind, shard_size, jaxhand.__version__)
            manifest.write(out)
    return manifest


def _check_same(split: str, source: Source, out: Path, entry: dict) -> None:
    """Raise a UserError if labels in the shards of an earlier packing are not those of the source."""
    if entry["count"] != len(source):
        counts = f"{entry['count']} records, but now has {len(source)}"
        raise UserError(f"{out}: {split} had {counts}; choose another folder")
    written = np.arange(sum(shard["count"] for shard in entry["shards"]))
    packed = PackedSet(out, entry["shards"], written)
    for i in spread(len(written), _COMPARED):
        try:
            ours = read_annotation(packed, i)
        except UserError:  # a missing or damaged shard, which is written again
            continue
        theirs = dataclasses.replace(read_annotation(source, i), image=None, depth=None)
        _check_equal(ours, theirs, i, f"{out}: {split}")


def _shards(split: str, source: Source, out: Path, manifest: Manifest, say) -> dict:
    """Write the missing shards of a split. Returns the entry of the split in the manifest."""
    entry = manifest.splits.setdefault(split, {"count": len(source), "shards": []})
    starts = range(0, len(source), manifest.shard_size)
    for number, start in enumerate(starts):
        indices = range(start, min(start + manifest.shard_size, len(source)))
        place = f"{split} {number + 1}/{len(starts)}"
        if number < len(entry["shards"]) and _is_whole(out, entry["shards"][number]):
            say(f"{place}: kept")
            continue
        if manifest.complete:  # from here on, the set is not complete
            manifest.complete = False
            with _writing(out):
                manifest.write(out)
        shard = _write(source, indices, out / f"{split}-{number:05d}-of-{len(starts):05d}.array_record")
        entry["shards"][number : number + 1] = [shard]
        with _writing(out):
            manifest.write(out)
        say(f"{place}: {shard['count']:,} records, {shard['bytes'] / 1e6:,.1f} MB")
    return entry


def _is_whole(out: Path, shard: dict) -> bool:
    file = out / shard["file"]
    return file.is_file() and file.stat().st_size == shard["bytes"] and _sha256(file) == shard["sha256"]


def _write(source: Source, indices: range, file: Path) -> dict:
    """Write a shard and verify it by reading it back. Returns the entry of the shard in the manifest."""
    part, sums = file.with_suffix(".part"), []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool, _writing(file.parent):
        writer = ArrayRecordWriter(str(part), OPTIONS)
        for begin in range(0, len(indices), _CHUNK):
            for record in pool.map(lambda i: encode(source, i), indices[begin : begin + _CHUNK]):
                sums.append(zlib.crc32(record))
                writer.write(record)
        writer.close()
        reader = ArrayRecordReader(str(part))
        if [zlib.crc32(record) for record in reader.read_all()] != sums:
            raise UserError(f"{part}: the records on disk differ from those that were written; check the disk")
        reader.close()
        os.replace(part, file)
    return {"file": file.name, "count": len(indices), "bytes": file.stat().st_size, "sha256": _sha256(file)}


def _compare(source: Source, packed: PackedSet, where: str) -> None:
    """Compare random packed records with the source.

    Raises:
        UserError: a record differs; the message names the first one.
    """
    if len(source) != len(packed):
        raise UserError(f"{where}: {len(packed)} records, but the source has {len(source)}; pack into another folder")
    rng = np.random.default_rng(0)
    for i in map(int, rng.permutation(len(source))[:_COMPARED]):
        _check_equal(packed[i], source[i], i, where)


def _check_equal(packed: Record, source: Record, i: int, where: str) -> None:
    """Raise a UserError if record `i` is not equal in a packed set and its source."""
    ours, theirs = vars(packed), vars(source)
    differing = [key for key in theirs if not np.array_equal(ours[key], theirs[key])]
    if differing:
        differs = f"record {i} ({theirs['name']}) differs in {differing[0]}"
        raise UserError(f"{where}: {differs} from its source; pack into another folder")


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@contextlib.contextmanager
def _writing(out: Path):
    """Convert errors of ArrayRecord and of the operating system to a UserError that names the folder."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).split(";")[0]
        raise UserError(f"{out}: cannot write ({reason}); run the same command again to continue") from None
