"""Losses, memory and step times of a training with a copied state, with a split one (FSDP), and with parts of a batch.

`python -m benchmarks.sharding [key=value …] [--config FILE] [--devices 1 4 8]` starts one process for each number of
forced CPU devices. These share the cores of the machine: the times say what the forms of a step cost against each other
on this number of devices, and nothing about real devices. The losses of all rows must agree.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

FORMS = {
    "replicated": [],
    "accumulate 2": ["training.accumulate=2"],
    "ema": ["training.ema=0.999"],
    "fsdp": ["training.sharding=fsdp"],
    "fsdp, accumulate 2": ["training.sharding=fsdp", "training.accumulate=2"],
}
STEPS = 5


def measure(path: str, overrides: list[str]) -> None:
    """Print one JSON line per form: losses, bytes of the state on a device, median seconds of a step."""
    from jaxhand import config as configs
    from jaxhand import data
    from jaxhand.data import pipeline
    from jaxhand.training import sharding
    from jaxhand.training.step import Trainer

    for form, own in FORMS.items():
        config = configs.load(path, [*overrides, *own])
        trainer = Trainer(config, sharding.make_mesh(config.training), total_steps=100)
        source = data.load(config.data.train, "train", config.data, config.seed)
        state, batches = trainer.init(), pipeline.train_iterator(source, config)
        losses, seconds = [], []
        for _, batch in zip(range(STEPS), batches):
            begin = time.perf_counter()
            state, loss = trainer.train_step(state, sharding.to_global(batch, trainer.device_mesh))
            losses.append(float(loss))
            seconds.append(time.perf_counter() - begin)
        held = {key: sharding.bytes_per_device(state[key]) for key in ("params", "optimizer")}
        print(
            json.dumps({"form": form, "losses": losses, "seconds": statistics.median(seconds[1:])} | held), flush=True
        )


def main() -> None:
    """Start a process for each number of devices, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    if arguments.inside:
        measure(arguments.config, arguments.overrides)
        return
    print(
        "| devices | form | loss of the last step | parameters, MB on a device | optimizer, MB | step over replicated |"
    )
    print("|---|---|---|---|---|---|")
    worst, first = 0.0, None
    for devices in arguments.devices:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        command = [sys.executable, "-m", "benchmarks.sharding", "--inside", "--config", arguments.config]
        run = subprocess.run(
            [*command, *arguments.overrides],
            env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        rows = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
        for row in rows:
            first = first or row["losses"]
            worst = max(worst, *(abs(have / want - 1) for have, want in zip(row["losses"], first)))
            sizes = " | ".join(f"{row[key] / 1e6:.2f}" for key in ("params", "optimizer"))
            ratio = row["seconds"] / rows[0]["seconds"]
            print(f"| {devices} | {row['form']} | {row['losses'][-1]:.6f} | {sizes} | {ratio:.2f} |", flush=True)
    print(f"\nLargest relative difference of a loss to the first row: {worst:.1e}")


if __name__ == "__main__":
    main()
