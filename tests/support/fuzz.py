"""Damaged files for every reader: valid files are changed at random, and each reader must return or name the fault.

`python -m tests.support.fuzz SECONDS [SEED [KIND …]]` runs for a long time, in processes with limited memory, and
prints how many files were read, how many were refused, and every fault.
"""

import collections
import io
import json
import multiprocessing
import os
import pickle
import random
import resource
import struct
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from jaxhand import config as configs
from jaxhand.config import UserError
from jaxhand.data.datasets import coco, folder, hamer_npz, hamer_tars, ho3d, label_cache, rhd
from jaxhand.data.images.depth import read_grey
from jaxhand.data.images.encoded import EncodedImage
from jaxhand.evaluation import prediction_files
from jaxhand.hand import mano
from jaxhand.inference import boxes
from jaxhand.interop import safetensors, tflite, torch_file, torch_legacy
from jaxhand.interop.tensor import Tensor
from jaxhand.io import array_file, numpy_files, pickles
from tests.support import fuzz_packs, layouts_hamer, mano_file, tflite_files, torch_files

MEMORY = 2 * 10**9  # bytes, in addition to what a process has after its imports
SECONDS = 30.0  # for one file
INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**63, 2**64 - 1)
TOKENS = (
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b"-",
    b"1e999",
    b"NaN",
    b"null",
    b'"',
    b"\0",
    b" " * 50,
    b"9" * 400,
    b"9" * 5000,
)
TOKENS += (b"[" * 400, b"&a [*a]", b": ", b"\xff", b"\xef\xbb\xbf", b"\\ud800", b"\n", b"true", b"1.5", b"<<: ")


class Kind(NamedTuple):
    """A format: the name of its file, valid contents, and functions that read a file."""

    name: str
    contents: list[bytes]
    readers: list[Callable[[Path], object]]
    documented: tuple[type[Exception], ...] = (UserError,)


def mutate(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Change a content at one to six places. Members of a zip archive are changed before the archive is made again."""
    if content.startswith(b"PK") and rng.random() < 0.6:
        return _mutate_member(content, rng, others)
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        at = rng.randrange(len(data) + 1)
        choice = rng.randrange(8)
        if choice == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif choice == 1 and at < len(data):
            data[at] = rng.randrange(256)
        elif choice == 2:
            size = rng.choice((1, 2, 4, 8))
            number = rng.choice(INTERESTING) & (1 << 8 * size) - 1
            data[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
        elif choice == 3:
            del data[at : at + rng.choice((1, 2, 8, 100))]
        elif choice == 4:
            piece = data[at : at + rng.choice((1, 4, 40, 400))]
            data[at:at] = piece * rng.choice((1, 2, 20))
        elif choice == 5:
            data[at:at] = rng.choice(TOKENS)
        elif choice == 6:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            data[at : at + rng.choice((0, 30))] = other[start : start + 60]
        elif rng.random() < 0.3:
            del data[at:]
    return bytes(data)


def _mutate_member(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    chosen, file = rng.randrange(len(members)), io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number, (info, member) in enumerate(members):
            archive.writestr(info.filename, mutate(member, rng, others) if number == chosen else member)
    return file.getvalue()


def kinds(folder_of_files: Path) -> dict[str, Kind]:
    """All formats. Valid files that a reader refers to, such as images, are written to `folder_of_files`."""
    home, rng = folder_of_files, np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 255, (48, 64, 3), np.uint8), (0, 0), 5)
    encoded = {end: cv2.imencode(end, image)[1].tobytes() for end in (".jpg", ".png", ".webp", ".bmp", ".gif", ".tiff")}
    progressive = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    exif = b"MM\0*\0\0\0\x08\0\1\1\x12\0\4\0\0\0\1\0\0\0\6\0\0\0\0"
    turned = encoded[".jpg"][:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\0\0" + exif
    images = [*encoded.values(), progressive, turned + encoded[".jpg"][2:]]
    grey = cv2.imencode(".png", rng.integers(0, 2**16, (48, 64), np.uint16))[1].tobytes()
    (home / "a.jpg").write_bytes(encoded[".jpg"])

    joints = (rng.normal(0, 40, (3, 21, 3)) + [0, 0, 600]).round(2)
    K = [[500, 0, 32], [0, 500, 24], [0, 0, 1]]
    lines = [
        {"image": "a.jpg", "hand": "right", "K": K, "joints_3d": j.tolist(), "bbox": [1, 2, 30, 40]} for j in joints
    ]
    box_list = [{"image": "a.jpg", "bbox": [1, 2, 30, 40.5], "hand": "left", "score": 0.5, "K": K}] * 2
    coco_image = {"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}
    annotation = {"image_id": 1, "hand_type": "left", "bbox": [1, 2, 30, 40], "joint_cam": joints[0].tolist()}
    annotation |= {"keypoints": joints[0].tolist(), "cam_param": {"focal": [500, 500], "princpt": [32, 24]}}
    coco_set = {"images": [coco_image], "annotations": [annotation] * 2}

    dumps = [pickle.dumps(_values(), protocol) for protocol in range(6)]
    frame = {
        "camMat": np.array(K),
        "handJoints3D": -joints[0] / 1000,
        "handPose": np.zeros(48),
        "handTrans": np.ones(3),
    }
    rhd_hand = {"uv_vis": np.ones((42, 3)), "xyz": np.ones((42, 3)), "K": np.eye(3)}
    hands = [layouts_hamer.hand(seed) for seed in range(2)]
    npz, npz_objects, hamer = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.savez_compressed(npz, xyz=joints, verts=joints.astype(np.float32), id=np.arange(3))
    np.savez(npz_objects, a=np.array([{"x": joints[0]}, None], object), b=np.array(["ab"]))
    np.savez(hamer, imgname=np.array(["a.jpg", "b.jpg"], object), center=np.full((2, 2), 30.0), scale=np.full(2, 50.0))
    npy = io.BytesIO()
    np.save(npy, joints)

    weights = {"a": rng.normal(size=(3, 4)).astype(np.float32), "b": np.arange(5), "step": 3, "name": "x"}
    torch_files.save(home / "t.pt", {"state_dict": weights, "path": Path("a")})
    torch_files.save_legacy(home / "t.pth", weights)
    header = {"a": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}}
    header |= {"b": {"dtype": "I64", "shape": [2], "data_offsets": [48, 64]}, "__metadata__": {"format": "pt"}}
    text = json.dumps(header).encode()
    tensors = len(text).to_bytes(8, "little") + text + bytes(64)
    network = tflite_files.flatbuffer(tflite_files.one_convolution(rng.normal(size=(3, 2, 2, 4)), np.arange(3)))
    bundle = io.BytesIO()
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("hand.tflite", network)
    mano_file.write(home / "MANO_RIGHT.pkl", mano_file.model())
    predictions = [joints / 1000, joints / 1000]
    prediction_files.write_freihand(home / "pred.json", *predictions)
    prediction_files.write_freihand(home / "pred.zip", *predictions)
    prediction_files.write_dexycb(home / "pred.txt", np.arange(3), joints)
    indented = json.dumps([j.tolist() for j in predictions], indent=1).encode()
    array_file.write(home / "arrays", {"a": joints, "b": np.arange(3)})
    array_file.write(home / "a.hands", fuzz_packs.rendered())
    records, shard, manifest = fuzz_packs.packed(home, encoded[".jpg"])
    config = configs.dump(configs.Config()).encode()

    def predicted(path):
        return prediction_files.read(path, ["xyz", "verts"])

    read = {
        "pickle": ("a.pkl", dumps, [pickles.load]),
        "frame": ("a.pkl", [pickle.dumps(frame), pickle.dumps(frame, 0)], [ho3d._labels]),
        "rhd": ("a.pickle", [pickle.dumps({0: rhd_hand, 1: rhd_hand}, 2)], [rhd._read]),
        "hands": ("a.pyd", [pickle.dumps(hands), pickle.dumps(hands, 0)], [_tar_labels]),
        "mano": ("MANO_RIGHT.pkl", [(home / "MANO_RIGHT.pkl").read_bytes()], [mano.read]),
        "npz": ("a.npz", [npz.getvalue(), npz_objects.getvalue()], [_npz, predicted]),
        "hamer": ("h.npz", [hamer.getvalue()], [lambda path: hamer_npz.load(path, "test")]),
        "npy": ("a.npy", [npy.getvalue()], [numpy_files.read_npy, predicted]),
        "torch": ("a.pt", [(home / "t.pt").read_bytes()], [lambda path: _tensors(torch_file.read(path))]),
        "legacy": ("a.pth", [(home / "t.pth").read_bytes()], [lambda path: _tensors(torch_legacy.read(path))]),
        "safetensors": ("a.safetensors", [tensors], [lambda path: _tensors(safetensors.read(path))]),
        "tflite": ("a.tflite", [network], [tflite.read]),
        "task": ("a.task", [bundle.getvalue()], [lambda path: tflite.read_archive(path, lambda name: True)]),
        "image": ("a.jpg", images, [_image]),
        "depth": ("a.png", [grey], [lambda path: read_grey(path, 64, 48)]),
        "tar": ("a.tar", [_tar(hands, encoded[".jpg"])], [hamer_tars._read]),
        "predictions": ("pred.json", [(home / "pred.json").read_bytes(), indented], [predicted]),
        "prediction archive": ("pred.zip", [(home / "pred.zip").read_bytes()], [predicted]),
        "lines": ("pred.txt", [(home / "pred.txt").read_bytes()], [predicted]),
        "labels": ("train.jsonl", ["\n".join(map(json.dumps, lines)).encode()], [_folder]),
        "boxes": ("boxes.json", [json.dumps(box_list).encode()], [boxes.read_boxes]),
        "coco": ("coco.json", [json.dumps(coco_set).encode()], [coco._parse]),
        "numbers": (
            "xyz.json",
            [json.dumps(joints.tolist()).encode()],
            [lambda path: label_cache._parse(path, (21, 3))],
        ),
        "config": ("a.yaml", [config, b"training: &t {num_epochs: 3}\ndata: {threads: 1}\n"], [configs.load]),
        "hands file": (
            "a.hands",
            [(home / "a.hands").read_bytes()],
            [fuzz_packs.read_rendered],
            (array_file.DamagedError,),
        ),
        "packed record": ("record", records, [fuzz_packs.read_record]),
        "packed shard": (fuzz_packs.SHARD, [shard], [fuzz_packs.read_shard]),
        "packed manifest": ("packed.json", [manifest], [fuzz_packs.read_manifest]),
        "arrays": ("arrays", [(home / "arrays").read_bytes()], [array_file.read], (array_file.DamagedError,)),
    }
    return {name: Kind(*kind) for name, kind in read.items()}


def _values() -> dict:
    """Values of every kind that pickles of data sets have."""
    plain = [1, 2**70, -0.5, 1j, None, True, "ä", b"\xff\x00", {1}, frozenset({2}), (3,), collections.OrderedDict(a=1)]
    arrays = [np.arange(6.0).reshape(2, 3), np.array(["a"]), np.array([{"a": np.ones(2)}], object), np.float32(0.5)]
    return {"plain": plain, "arrays": arrays}


def _tar(hands: list[dict], image: bytes) -> bytes:
    file = io.BytesIO()
    with layouts_hamer.tarfile.open(fileobj=file, mode="w") as tar:
        for number, hand in enumerate(hands):
            for name, member in ((f"{number}.jpg", image), (f"{number}.data.pyd", pickle.dumps([hand]))):
                info = layouts_hamer.tarfile.TarInfo(name)
                info.size = len(member)
                tar.addfile(info, io.BytesIO(member))
    return file.getvalue()


def _npz(path: Path) -> None:
    numpy_files.read_npz(path, objects=True)


def _tar_labels(path: Path) -> None:
    hamer_tars._hands(path.read_bytes(), str(path))


def _folder(path: Path) -> None:
    records = folder.load(path.parent, "train")
    records.read_encoded(0)


def _image(path: Path) -> None:
    for exif in (True, False):
        photo = EncodedImage(path.read_bytes(), "image a", exif)
        assert photo.focal_length is None or photo.focal_length > 0
        width, height = photo.size
        assert photo.pixels.shape == (height, width, 3)
        photo.decode_region(np.array([[0, width / 2], [0, height / 2]]), 2)


def _tensors(tree: object) -> None:
    """Read the elements of every tensor in nested dicts and lists."""
    for value in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        value.read() if isinstance(value, Tensor) else _tensors(value)


class Result(NamedTuple):
    """What a number of damaged files led to."""

    accepted: int
    refused: int
    slowest: float  # seconds
    faults: dict[str, bytes]  # the last line of each traceback and its place → a file


def run(kind: Kind, home: Path, seed: int, *, count: int | None = None, seconds: float = 0.0) -> Result:
    """Read `count` damaged files, or as many as `seconds` allow."""
    rng, path = random.Random(seed), home / kind.name
    accepted = refused = number = 0
    slowest, faults, end = 0.0, {}, time.monotonic() + seconds
    while number < count if count is not None else time.monotonic() < end:
        content = mutate(rng.choice(kind.contents), rng, kind.contents)
        path.write_bytes(content)
        number += 1
        for read in kind.readers:
            start = time.monotonic()
            try:
                read(path)
                accepted += 1
            except kind.documented as error:
                refused += 1
                if "\n" in str(error) or len(str(error)) > 600:
                    faults.setdefault(f"message: {str(error)[:200]!r}", content)
            except Exception as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                faults.setdefault(
                    f"{type(error).__name__}: {str(error)[:80]} ({place.filename}:{place.lineno})", content
                )
            slowest = max(slowest, time.monotonic() - start)
            if time.monotonic() - start > SECONDS:
                faults.setdefault("too slow", content)
    return Result(accepted, refused, slowest, faults)


def _child(name: str, seed: int, seconds: float, pipe) -> None:
    os.nice(19)
    with tempfile.TemporaryDirectory() as home:
        kind = kinds(Path(home))[name]
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        pipe.send(run(kind, Path(home), seed, seconds=seconds))


def run_limited(name: str, seed: int, seconds: float) -> Result:
    """Run a kind in a process of its own, whose memory is limited. A crash of the process is a fault."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(name, seed, seconds, send))
    child.start()
    send.close()
    try:
        result = receive.recv()
    except EOFError:
        result = None
    child.join()
    return result or Result(0, 0, 0.0, {f"the process ended with code {child.exitcode}, seed {seed}": b""})


def main(seconds: str, seed: str = "0", *names: str) -> None:
    """Run all kinds, or those named, for `seconds` together."""
    with tempfile.TemporaryDirectory() as home:
        names = names or tuple(kinds(Path(home)))
    total = 0
    for name in names:
        result = run_limited(name, int(seed), float(seconds) / len(names))
        total += result.accepted + result.refused
        print(f"{name}: {result.accepted} read, {result.refused} refused, slowest {result.slowest:.2f} s", flush=True)
        for number, (fault, content) in enumerate(result.faults.items()):
            print(f"  FAULT {fault}", flush=True)
            Path(tempfile.gettempdir(), f"fault-{name}-{number}").write_bytes(content)
    print(f"{total} files in all")


if __name__ == "__main__":
    main(*sys.argv[1:])
