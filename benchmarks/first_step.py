"""Time from the command to the loss of the first training step, with a cold and a warm compilation cache.

`python -m benchmarks.first_step`: the quickstart's sets are rendered before, so that only the start-up is timed.
"""

import os
import subprocess
import sys
import tempfile
import time

from jaxhand import config as configs
from jaxhand import data

LEAVE_AFTER_A_STEP = """
import os, sys, time
from jaxhand import train
from jaxhand.training import loop, runtime
def leave(run, *step):
    float(step[-1])
    print("first step", time.time(), flush=True)
    os._exit(0)
loop.Run._check_loss = leave
runtime.run(train.main)
"""


def main() -> None:
    """Time three cold starts, and two warm ones after each."""
    config = configs.load("quickstart")
    for name, split in ((config.data.train, "train"), (config.data.test, config.data.test_split)):
        data.load(name, split, config.data, config.seed)
    for _ in range(3):
        with tempfile.TemporaryDirectory() as compiled:
            for kind in ("cold", "warm", "warm"):
                print(f"{kind}: first step after {seconds(compiled):.1f} s")


def seconds(compiled: str) -> float:
    """Start the quickstart in a new folder with a compilation cache, and stop it after its first step."""
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "-c", LEAVE_AFTER_A_STEP, "--workdir", workdir]
        begin = time.time()
        done = subprocess.run(
            command,
            env=os.environ | {"JAX_COMPILATION_CACHE_DIR": compiled},
            check=True,
            capture_output=True,
            text=True,
        )
    return float(done.stdout.split("first step")[1].split()[0]) - begin


if __name__ == "__main__":
    main()
