"""jaxhand's own ways to PA-MPJPE against each other: `python -m benchmarks.procrustes [--rounds N] [--python OTHER]`.

The ratios are times: with a mask, and from numpy arrays to numpy arrays, over the plain way on JAX arrays; the gradient
over the forward pass. `--python` takes another interpreter: short processes under this one and that one run in turn,
which compares two versions of JAX.
"""

import argparse
import json
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.metrics import pa_mpjpe

SIZES = (10_000, 100_000)
JOINTS = 21
SHORTEST_SECONDS = 0.2  # of calls that are timed together
PAUSE = 0.3  # seconds, until the threads of the measurement before have gone to sleep


def main() -> None:
    """Time all ways under this interpreter, or also under another one, and print their ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.procrustes", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--python", help="path of another Python interpreter to compare with")
    parser.add_argument("--json", action="store_true", help="print the times of this interpreter as JSON only")
    arguments = parser.parse_args()
    if arguments.json:
        print(json.dumps({"jax": jax.__version__, "seconds": measure(arguments.rounds)}))
    elif arguments.python:
        _compare(arguments.python, arguments.rounds)
    else:
        _report(f"jax {jax.__version__}, {arguments.rounds} rounds in turn", measure(arguments.rounds))


def measure(rounds: int) -> dict[str, dict[str, list]]:
    """Time each way, by the number of hands.

    Args:
        rounds: how often each way is timed.

    Returns:
        `{number of hands: {way: [[wall-clock seconds, CPU seconds] of one call, by round]}}`.
    """
    times = {}
    for count in SIZES:
        pred, gt = hands(count, JOINTS)
        arrays, valid = [jnp.asarray(points) for points in (pred, gt)], jnp.ones((count, JOINTS))
        gradient = jax.jit(jax.grad(lambda pred, gt: pa_mpjpe(pred, gt).mean()))
        ways = {
            "plain": lambda: pa_mpjpe(*arrays).block_until_ready(),
            "with a mask": lambda: pa_mpjpe(*arrays, valid=valid).block_until_ready(),
            "numpy in and out": lambda: np.asarray(pa_mpjpe(pred, gt)),
            "gradient": lambda: gradient(*arrays).block_until_ready(),
        }
        times[str(count)] = {name: seconds.tolist() for name, seconds in in_turn(ways, rounds).items()}
    return times


def in_turn(ways: dict, rounds: int) -> dict[str, np.ndarray]:
    """Time functions in turn.

    Args:
        ways: functions without arguments, by name.
        rounds: how often each is timed. Each time it is called once without timing, then for `SHORTEST_SECONDS`.

    Returns:
        `{name: (rounds, 2) wall-clock and CPU seconds of one call}`.
    """
    times = {name: [] for name in ways}
    for _ in range(rounds):
        for name, call in ways.items():
            time.sleep(PAUSE)
            call()
            begin, cpu, calls = time.perf_counter(), time.process_time(), 0
            while calls == 0 or time.perf_counter() - begin < SHORTEST_SECONDS:
                call()
                calls += 1
            times[name].append(((time.perf_counter() - begin) / calls, (time.process_time() - cpu) / calls))
    return {name: np.array(values) for name, values in times.items()}


def hands(count: int, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Make random predictions and targets.

    Args:
        count: number of hands.
        points: number of points of each hand.

    Returns:
        Rotated, scaled and noisy predictions, and targets half a metre from the camera and as large as a hand: two
        (count, points, 3) float32 arrays, mm.
    """
    rng = np.random.default_rng(0)
    gt = rng.normal(size=(count, points, 3), scale=40) + [0, 0, 500]
    rotations, _ = np.linalg.qr(rng.normal(size=(100, 3, 3)))
    rotations *= np.sign(np.linalg.det(rotations))[:, None, None]
    pred = np.concatenate([part @ rotations[i] for i, part in enumerate(np.array_split(gt, 100))])
    pred = pred * rng.uniform(0.5, 2, (count, 1, 1)) + rng.normal(size=gt.shape, scale=10)
    return pred.astype(np.float32), gt.astype(np.float32)


def _compare(other: str, rounds: int) -> None:
    """Run one process of one round under each interpreter in turn, `rounds` times, and print both and their ratio."""
    runs = {sys.executable: [], other: []}
    for _ in range(rounds):
        for python, results in runs.items():
            command = [python, "-m", "benchmarks.procrustes", "--json", "--rounds", "1"]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
    ours, theirs = (
        {size: {way: [run["seconds"][size][way][0] for run in results] for way in ways} for size, ways in first.items()}
        for results in runs.values()
        for first in [results[0]["seconds"]]
    )
    versions = [results[0]["jax"] for results in runs.values()]
    for version, times in zip(versions, (ours, theirs)):
        _report(f"jax {version}, {rounds} processes in turn", times)
    for size in ours:
        wall, cpu = np.median(np.divide(ours[size]["plain"], theirs[size]["plain"]), axis=0)
        print(f"{int(size):,} hands, speed of jax {versions[1]} over {versions[0]}: {wall:.2f} ({cpu:.2f} by CPU time)")


def _report(title: str, times: dict) -> None:
    """Print a table for each number of hands: medians over rounds, and medians of the ratios within a round."""
    for size, ways in times.items():
        print(f"\n{title}; {int(size):,} x {JOINTS} points\n| way | ms | CPU ms | times the plain way (CPU) |")
        print("|---|---|---|---|")
        for name, seconds in ways.items():
            wall, cpu = 1e3 * np.median(seconds, axis=0)
            ratio, cpu_ratio = np.median(np.divide(seconds, ways["plain"]), axis=0)
            print(f"| {name} | {wall:.2f} | {cpu:.2f} | {ratio:.2f} ({cpu_ratio:.2f}) |", flush=True)


if __name__ == "__main__":
    main()
