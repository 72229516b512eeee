"""Runs of several real processes in which one is lost: when the others end, and whether the same command goes on.

`python -m benchmarks.lost_processes --processes 2 4`: a small run on this machine, one CPU device for each process. In
the middle of an epoch, one process does what the table says. Then all are started again, and the parameters and the
optimizer at the end are compared, bit for bit, with those of an undisturbed run of as many processes. About 25 minutes.
"""

import argparse
import hashlib
import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

CONFIG = """
data: {image_size: 64, train_samples: 48, test_samples: 8, threads: 1}
model: {width: 32, fine_blocks: 0, blocks: 0, joint_width: 32, joint_blocks: 0, looks: 1}
training: {num_epochs: 2, batch_size: 8}
scheduler: {warmup_steps: 5}
"""
ITEMS = ("params", "optimizer")
LOSS_STEP = 11  # batch before whose step the process is lost; an epoch has 6 steps
AWAKE_S = 45  # after so many seconds, a stopped process goes on
LIMIT_S = 300

KILL = "os.kill(os.getpid(), signal.SIGKILL)"
STOP = f"subprocess.Popen(['sh', '-c', f'sleep {AWAKE_S}; kill -CONT {{os.getpid()}}']); "
STOP += "os.kill(os.getpid(), signal.SIGSTOP)"
HANG = "time.sleep(1000)"
TERM = "os.kill(os.getpid(), signal.SIGTERM)"
CASES = {  # name → (which process, what it does)
    "the first one is killed (SIGKILL)": ("first", KILL),
    "another one is killed": ("last", KILL),
    "it raises an error": ("last", "raise UserError('image 7 is cut off')"),
    "the first one is stopped (SIGSTOP)": ("first", STOP),
    "another one is stopped": ("last", STOP),
    "one gets SIGTERM": ("last", TERM),
    "all get SIGTERM": ("all", TERM),
    "it hangs (a sleep without end)": ("last", HANG),
}
PROCESS = """
import os, signal, subprocess, time
from jaxhand import train
from jaxhand.config import UserError
from jaxhand.training import loop, runtime
real, calls = loop.to_global, []
def to_global(batch, mesh):
    calls.append(0)
    if len(calls) == {step}:
        print("lost at", time.time(), flush=True)
        {action}
    return real(batch, mesh)
loop.to_global = to_global
runtime.run(train.main)
"""


class Ended(NamedTuple):
    """How a process ended."""

    code: int
    seconds: float  # after the loss; of an undisturbed run, after the start
    output: str
    errors: str


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[2], help="numbers of processes (default: 2)")
    counts = parser.parse_args().processes
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax's notes on every folder that it reads
    print(
        "| what one process does | processes | exit codes | others end after, s | itself, s | lines on stderr | then |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            undisturbed = Path(folder, f"undisturbed-{count}")
            ended = run(count, undisturbed)
            assert all(process.code == 0 for process in ended), ended
            for number, name in enumerate(CASES):
                print(row(name, count, Path(folder, f"{count}-{number}"), digest(undisturbed)), flush=True)


def row(name: str, count: int, workdir: Path, expected: str) -> str:
    """Run a case, start it again, and return its row of the table."""
    which, action = CASES[name]
    lost = {"first": [0], "last": [count - 1], "all": list(range(count))}[which]
    ended = run(count, workdir, lost, action)
    again = run(count, workdir)
    same = "bit-identical" if digest(workdir) == expected else "NOT the same numbers"
    then = same if all(process.code == 0 for process in again) else f"exit codes {[each.code for each in again]}"
    others = [process.seconds for i, process in enumerate(ended) if i not in lost] or [float("nan")]
    cells = (
        name,
        count,
        " ".join(str(process.code) for process in ended),
        f"{min(others):.1f} to {max(others):.1f}",
        " ".join(f"{ended[i].seconds:.1f}" for i in lost),
        " ".join(str(process.errors.count("\n")) for process in ended),
        then,
    )
    return f"| {' | '.join(map(str, cells))} |"


def run(count: int, workdir: Path, lost: list[int] | tuple = (), action: str = "") -> list[Ended]:
    """Run processes to their end; those in `lost` do `action` before step `LOSS_STEP`."""
    config = workdir.with_suffix(".yaml")
    config.write_text(CONFIG)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["--config", config, "--workdir", workdir, "--coordinator", f"127.0.0.1:{port}", "--num-processes", count]
    codes = [PROCESS.format(step=LOSS_STEP if i in lost else 0, action=action or "pass") for i in range(count)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, *map(str, flags), "--process-id", str(i)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i, code in enumerate(codes)
    ]
    begin, ends = time.time(), {}
    while len(ends) < count and time.time() < begin + LIMIT_S:
        ends |= {i: time.time() for i, each in enumerate(processes) if i not in ends and each.poll() is not None}
        time.sleep(0.05)
    for process in processes:
        process.kill()  # those that do not end
    texts = [process.communicate() for process in processes]
    losses = [float(found[1]) for output, _ in texts if (found := re.search(r"lost at ([\d.]+)", output))]
    begin = max(losses, default=begin)
    return [
        Ended(process.returncode, ends.get(i, float("inf")) - begin, *texts[i]) for i, process in enumerate(processes)
    ]


def digest(workdir: Path) -> str:
    """A hash of all arrays of the latest checkpoint, which Orbax alone reads on one device."""
    step = max(int(folder.name) for folder in (workdir / "checkpoints").iterdir() if folder.name.isdigit())
    arrays = {}
    for item in ITEMS:
        with ocp.PyTreeCheckpointer() as checkpointer:
            path = workdir / "checkpoints" / str(step) / item
            tree = checkpointer.metadata(path).item_metadata.tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            arrays[item] = checkpointer.restore(path, restore_args=as_numpy)
    found = hashlib.sha256(str(step).encode())
    for item in ITEMS:
        for path, array in jax.tree.leaves_with_path(arrays[item]):
            found.update(f"{item}{jax.tree_util.keystr(path)}".encode() + np.asarray(array).tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    main()
