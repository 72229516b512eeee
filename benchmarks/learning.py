"""Networks after equal training time on synthetic images: errors of joints and meshes, with and without depth.

`python -m benchmarks.learning --seconds 240`: a short run measures how fast each network trains on this machine; then
each trains for as many steps as fit into the time, with the schedule of its config. Ablations of the RGB-D network
leave a part out and train for the same time.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import jax

from jaxhand import config as configs
from jaxhand.training.checkpoint import restore_best

RGBD = "configs/rgbd_fusion_synthetic.yaml"
CONTESTANTS = {
    "default": ("configs/quickstart.yaml", []),
    "RGB-D": (RGBD, []),
    "fast mesh": ("configs/fast_mesh_synthetic.yaml", []),
    "RGB-D, without depth": (RGBD, ["model.fusion.depth=false"]),
    "RGB-D, without refinement": (RGBD, ["model.fusion.refine=false"]),
    "RGB-D, depth never dropped": (RGBD, ["data.depth_dropout=0"]),
}
EPOCHS = 6
PROBE_STEPS = 60
SCORES = {"mpjpe": "MPJPE", "pa_mpjpe": "PA-MPJPE", "pa_mpvpe": "PA-MPVPE", "f_5": "F@5", "f_15": "F@15"}


def main() -> None:
    """Train and test the networks one after the other, and print a table after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=240, help="training time of each network (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--folder", type=Path, default=Path("runs/learning"))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config values of all networks")
    arguments = parser.parse_intermixed_args()
    print(f"| network | parameters | steps of batch | images/s | input | {' | '.join(SCORES.values())} |")
    print("|" + "---|" * (5 + len(SCORES)))
    for name in arguments.only:
        config, overrides = CONTESTANTS[name]
        overrides = [*overrides, *arguments.overrides]
        for line in contest(name, config, overrides, arguments.seconds, arguments.folder / name.replace(", ", "-")):
            print(line, flush=True)


def contest(name: str, config: str, overrides: list[str], seconds: float, workdir: Path) -> list[str]:
    """Train for a time and test; returns lines of the table."""
    batch_size = configs.load(config, overrides).training.batch_size
    probe = [*overrides, "training.num_epochs=2", f"training.epoch_samples={PROBE_STEPS * batch_size}"]
    speed = train(config, workdir.with_name(f"{workdir.name}-probe"), probe)["images_per_second"]
    steps = int(seconds * speed / batch_size / EPOCHS)  # an epoch
    sizes = [f"training.num_epochs={EPOCHS}", f"training.epoch_samples={steps * batch_size}"]
    train(config, workdir, [*overrides, *sizes])
    run("evaluate", str(workdir))
    results = json.loads((workdir / "evaluation.json").read_text())["results"]
    trained = f"| {name} | {parameters(workdir):,} | {steps * EPOCHS} of {batch_size} | {speed:.0f} "
    lines = []
    for result in results:
        scores = [f"{result[key]:.3g}" if key in result else "" for key in SCORES]
        lines.append(f"{trained}| {result['input']} | {' | '.join(scores)} |")
        trained = "| | | | "
    return lines


def train(config: str, workdir: Path, overrides: list[str]) -> dict:
    """Train in a separate folder; returns the metrics of the last epoch."""
    run("train", "--config", config, "--workdir", str(workdir), *overrides)
    return json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])


def run(command: str, *arguments: str) -> None:
    """Run a command of jaxhand quietly."""
    done = subprocess.run([sys.executable, "-m", f"jaxhand.{command}", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)


def parameters(workdir: Path) -> int:
    """Number of the network's parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(restore_best(workdir).params))


if __name__ == "__main__":
    main()
