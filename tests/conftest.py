"""Shared fixtures: four forced host devices, a tiny run that many tests use, research data if available."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

CACHE = Path(__file__).parents[1] / ".pytest_cache" / "cache"  # rendered hands and compiled programs, for all tests
DEVICES = "--xla_force_host_platform_device_count="
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # compiles four times as fast
NEVER = 1e6  # seconds: on a busy machine, no line says that something takes long
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + f" {DEVICES}4"
os.environ["XDG_CACHE_HOME"] = str(CACHE)
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE / "jaxhand" / "compiled")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from jaxhand import config as configs  # noqa: E402
from jaxhand import data  # noqa: E402
from jaxhand.io import console  # noqa: E402

TINY = """
data: {image_size: 64, train_samples: 96, test_samples: 22, threads: 1}
model: {width: 32, fine_blocks: 0, blocks: 0, joint_width: 32, joint_blocks: 0, looks: 1}
training: {num_epochs: 3, batch_size: 8}
scheduler: {warmup_steps: 5}
"""


class TrainedRun(NamedTuple):
    """An uninterrupted run of three epochs of 12 steps on one device."""

    workdir: Path
    config: Path
    output: str


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden values and real photographs; tests that need it are skipped without it."""
    root = Path(os.environ.get("JAXHAND_SHARED") or Path(__file__).parents[2] / "shared")
    if not root.is_dir():
        pytest.skip(f"needs the golden values and photographs, not found at {root}")
    return root


@pytest.fixture(scope="session")
def tiny_yaml(tmp_path_factory) -> Path:
    """A config whose run takes seconds."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def tiny(tiny_yaml) -> configs.Config:
    """The config of `tiny_yaml` as a `Config`."""
    return configs.load(tiny_yaml)


@pytest.fixture(scope="session")
def start():
    """Start a command as a separate process: `start("train", "--workdir", …)`.

    `patch` is Python code that runs before the command; `devices` is the number of fake CPU devices.
    """

    def start(name, *arguments, patch="", devices=1) -> subprocess.Popen:
        run = f"import runpy\nrunpy.run_module('jaxhand.{name}', run_name='__main__', alter_sys=True)"
        if patch:
            run = f"from jaxhand import {name}\nfrom jaxhand.training import runtime\n{patch}\nruntime.run({name}.main)"
        code = f"from jaxhand.io import console\nconsole.PATIENCE = {NEVER}\n{run}"
        return subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            env=os.environ | {"XLA_FLAGS": f"{QUICK} {DEVICES}{devices}", "PYTHONPATH": str(Path(__file__).parents[1])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture(scope="session")
def command(start):
    """Run a command as `start` does and wait: returns its exit code, stdout and stderr."""

    def command(*arguments, **options) -> tuple[int, str, str]:
        process = start(*arguments, **options)
        try:
            output, errors = process.communicate(timeout=240)
        finally:
            process.kill()
        return process.returncode, output, errors

    return command


@pytest.fixture(scope="session")
def trained(command, tiny_yaml, tmp_path_factory) -> TrainedRun:
    """A finished run. Tests that change its folder copy it first."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    code, output, errors = command("train", "--config", tiny_yaml, "--workdir", workdir)
    assert code == 0, errors
    return TrainedRun(workdir, tiny_yaml, output)


@pytest.fixture(scope="session")
def photographs(tiny, tmp_path_factory) -> Path:
    """A folder set whose train and test are the 22 hands of the tiny test set, as photographs with depth."""
    folder, source = tmp_path_factory.mktemp("photographs"), data.load("synthetic", "test", tiny.data, tiny.seed)
    (folder / "images").mkdir()
    lines = []
    for i in range(len(source)):
        hand = source[i]
        cv2.imwrite(str(folder / "images" / f"{i}.png"), hand.image[..., ::-1])
        cv2.imwrite(str(folder / "images" / f"{i}_depth.png"), hand.depth.astype(np.uint16))
        labels = {"K": hand.K.tolist(), "joints_3d": hand.keypoints_3d.tolist(), "bbox": hand.bbox.tolist()}
        files = {"image": f"images/{i}.png", "depth": f"images/{i}_depth.png"}
        lines.append(json.dumps({"hand": hand.hand} | files | labels))
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="session")
def rendered_hands() -> dict:
    """64 hands of the synthetic set, front views of 64x64 px, with exact depth and mask."""
    from jaxhand.data.synthetic import dataset

    return dataset.render_range(0, 0, 64, size=64, view="front", exact=True)


@pytest.fixture
def copy_of(tmp_path):
    """A copy of a run's folder that a test may change."""

    def copy_of(run: TrainedRun) -> Path:
        return Path(shutil.copytree(run.workdir, tmp_path / "copy"))

    return copy_of


@pytest.fixture
def finished(trained, copy_of):
    """The run without its optimizer: reading a run must not need it."""
    workdir = copy_of(trained)
    for path in (workdir / "checkpoints").glob("*/optimizer"):
        shutil.rmtree(path)
    return workdir


@pytest.fixture
def call(monkeypatch, capsys):
    """Call a command in this process, with its four devices: returns its exit code, stdout and stderr."""
    from jaxhand.training import runtime

    monkeypatch.setattr(console, "PATIENCE", NEVER)

    def call(main, *arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["jaxhand", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            runtime.run(main)
        return end.value.code, *capsys.readouterr()

    return call


@pytest.fixture
def disk_of(tmp_path):
    """Mount a separate disk of a size such as "3m", for tests that fill it; skip if mounting is not allowed."""
    disk = tmp_path / "disk"

    def mount(size: str) -> Path:
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk]
        if not shutil.which("mount") or subprocess.run(command, stderr=subprocess.DEVNULL).returncode:
            pytest.skip("needs the right to mount a tmpfs")
        return disk

    yield mount
    if disk.is_mount():
        subprocess.run(["umount", "-l", disk], check=True)
