"""Tracks of a clip of the built-in world against its known joints: jitter, lag, identities, speed, memory.

    jaxhand synthetic --clip /tmp/cross.mp4 --count 780
    jaxhand predict runs/mediapipe /tmp/cross.mp4 --K FX FY CX CY --out /tmp/cross
    python -m benchmarks.video /tmp/cross.jsonl /tmp/cross/tracks.npz

With `--memory RUN CLIP` it loops a clip for `--frames` frames through the tracker, and prints frames per second and the
peak memory at quarters of the way.
"""

import argparse
import itertools
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from jaxhand.inference.tracking import assign

WINDOW = 11  # frames of the moving mean that the high-pass filter subtracts
SAME_HAND = 0.5  # mean distance of the joints over the size of the hand, below which a track follows a hand


def compare(truth_path: Path, tracks_path: Path) -> None:
    """Print how tracks differ from the known joints."""
    frames = [json.loads(line) for line in truth_path.read_text().splitlines()]
    with np.load(tracks_path) as file:
        tracks = dict(file)
    fps = 1 / (frames[1]["time"] - frames[0]["time"])
    rows_of_frame = {frame: np.flatnonzero(tracks["frame"] == frame) for frame in range(len(frames))}
    paths = {number: [] for number in range(len(frames[0]["hands"]))}  # of each true hand: (frame, row)
    last = {}  # true hand → its track before
    for frame in frames:
        rows = rows_of_frame[frame["frame"]]
        costs = []
        for number, hand in enumerate(frame["hands"]):
            true = np.array(hand["joints_2d"])
            apart = np.linalg.norm(tracks["keypoints_2d"][rows] - true, axis=-1).mean(-1)
            costs.append(apart / np.ptp(true, axis=0).max() - 0.2 * (tracks["track"][rows] == last.get(number)))
        for number, chosen in enumerate(assign(costs, SAME_HAND)):
            if chosen is not None:
                paths[number].append((frame["frame"], rows[chosen]))
                last[number] = tracks["track"][rows[chosen]]
    switches = sum((np.diff(tracks["track"][[row for _, row in path]]) != 0).sum() for path in paths.values())
    flips = sum(
        (np.diff(tracks["is_right"][tracks["track"] == t].astype(int)) != 0).sum() for t in set(tracks["track"])
    )
    wrong = sum(
        tracks["is_right"][row] != (frames[0]["hands"][n]["hand"] == "right") for n in paths for _, row in paths[n]
    )
    covered = {number: len({frame for frame, _ in path}) for number, path in paths.items()}
    print(f"frames of the hands with a track: {list(covered.values())} of {len(frames)}")
    print(f"tracks: {len(set(tracks['track']))}, identity switches: {switches}")
    print(f"side switches: {flips}, frames with the wrong side: {wrong}")
    print(f"rows: {len(tracks['frame'])}, of them bridged: {tracks['bridged'].sum()}")
    lines = {"raw": [], "smoothed": [], "mean of the same lag": []}
    lags = []
    for number, path in paths.items():
        for rows, true in _runs(path, frames, number, tracks["track"]):
            raw, smooth = tracks["raw_3d"][rows].astype(float), tracks["keypoints_3d"][rows].astype(float)
            centroid = tracks["keypoints_2d"][rows].mean(1)
            raw_centroid = tracks["raw_2d"][rows].mean(1)
            lag = _lag(centroid, raw_centroid)
            lags.append((len(rows), lag))
            length = max(1, round(2 * lag) + 1)
            lines["raw"].append((len(rows), *_numbers(raw, raw_centroid, true, fps)))
            lines["smoothed"].append((len(rows), *_numbers(smooth, centroid, true, fps)))
            mean, mean_centroid = (_moving_mean(values, length) for values in (raw, raw_centroid))
            lines["mean of the same lag"].append((len(rows), *_numbers(mean, mean_centroid, true, fps)))
    print(f"lag of the filter: {np.average([lag for _, lag in lags], weights=[n for n, _ in lags]):.2f} frames")
    print("                        jitter 10 m/s^3   high-pass RMS px   error mm (wrist-relative)")
    for name, values in lines.items():
        weights = [each[0] for each in values]
        jitter, rms, error = np.average(np.array(values)[:, 1:], axis=0, weights=weights)
        print(f"{name:22s} {jitter:12.2f} {rms:18.3f} {error:16.2f}")


def _runs(path, frames, number, track_of_row):
    """Parts of a path, of at least 30 frames in a row in one track: its rows, and the true joints (T, 21, 3)."""
    for _, group in itertools.groupby(enumerate(path), lambda item: (item[1][0] - item[0], track_of_row[item[1][1]])):
        items = [item for _, item in group]
        if len(items) >= 30:
            true = [frames[frame]["hands"][number]["joints_3d"] for frame, _ in items]
            yield np.array([row for _, row in items]), np.array(true)


def _numbers(joints, centroid, true, fps) -> tuple[float, float, float]:
    """Jitter in 10 m/s^3, high-pass RMS of the centroid in px, mean wrist-relative error in mm."""
    jerk = np.linalg.norm(np.diff(joints, 3, axis=0), axis=-1).mean() * fps**3 / 1e4
    high = centroid[WINDOW // 2 : -(WINDOW // 2)] - np.stack(
        [np.convolve(axis, np.ones(WINDOW) / WINDOW, "valid") for axis in centroid.T], -1
    )
    relative = [each - each[:, :1] for each in (joints, true)]
    return jerk, np.sqrt((high**2).sum(-1).mean()), np.linalg.norm(relative[0] - relative[1], axis=-1).mean()


def _lag(smooth, raw) -> float:
    """Frames by which the smoothed path (T, 2) comes after the raw one, to 0.1: the shift of least squared distance."""
    at = np.arange(len(raw), dtype=float)
    shifts = np.arange(0, 5, 0.1)
    inside = at >= 5
    errors = [
        sum(((np.interp(at - shift, at, raw[:, axis]) - smooth[:, axis])[inside] ** 2).sum() for axis in (0, 1))
        for shift in shifts
    ]
    return float(shifts[int(np.argmin(errors))])


def _moving_mean(values, length: int):
    """The mean of the last `length` values: a delay of (length - 1) / 2 frames."""
    sums = np.cumsum(np.concatenate([np.repeat(values[:1], length, 0), values]), axis=0)
    return (sums[length:] - sums[:-length]) / length


def memory(run: Path, clip: Path, count: int) -> None:
    """Track `count` frames of a clip that is repeated, and print speed and peak memory on the way."""
    from jaxhand.inference import loading, video
    from jaxhand.inference.mediapipe_predictor import MediapipePredictor
    from jaxhand.inference.smoothing import smooth_tracks
    from jaxhand.inference.tracking import PipelineReader, Tracker
    from jaxhand.inference.video_files import VideoFrame, open_source

    predictor = loading.load(run)
    assert isinstance(predictor, MediapipePredictor)

    def repeated():
        index = 0
        while index < count:
            for frame in open_source(clip, None):
                yield VideoFrame(index, index / 30, frame.image)
                index += 1
                if index == count:
                    return

    source = open_source(clip, None)
    height, width = next(iter(source)).image.shape[:2]
    K = predictor.crop_rule.camera(width, height)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, video.TrackWriter(Path(folder), source, K) as writer:
        for frame, hands in smooth_tracks(repeated(), Tracker(PipelineReader(predictor.pipeline)), K):
            writer.add(frame, hands)
            if (frame.index + 1) % max(1, count // 4) == 0:
                rate = writer.frames / (time.monotonic() - started)
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                print(
                    f"{writer.frames} frames, {writer.hands} hands: {rate:.1f} frames/s, peak {peak:.0f} MB", flush=True
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truth", type=Path, nargs="?")
    parser.add_argument("tracks", type=Path, nargs="?")
    parser.add_argument("--memory", type=Path, nargs=2, metavar=("RUN", "CLIP"))
    parser.add_argument("--frames", type=int, default=18_000, help="for --memory; 10 minutes by default")
    args = parser.parse_args()
    if args.memory:
        memory(*args.memory, args.frames)
    else:
        compare(args.truth, args.tracks)


if __name__ == "__main__":
    main()
