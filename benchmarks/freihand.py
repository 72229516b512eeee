"""A complete FreiHAND evaluation from pred.json: `python -m benchmarks.freihand`.

Times `python -m jaxhand.evaluate --predictions` as a user starts it, with the compilation cache cold and warm, and the
procedure of the official `eval.py` on the same files. The official procedure reads all of the JSON; its alignments and
F-scores are timed on a part of the samples and extrapolated, with nearest neighbours from a k-d tree (FreiHAND's
open3d) and from all distances in numpy (HO-3D). The set is generated: 3960 hands of 21 joints and 778 vertices.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import cKDTree

from jaxhand.evaluation.prediction_files import write_freihand

SAMPLES, VERTICES = 3960, 778
PART = 100  # samples that the official procedure is timed on
FEW = 4  # samples for its F-scores by all distances


def main() -> None:
    """Write the set, time both, and compare their numbers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.freihand", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        _write_set(folder)
        size = (folder / "pred.json").stat().st_size
        print(f"{SAMPLES} samples, {VERTICES} vertices; pred.json has {size / 1e6:.0f} MB")
        cold, memory, scores = _ours(folder)
        print(f"jaxhand, compilation cache cold: {cold:.1f} s, peak memory {memory:.0f} MB")
        warm, official = [], []
        for _ in range(rounds):
            seconds, memory, scores = _ours(folder)
            *theirs, expected = _official(folder)
            warm, official = [*warm, seconds], [*official, theirs]
        warm, official = np.array(warm), np.array(official)  # (rounds,), (rounds, 2)
        spread = f"{min(warm):.1f} to {max(warm):.1f}"
        print(f"jaxhand, warm: {np.median(warm):.1f} s ({spread}), peak memory {memory:.0f} MB")
        for name, seconds in zip(("k-d tree", "all distances"), official.T):
            ratio = np.median(seconds / warm)
            print(f"official procedure, {name}: {np.median(seconds):.0f} s; median ratio of the rounds {ratio:.1f}")
        errors = (folder / "scores" / "samples.csv").read_text().splitlines()
        columns = errors[0].split(",")
        for name, values in expected.items():
            ours = np.array([float(line.split(",")[columns.index(name)]) for line in errors[1 : PART + 1]])
            print(f"  {name}: differs by at most {np.abs(ours - values).max():.1e} per sample")
        print(f"  xyz_al_mean3d {scores['xyz_al_mean3d']:.4f} cm, f_al_score_5 {scores['f_al_score_5']:.4f}")


def _ours(folder: Path) -> tuple[float, float, dict]:
    """Run the command; returns its seconds, peak memory in MB and scores."""
    arguments = ["--predictions", "pred.json", "--ground-truth", ".", "--protocol", "freihand", "--output", "scores"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    begin, peak = time.perf_counter(), 0
    with subprocess.Popen(
        [sys.executable, "-m", "jaxhand.evaluate", *arguments], cwd=folder, env=environment, stdout=subprocess.DEVNULL
    ) as process:
        # getrusage would also count the memory of this process, because the command is forked from it.
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) if "VmHWM" in status else peak
            time.sleep(0.01)
    seconds = time.perf_counter() - begin
    assert process.returncode == 0
    return seconds, peak / 1024, json.loads((folder / "scores" / "scores.json").read_text())["values"]


def _official(folder: Path) -> tuple[float, float, dict]:
    """Official procedure: seconds for the complete set, by k-d tree and by all distances; its errors (PART,)."""
    begin = time.perf_counter()
    truth = [json.loads((folder / f"evaluation_{name}.json").read_text()) for name in ("xyz", "verts")]
    predictions = json.loads((folder / "pred.json").read_text())
    reading = time.perf_counter() - begin
    begin = time.perf_counter()
    found, measures = {}, {}
    for sample in range(PART):
        for kind, points, target in zip(("xyz", "mesh"), predictions, truth):
            points, target = np.array(points[sample]), np.array(target[sample])
            for suffix, moved in (("", points), ("_al", align(target, points))):
                distances = np.sqrt(np.sum((moved - target) ** 2, 1))
                found.setdefault(f"{kind}{suffix}_mm", []).append(1000 * distances.mean())
                lists = measures.setdefault(kind + suffix, [[] for _ in distances])
                for keypoint, distance in enumerate(distances):
                    lists[keypoint].append(distance)
                for mm in (5, 15) if kind == "mesh" else ():
                    found.setdefault(f"f{suffix}_score_{mm}", []).append(f_score(target, moved, mm / 1000))
    seconds = (time.perf_counter() - begin) * SAMPLES / PART
    begin = time.perf_counter()
    for lists in measures.values():
        for distances in lists:
            get_measures(np.array(distances * (SAMPLES // PART)))  # as many as in the complete set
    seconds += reading + time.perf_counter() - begin
    meshes = [(np.array(truth[1][k]), np.array(predictions[1][k])) for k in range(FEW)]
    tree, brute = (_seconds_of_f_scores(meshes, nearest) for nearest in (by_tree, by_all_distances))
    return seconds, seconds + (brute - tree) * SAMPLES / FEW, {name: np.array(values) for name, values in found.items()}


def _seconds_of_f_scores(meshes, nearest) -> float:
    begin = time.perf_counter()
    for target, points in meshes:
        for _ in range(4):  # raw and aligned, two thresholds
            f_score(target, points, 0.005, nearest)
    return time.perf_counter() - begin


def by_tree(points, others):
    """Distance from each point to the nearest of the others, by a k-d tree."""
    return cKDTree(others).query(points)[0]


def by_all_distances(points, others):
    """The same distance as in HO-3D's code: from all distances."""
    return np.array([np.linalg.norm(others - point, axis=1).min() for point in points])


def f_score(target, points, threshold, nearest=by_tree):
    """FreiHAND's `calculate_fscore`, which searches the neighbours again for every threshold."""
    precision, recall = ((nearest(*pair) < threshold).mean() for pair in ((points, target), (target, points)))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0


def get_measures(distances):
    """FreiHAND's `EvalUtil` for one keypoint: mean, median and area under the curve of 100 thresholds."""
    thresholds = np.linspace(0, 0.05, 100)
    pck = [np.mean((distances <= threshold).astype("float")) for threshold in thresholds]
    auc = np.trapezoid(pck, thresholds) / np.trapezoid(np.ones(100), thresholds)
    return distances.mean(), np.median(distances), auc


def align(target, points):
    """FreiHAND's `align_w_scale`."""
    x, y = points - points.mean(0), target - target.mean(0)
    size_x, size_y = np.linalg.norm(x) + 1e-8, np.linalg.norm(y) + 1e-8
    rotation, scale = orthogonal_procrustes(y / size_y, x / size_x)
    return (x / size_x) @ rotation.T * scale * size_y + target.mean(0)


def _write_set(folder: Path) -> None:
    """Write hands of random joints, vertices around them, and noisy predictions of both."""
    rng = np.random.default_rng(0)
    place = rng.uniform([-0.1, -0.1, 0.5], [0.1, 0.1, 1.0], (SAMPLES, 1, 3))
    fingers = np.repeat(rng.normal(size=(5, 3)), 4, 0) * np.tile([1, 2, 3, 4], 5)[:, None]  # (20, 3)
    joints = (
        0.015 * (np.concatenate([np.zeros((1, 3)), fingers]) + rng.normal(size=(SAMPLES, 21, 3), scale=0.3)) + place
    )
    verts = np.repeat(joints, 38, 1)[:, :VERTICES] + rng.normal(size=(SAMPLES, VERTICES, 3), scale=0.006)
    noise = rng.normal(size=(SAMPLES, 1, 3), scale=0.01)
    for name, points in (("xyz", joints), ("verts", verts)):
        (folder / f"evaluation_{name}.json").write_text(json.dumps(points.tolist()))
    predictions = [points + noise + rng.normal(size=points.shape, scale=0.004) for points in (joints, verts)]
    write_freihand(folder / "pred.json", *predictions)


if __name__ == "__main__":
    main()
