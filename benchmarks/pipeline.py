"""Images/s from JPEG files to augmented 256x256 batches, timed in turn with an equal PyTorch DataLoader.

`python -m benchmarks.pipeline`: generated trees in FreiHAND's and DexYCB's layout, with JPEGs of the same size in bytes
as the real ones. Both sides have the same number of workers. Each round times every contestant; ratios are medians over
rounds. The share of JPEG decoding alone is printed, because it is the limit.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import jax
import numpy as np
import torch

from jaxhand import config as configs
from jaxhand import data
from jaxhand.data import pack, pipeline
from jaxhand.data.datasets import packed
from jaxhand.data.images.encoded import EncodedImage
from jaxhand.data.record import read_encoded
from jaxhand.training.epoch_times import EpochTimes
from jaxhand.training.feed import Feed
from jaxhand.training.sharding import make_mesh, to_global
from jaxhand.training.step import Trainer

BATCH, SIZE, CROP_SCALE = 64, 256, 1.25
AUGMENT = {"rotation_deg": 30, "scale": 0.25, "shift": 0.1, "color": 0.2}
MEAN, DEVIATION = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])  # of ImageNet
START = """
import re, sys, time
begin = time.time()
from jaxhand.data import freihand
imported = time.time()
source = freihand.load(sys.argv[1], "train")
source.read_annotation(len(source) - 1)
end, memory = time.time(), int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
print(f"{len(source):,} records in {end - imported:.2f} s after {imported - begin:.2f} s of imports, {memory:.0f} MB")
"""


def main() -> None:
    """Make the trees, time everything in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", type=int, default=12, help="batches per round and contestant")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # records of the index
        folder = Path(folder)
        start_up(folder / "index")
        freihand_tree(folder / "freihand")
        dexycb_tree(folder / "dexycb")
        compare("FreiHAND, 224x224", "freihand", folder / "freihand", arguments)
        compare("DexYCB, 640x480", "dexycb-json", folder / "dexycb", arguments)
        keep_busy(data.read("freihand", folder / "freihand", "train"), arguments)
        waits(data.read("freihand", folder / "freihand", "train"), arguments)


def compare(name: str, kind: str, path: Path, arguments) -> None:
    """Time a set, the packed set, PyTorch on the same files, and decoding alone."""
    source, out = data.read(kind, path, "train"), path.with_name(f"packed-{kind}")
    photos = [read_encoded(source, i).image for i in range(len(source))]
    pack.pack(kind, path, out, splits=("train",), say=lambda line: None)
    contestants = {
        "jaxhand, files": Ours(source, arguments.workers),
        "jaxhand, files, processes": Ours(source, arguments.workers, processes=True),
        "jaxhand, ArrayRecord": Ours(packed.load(out, "train", kind=kind), arguments.workers),
        "PyTorch": Theirs(source, arguments.workers),
        "PyTorch, uint8 out": Theirs(source, arguments.workers, to_float=False),
    }
    rates = {key: [] for key in (*contestants, "decoding alone")}
    for _ in range(arguments.rounds):
        for key, contestant in contestants.items():
            rates[key].append(contestant.rates(arguments.batches))
        rates["decoding alone"].append(decoding(photos))
    kilobytes = statistics.mean(len(photo.content) for photo in photos) / 1000
    print(f"\n{name}, {kilobytes:.0f} KB per file, {arguments.workers} workers, {arguments.rounds} rounds in turn")
    print(f"{'median':22} images/s   of PyTorch's   images/s of one core of PyTorch's")
    for key, of_rounds in rates.items():
        cells = [
            (statistics.median(own), statistics.median(o / t for o, t in zip(own, their)))
            for own, their in zip(zip(*of_rounds), zip(*rates["PyTorch"]))
        ]
        print(f"{key:22} {cells[0][0]:8.0f} {cells[0][1]:14.2f} {cells[1][0]:22.0f} {cells[1][1]:14.2f}")
    share = statistics.median(o[1] / d[1] for o, d in zip(rates["jaxhand, files"], rates["decoding alone"]))
    print(f"decoding whole JPEGs would take {share:.0%} of the time of a core that jaxhand takes from files")


class Ours:
    """The training batches of a source."""

    def __init__(self, source, workers: int, processes: bool = False):
        self.ahead = workers + 2 if processes else workers + 1
        augment = f"data.augment={json.dumps(AUGMENT)}"
        readers = (f"data.workers={workers}",) if processes else ()
        self.batches = pipeline.train_iterator(source, our_config(SIZE, BATCH, workers, augment, *readers))
        next(self.batches)
        self.processes = [child.pid for child in multiprocessing.active_children()] if processes else []

    def rates(self, count: int) -> tuple[float, float]:
        return rates(self.batches, count, self.ahead, self.processes)


class Theirs:
    """PyTorch's DataLoader on the same files, boxes and joints."""

    def __init__(self, source, workers: int, to_float: bool = True):
        self.ahead = 2 * workers
        loader = torch.utils.data.DataLoader(
            TorchSet(source, to_float), BATCH, shuffle=True, num_workers=workers, prefetch_factor=2, drop_last=True,
            worker_init_fn=one_thread,
        )  # fmt: skip
        self.batches = iter(loader)
        self.processes = [worker.pid for worker in self.batches._workers]

    def rates(self, count: int) -> tuple[float, float]:
        return rates(self.batches, count, self.ahead, self.processes)


class TorchSet(torch.utils.data.Dataset):
    """Reads an image as the field's loaders do: RGB, one warp (rotation, scale, shift), colour, normalisation."""

    def __init__(self, source, to_float: bool):
        records = [read_encoded(source, i) for i in range(len(source))]
        self.files = [record.image.location.removeprefix("image ") for record in records]
        self.K = np.float32([record.K for record in records])
        self.joints = np.float32([record.keypoints_3d for record in records])
        self.to_float = to_float

    def __len__(self) -> int:
        return len(self.files) * 1000  # an endless epoch

    def __getitem__(self, i: int) -> dict:
        i %= len(self.files)
        image = cv2.cvtColor(cv2.imread(self.files[i]), cv2.COLOR_BGR2RGB)
        K, joints = self.K[i], self.joints[i]
        pixels = joints @ K.T
        pixels = pixels[:, :2] / pixels[:, 2:]
        low, high = pixels.min(0), pixels.max(0)
        side = CROP_SCALE * (high - low).max() * (1 + AUGMENT["scale"] * np.random.uniform(-1, 1))
        center = (low + high) / 2 + side * AUGMENT["shift"] * np.random.uniform(-1, 1, 2)
        angle = AUGMENT["rotation_deg"] * np.random.uniform(-1, 1)
        A = cv2.getRotationMatrix2D(tuple(center.tolist()), -angle, SIZE / side)
        A[:, 2] += (SIZE - 1) / 2 - center
        turn = np.float32([[np.cos(np.deg2rad(angle)), -np.sin(np.deg2rad(angle)), 0],
                           [np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle)), 0],
                           [0, 0, 1]])  # fmt: skip
        image = cv2.warpAffine(image, A, (SIZE, SIZE), flags=cv2.INTER_LINEAR)
        if self.to_float:
            image = image.transpose(2, 0, 1).astype(np.float32)
            for channel, gain in enumerate(1 + AUGMENT["color"] * np.random.uniform(-1, 1, 3)):
                image[channel] = np.clip(image[channel] * gain, 0, 255)
                image[channel] = (image[channel] - MEAN[channel]) / DEVIATION[channel]
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image)),
            "keypoints_2d": torch.from_numpy(np.float32(pixels @ A[:, :2].T + A[:, 2])),
            "keypoints_3d": torch.from_numpy(joints @ turn.T),
            "joint_valid": torch.ones(21),
            "K": torch.from_numpy(np.float32(np.vstack([A, [0, 0, 1]]) @ K @ turn.T)),
        }


def one_thread(_: int) -> None:
    """Start a worker of a DataLoader with one thread."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def rates(batches, count: int, ahead: int, processes=()) -> tuple[float, float]:
    """Images/s, and images/s per core, over `count` batches, without the batches that were prefetched before.

    Core time is counted for this process and `processes` only: other work on the machine does not count. Afterwards it
    waits until as many batches are prefetched again.
    """
    for _ in range(ahead):
        next(batches)
    begin, cores = time.perf_counter(), core_seconds(processes)
    for _ in range(count):
        next(batches)
    seconds, cores = time.perf_counter() - begin, core_seconds(processes) - cores
    time.sleep(1.5 * ahead * seconds / count)
    return count * BATCH / seconds, count * BATCH / cores


def core_seconds(processes) -> float:
    """User and system time of this process and of others so far."""
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def decoding(photos: list[EncodedImage]) -> tuple[float, float]:
    """Images/s, and images/s per core, of the pipeline's decoder on complete JPEGs in one thread."""
    photos, everything = [EncodedImage(photo.content, "") for photo in photos], np.array([[640], [480]])
    begin, cores = time.perf_counter(), core_seconds(())
    for photo in photos:
        photo.decode_region(everything, 1)
    return len(photos) / (time.perf_counter() - begin), len(photos) / (core_seconds(()) - cores)


def our_config(size: int, batch: int, threads: int, *overrides: str) -> configs.Config:
    """A config for crops of a size."""
    sizes = (f"data.image_size={size}", f"training.batch_size={batch}", f"data.threads={threads}")
    return configs.load(None, [*sizes, f"data.crop_scale={CROP_SCALE}", *overrides])


def keep_busy(source, arguments) -> None:
    """Training of the default model on crops of 64 px: from files in turn with the step, from files ahead, from memory.

    The shares are those of the time in which the training waits for a batch: with the batch before already computed
    (ahead), or whether it is computed or not (in turn, as there is no other number).
    """
    config = our_config(64, 64, arguments.workers)
    trainer = Trainer(config, make_mesh(), total_steps=1000)
    state, batches, times = trainer.init(), pipeline.train_iterator(source, config), EpochTimes()
    feed = Feed(pipeline.train_iterator(source, config), lambda batch: to_global(batch, trainer.device_mesh), times)

    def in_turn(_) -> dict:
        with times.part("data_wait"):
            batch = next(batches)
        return to_global(batch, trainer.device_mesh)

    def steps(count: int, take) -> tuple[float, float]:
        nonlocal state
        times.end_epoch()
        losses = [None]
        for _ in range(count):
            state, loss = trainer.train_step(state, take(losses[-1]))
            jax.block_until_ready(losses[-1])  # as in the training: a loss is read one step later
            losses.append(loss)
        jax.block_until_ready(loss)
        seconds, shares = times.end_epoch()
        return 64 * count / seconds, shares["data_wait"]

    kept = in_turn(None)
    ways = {"in turn": in_turn, "ahead": lambda busy: feed.take(busy)[1], "from memory": lambda busy: kept}
    for take in ways.values():
        steps(2, take)
    rounds = [{name: steps(arguments.batches, take) for name, take in ways.items()} for _ in range(arguments.rounds)]
    print(f"\nDefault model, 64 px, batch 64, {arguments.workers} threads, FreiHAND's files, {arguments.rounds} rounds")
    for name in ways:
        rate, share = (statistics.median(of_round[name][i] for of_round in rounds) for i in range(2))
        ratio = statistics.median(of_round[name][0] / of_round["from memory"][0] for of_round in rounds)
        print(
            f"{name:12} {rate:8.0f} images/s, {ratio:.2f} of that from memory, {share:6.1%} of the time waits for data"
        )
    alone = statistics.median(rates(batches, 40, config.data.threads + 1)[0] for _ in range(5))
    print(f"the pipeline alone {alone:.0f} images/s")


class Step:
    """A step of an emulated device: `seconds` from now or from the end of the step before, without work for the CPU."""

    def __init__(self, seconds: float, before: "Step | None"):
        now = time.monotonic()
        before_ended = before.end if before else now
        self.idle = max(0.0, now - before_ended)  # seconds that the device had no work
        self.end = max(now, before_ended) + seconds

    def block_until_ready(self) -> None:
        time.sleep(max(0.0, self.end - time.monotonic()))


def waits(source, arguments) -> None:
    """How long devices of several speeds have no work, in turn and ahead, and what the training measures of it."""
    config, device_mesh = our_config(64, 64, arguments.workers), make_mesh()
    print(f"\nEmulated devices, 64 px, batch 64, {arguments.workers} threads, FreiHAND's files: time without work")
    for seconds in (0.1, 0.2, 0.4):
        for way in ("in turn", "ahead"):
            batches, times = pipeline.train_iterator(source, config), EpochTimes()
            feed = Feed(batches, lambda batch: to_global(batch, device_mesh), times) if way == "ahead" else None
            times.end_epoch()
            steps, begin = [Step(0, None)], time.monotonic()
            for _ in range(2 * arguments.batches):
                if feed:
                    feed.take(steps[-1])
                else:
                    to_global(next(batches), device_mesh)
                steps.append(Step(seconds, steps[-1]))
                steps[-2].block_until_ready()
            steps[-1].block_until_ready()
            idle = sum(step.idle for step in steps) / (time.monotonic() - begin)
            measured = f", speed/data_wait {times.end_epoch()[1]['data_wait']:.1%}" if feed else ""
            print(f"{64 / seconds:.0f} images/s, {way:8} {idle:.1%}{measured}")


def start_up(folder: Path) -> None:
    """Load an index of FreiHAND's 32,560 annotations: first parsed, then from the cache."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for name, shape in (("K", (3, 3)), ("xyz", (21, 3))):
        values = rng.uniform(0.4, 0.9, (32560, *shape))
        (folder / f"training_{name}.json").write_text(json.dumps(values.tolist()))
    for kind in ("first", "again"):
        print(f"Start, {kind}:", subprocess.check_output([sys.executable, "-c", START, folder], text=True).strip())


def freihand_tree(root: Path) -> None:
    """128 annotations before four backgrounds: 512 JPEGs of 224x224."""
    rng = np.random.default_rng(0)
    annotations = 128
    (root / "training/rgb").mkdir(parents=True)
    for i in range(4 * annotations):
        cv2.imwrite(str(root / f"training/rgb/{i:08d}.jpg"), photograph(rng, 224, 224, 20, 1.2))
    K = np.tile([[480.0, 0, 112], [0, 480, 112], [0, 0, 1]], (annotations, 1, 1))
    for name, values in (("K", K), ("xyz", [hand(rng, K[0], (112, 112), rng.uniform(130, 170)) for _ in K])):
        (root / f"training_{name}.json").write_text(json.dumps(np.asarray(values).tolist()))


def dexycb_tree(root: Path) -> None:
    """256 JPEGs of 640x480, hands of 150 to 250 px, labelled in a COCO-style file."""
    rng = np.random.default_rng(1)
    images, annotations = [], []
    (root / "annotations").mkdir(parents=True)
    K = np.array([[615.0, 0, 320], [0, 615, 240], [0, 0, 1]])
    camera = {"focal": [615, 615], "princpt": [320, 240]}
    for i in range(256):
        name = f"subject/sequence/serial/color_{i:06d}.jpg"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / name), photograph(rng, 480, 640, 30, 1.55))
        joints = hand(rng, K, rng.uniform((220, 160), (420, 320)), rng.uniform(150, 250))
        images.append({"id": i, "file_name": name, "width": 640, "height": 480})
        annotations.append({"id": i, "image_id": i, "joints_coord_cam": joints.tolist(), "cam_param": camera})
        annotations[-1] |= {"hand_type": "right"}
    content = json.dumps({"images": images, "annotations": annotations})
    (root / "annotations/DEX_YCB_s0_train_data.json").write_text(content)


def hand(rng: np.random.Generator, K: np.ndarray, center, extent: float) -> np.ndarray:
    """Joints (21, 3) m whose projections fill a square of `extent` px around `center`."""
    pixels = np.concatenate([center + extent * rng.uniform(-0.5, 0.5, (21, 2)), np.ones((21, 1))], axis=1)
    return pixels @ np.linalg.inv(K).T * rng.uniform(0.6, 0.8, (21, 1))


def photograph(rng: np.random.Generator, height: int, width: int, contrast: float, slope: float) -> np.ndarray:
    """Noise with the spectrum of photographs and little colour, so that its JPEG is as large as a photograph's."""
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    amplitude = np.maximum(np.hypot(y, x), 1 / width) ** -slope
    noise = np.fft.irfft2(amplitude * np.exp(2j * np.pi * rng.random((3, *amplitude.shape))), (height, width))
    noise = noise / noise.std((1, 2), keepdims=True)
    pixels = 120 + contrast * (noise[:1] + 0.3 * noise)
    return np.clip(pixels, 0, 255).astype(np.uint8).transpose(1, 2, 0)


if __name__ == "__main__":
    main()
