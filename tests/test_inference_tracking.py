"""Tracks: identities of hands that cross, sides, gaps, bone lengths, and the One Euro filter."""

import itertools

import numpy as np
import pytest

from jaxhand.hand.skeleton import PARENTS
from jaxhand.inference.one_euro import OneEuroFilter
from jaxhand.inference.smoothing import smooth_tracks, with_lengths
from jaxhand.inference.tracking import PipelineReader, Reading, Track, Tracker, assign
from jaxhand.inference.video_files import VideoFrame
from tests.support.moving_hands import FakePipeline, K, crossing, frame_of, image_of, template


def track(pipeline, count=80, *, max_hands=2, bridge=15, **options):
    """All frames and hands of a clip."""
    frames = (VideoFrame(i, i / 30, image_of(i)) for i in range(count))
    tracker = Tracker(PipelineReader(pipeline), max_hands=max_hands, bridge=bridge)
    return list(smooth_tracks(frames, tracker, K, **options))


def test_hands_that_cross_keep_number_and_side():
    pipeline = FakePipeline(crossing)
    found = track(pipeline)
    assert [frame.index for frame, _ in found] == list(range(80))
    [first, second] = sorted(found[0][1], key=lambda hand: hand.keypoints_2d[0, 0])
    assert (first.is_right, second.is_right) in {(True, False), (False, True)}  # frame 0 alone votes for the wrong side
    for frame, hands in found:
        right, left = ([hand for hand in hands if hand.track == each.track] for each in (first, second))
        x = 60 + 2.5 * frame.index
        assert len(right) == len(left) == 1  # also where it is hidden
        assert abs(right[0].raw_2d[:, 0].mean() - x) < 1 and abs(left[0].raw_2d[:, 0].mean() - (320 - x)) < 1
        hidden = abs(2 * x - 320) < 40
        assert left[0].bridged == hidden and (left[0].score == 0) == hidden and not right[0].bridged
        assert frame.index == 0 or (right[0].is_right and not left[0].is_right)
    hidden = sum(hands[0].bridged or hands[1].bridged for _, hands in found)
    assert hidden > 5 and pipeline.detections <= hidden + 3  # detection only where a hand is lost


def test_detection_runs_only_without_hands_or_for_further_ones():
    one = FakePipeline(lambda frame: crossing(0)[:1])
    track(one, 50, max_hands=1)
    assert one.detections == 1
    track(one, 50, max_hands=2)
    assert one.detections == 1 + 5  # every tenth frame
    none = FakePipeline(lambda frame: [])
    assert all(hands == [] for _, hands in track(none, 20)) and none.detections == 20


@pytest.mark.parametrize(("gap", "bridged", "numbers"), [(10, 10, 1), (15, 15, 1), (16, 0, 1), (60, 0, 1), (61, 0, 2)])
def test_a_hand_that_comes_back(gap, bridged, numbers):
    """Short gaps are filled; after longer ones the hand keeps its number; after two seconds it is a new hand."""
    pipeline = FakePipeline(lambda frame: [] if 20 <= frame < 20 + gap else crossing(1)[:1])
    hands = [hand for _, found in track(pipeline, 40 + gap) for hand in found]
    assert len({hand.track for hand in hands}) == numbers
    assert sum(hand.bridged for hand in hands) == bridged and len(hands) == 40 + bridged


def test_a_hand_of_two_frames_is_none():
    pipeline = FakePipeline(lambda frame: crossing(1)[:1] if frame in (5, 6) else [])
    assert all(hands == [] for _, hands in track(pipeline, 20))
    assert all(len(hands) <= 1 for _, hands in track(FakePipeline(crossing), 30, max_hands=1))


def test_smoothing_reduces_jitter_and_keeps_bone_lengths():
    found = track(FakePipeline(lambda frame: crossing(1)[:1], noise=1.0), 80)
    raw, smooth = (np.array([getattr(hands[0], key) for _, hands in found])[20:] for key in ("raw_3d", "keypoints_3d"))
    jitter_before, jitter_after = (np.abs(np.diff(each, 3, axis=0)).mean() for each in (raw, smooth))
    assert jitter_after < 0.4 * jitter_before
    lengths = [np.linalg.norm(each[:, 1:] - each[:, PARENTS[1:]], axis=-1).std(0).mean() for each in (raw, smooth)]
    assert lengths[1] < 0.3 * lengths[0]
    same = track(FakePipeline(lambda frame: crossing(1)[:1], noise=1.0), 20, min_cutoff=np.inf)
    assert all(np.allclose(hands[0].keypoints_2d, hands[0].raw_2d) for _, hands in same)


def test_with_lengths():
    joints = template() + np.array([30.0, 20.0, 400.0])
    lengths = np.linspace(10, 40, 20)
    posed = with_lengths(joints, lengths)
    bones, old = posed[1:] - posed[PARENTS[1:]], joints[1:] - joints[PARENTS[1:]]
    np.testing.assert_allclose(np.linalg.norm(bones, axis=-1), lengths)
    np.testing.assert_allclose(posed.mean(0), joints.mean(0))
    cosine = (bones * old).sum(-1) / np.linalg.norm(bones, axis=-1) / np.linalg.norm(old, axis=-1)
    np.testing.assert_allclose(cosine, 1)


def test_one_euro_is_the_formula_of_the_paper():
    times, values = np.array([0, 0.03, 0.07, 0.1]), np.array([[1.0, 5.0], [2.0, 5.0], [4.0, 4.0], [4.5, 1.0]])
    min_cutoff, beta = 1.2, 0.3
    alpha = lambda cutoff, step: 1 / (1 + 1 / (2 * np.pi * cutoff) / step)  # noqa: E731
    filtered = OneEuroFilter(min_cutoff, beta)
    found = np.array([filtered(value, seconds, unit=2.0) for value, seconds in zip(values, times)])
    for column in range(2):
        x, dx, expected = values[0, column], 0.0, [values[0, column]]
        for k in range(1, 4):
            step = times[k] - times[k - 1]
            a = alpha(1.0, step)
            dx = a * (values[k, column] - x) / step + (1 - a) * dx
            a = alpha(min_cutoff + beta * 2 * abs(dx), step)
            x = a * values[k, column] + (1 - a) * x
            expected.append(x)
        np.testing.assert_allclose(found[:, column], expected)


def test_one_euro_lags_less_in_fast_motion():
    ramp = np.arange(60) * 10.0
    lag = [
        ramp[-1] - [f(v, i / 30) for i, v in enumerate(ramp)][-1] for f in (OneEuroFilter(1, 0), OneEuroFilter(1, 0.1))
    ]
    assert 0 < lag[1] < 0.2 * lag[0]


def test_assignment_is_the_cheapest():
    rng = np.random.default_rng(0)
    for rows, columns in itertools.product(range(4), range(4)):
        for _ in range(5):
            costs = rng.uniform(0, 2, (rows, columns))
            total = lambda chosen: sum(1.2 if j is None else costs[i, j] for i, j in enumerate(chosen))  # noqa: E731
            options = itertools.product([None, *range(columns)], repeat=rows)
            allowed = [
                way for way in options if len({j for j in way if j is not None}) == sum(j is not None for j in way)
            ]
            assert total(assign(costs.tolist(), 1.2)) == pytest.approx(min(map(total, allowed)))


def reading(x=0.0, *, score=0.9, right=1.0, pose=0.0) -> Reading:
    """A hand of 100 px whose wrist is at (x, 0), and whose other joints are `pose` mm deeper."""
    pixels = np.zeros((21, 2)) + [x, 0]
    pixels[20] += [0, 100]
    joints = np.zeros((21, 3))
    joints[1:, 2] = pose
    return Reading(pixels, joints, score, right)


def test_a_track_moves_on_for_four_frames():
    """Its velocity is the mean of the last movement and the velocity before."""
    track = Track(1, reading(0))
    assert track.reading.size == 100
    np.testing.assert_array_equal(track.expected(), reading(0).keypoints_2d)
    track.add(reading(8))
    np.testing.assert_allclose(track.velocity, [8, 0])
    track.missing = 1
    track.add(reading(12))  # 4 px in two frames
    np.testing.assert_allclose(track.velocity, [5, 0])
    assert track.seen == 3 and track.missing == 0
    for missing, ahead in ((0, 5), (1, 10), (3, 20), (4, 20), (30, 20)):
        track.missing = missing
        np.testing.assert_allclose(track.expected(), reading(12 + ahead).keypoints_2d)


def test_what_a_reading_costs():
    track = Track(1, reading(0))
    assert track.cost(reading(0)) == 0
    assert track.cost(reading(30)) == pytest.approx(0.3)  # 30 px, where the hand has 100
    assert track.cost(reading(0, right=0.0)) == pytest.approx(0.4)  # the other side
    assert track.cost(reading(0, right=0.75)) == pytest.approx(0.1)
    assert track.cost(reading(0, pose=120)) == pytest.approx(20 / 21)
    track.missing = 15
    assert track.cost(reading(30, pose=120)) == pytest.approx((0.3 + 20 / 21) / 2 + 0.2)
    small = Reading(reading(0).keypoints_2d / 1e6, np.zeros((21, 3)), 0.9, 1.0)
    assert small.size == 1  # px, at least


def test_the_side_is_a_vote():
    track = Track(1, reading(right=0.2))
    assert not track.is_right
    track.add(reading(right=0.9))
    assert track.is_right and track.vote == pytest.approx(0.1)
    track.add(reading(right=0.4))
    assert track.vote == pytest.approx(0) and Track(1, reading(right=0.5)).is_right is False


class FixedReader:
    """A reader that detects the same readings in every frame, and follows none."""

    def __init__(self, *readings):
        self.readings = readings

    def detect(self, image, K):
        return list(self.readings)

    def follow(self, image, K, joints):
        return []


def step(*readings, **options) -> list[int]:
    """x of the hands that a new tracker finds in one frame."""
    found = Tracker(FixedReader(*readings), **options).step(image_of(0), K)
    return [round(track.reading.keypoints_2d[0, 0]) for track, _ in found]


def test_two_readings_of_one_hand_are_one():
    """They are nearer than a quarter of its size; of different hands, the two with the highest scores are taken."""
    assert step(reading(0), reading(24)) == [0]
    assert step(reading(0), reading(25)) == [0, 25]
    hands = [reading(0, score=0.7), reading(200, score=0.9), reading(400, score=0.8)]
    assert step(*hands) == [200, 400] and step(*hands, max_hands=1) == [200]
    assert step(*hands, max_hands=3) == [200, 400, 0]


@pytest.mark.parametrize(("moved", "numbers"), [(119, [1]), (121, [2])])
def test_a_reading_too_far_away_is_another_hand(moved, numbers):
    reader = FixedReader(reading(0))
    tracker = Tracker(reader, max_hands=3)
    tracker.step(image_of(0), K)
    reader.readings = [reading(moved)]
    assert [track.number for track, _ in tracker.step(image_of(1), K)] == numbers


def test_defaults():
    """The numbers of docs/video.md."""
    tracker = Tracker(FixedReader())
    assert (tracker.max_hands, tracker.bridge) == (2, 15)
    filtered = OneEuroFilter()
    assert (filtered.min_cutoff, filtered.beta) == (1.5, 0.01)


def test_bone_lengths_are_the_median_of_the_latest_90_readings():
    """The hand is 20 % larger from frame 100 on. A frame is written after the two that follow it are read."""
    pipeline = FakePipeline(lambda frame: crossing(1)[:1])
    read = pipeline.read

    def grown(images, rois):
        factors = [1.2 if frame_of(image) >= 100 else 1.0 for image in images]
        return [hand | {"world": hand["world"] * factor} for factor, hand in zip(factors, read(images, rois))]

    pipeline.read = grown
    found = track(pipeline, 160, max_hands=1, min_cutoff=np.inf, bridge=0)
    lengths = np.array([np.linalg.norm(hands[0].keypoints_3d[1] - hands[0].keypoints_3d[0]) for _, hands in found])
    assert np.flatnonzero(lengths > 1.01 * lengths[0])[0] == 142  # 45 of the 90 readings from 55 to 144
    assert lengths[-1] == pytest.approx(1.2 * lengths[0], rel=1e-3)
