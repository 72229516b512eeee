"""Time and peak memory of importing a checkpoint of HaMeR's size: `python -m benchmarks.import_weights`.

PyTorch writes the file with random weights (2.7 GB with the ViT-H of the released model). Each conversion runs in its
own process, in turn with a process in which PyTorch only loads the file.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jaxhand import config as configs
from jaxhand import hand
from jaxhand.models.vit import SIZES

WRITE = """
import sys, torch
from benchmarks.import_weights import hamer
torch.save({"state_dict": hamer(sys.argv[1]).state_dict(), "epoch": 0}, sys.argv[2])
"""
LOAD = "import sys, torch; torch.load(sys.argv[1], map_location='cpu')"


def main() -> None:
    """Write the checkpoint, convert it several times, print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="H", help="size of the vision transformer (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="with space for twice the file (default: the folder of temporary files)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        file = Path(folder) / "hamer.ckpt"
        run("-c", WRITE, arguments.size, file)
        size = file.stat().st_size
        print(f"{file.name}: {size / 1e9:.2f} GB, vision transformer {arguments.size}", flush=True)
        measured = {"jaxhand.convert": [], "torch.load": []}
        for i in range(arguments.rounds):
            out = Path(folder) / f"out{i}"
            measured["jaxhand.convert"].append(run("-m", "jaxhand.convert", "hamer", file, out))
            measured["torch.load"].append(run("-c", LOAD, file))
            shutil.rmtree(out)
    for name, values in measured.items():
        seconds, peak = (statistics.median(column) for column in zip(*values))
        memory = f"peak {peak / 1e9:.2f} GB, {peak / size:.2f} of the file"
        print(f"{name}: {seconds:.1f} s, {size / seconds / 1e6:.0f} MB/s, {memory}")


def hamer(size: str):
    """HaMeR in PyTorch with random weights; `size` is the size of the vision transformer."""
    from benchmarks.torch_hamer import Hamer

    config = configs.load(None, ["model.name=hamer", f"model.vit.size={size}", "data.image_size=256"])
    return Hamer(config, hand.load(config.hand))


def run(*arguments) -> tuple[float, float]:
    """Run Python in a new process; returns its time in seconds and its peak memory in bytes."""
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, *map(str, arguments)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(map(str, arguments[:2]))}")
    return time.perf_counter() - begin, usage.ru_maxrss * 1024


if __name__ == "__main__":
    main()
