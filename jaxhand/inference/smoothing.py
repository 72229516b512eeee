"""The hands of a video as tracks: gaps filled, one set of bone lengths for each track, joints smoothed over time."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from jaxhand.hand.camera import focal_length
from jaxhand.hand.skeleton import PARENTS
from jaxhand.inference.one_euro import BETA, MIN_CUTOFF, OneEuroFilter
from jaxhand.inference.tracking import Reading, Track, Tracker
from jaxhand.inference.video_files import VideoFrame

LEAST_SEEN = 3  # frames; a track that is seen in fewer is not a hand
LENGTHS = 90  # readings of a track whose median is its bone lengths


@dataclasses.dataclass(frozen=True)
class TrackedHand:
    """One hand of one frame.

    Attributes:
        track: number of its track, from 1.
        is_right: the side that most frames of the track vote for.
        score: how likely there is a hand, 0 to 1; 0 where it is bridged.
        bridged: the hand is not seen in this frame: its joints are interpolated between the frames around it.
        keypoints_2d: (21, 2) px, smoothed.
        keypoints_3d: (21, 3) mm in the camera's frame, with the track's bone lengths, smoothed.
        raw_2d: (21, 2) px, as the model returned them.
        raw_3d: (21, 3) mm, as the model returned them.
        vertices: (V, 3) mm in the camera's frame, smoothed; None where the model has no mesh.
        faces: (F, 3) indices of vertices; None where the model has no mesh.
    """

    track: int
    is_right: bool
    score: float
    bridged: bool
    keypoints_2d: np.ndarray
    keypoints_3d: np.ndarray
    raw_2d: np.ndarray
    raw_3d: np.ndarray
    vertices: np.ndarray | None = None
    faces: np.ndarray | None = None


class _Smoother:
    """What is remembered of a track: its latest bone lengths, and its filters."""

    def __init__(self, min_cutoff: float, beta: float):
        self._lengths = collections.deque(maxlen=LENGTHS)
        self._filter_2d, self._filter_3d, self._filter_mesh = (OneEuroFilter(min_cutoff, beta) for _ in range(3))

    def observe(self, reading: Reading) -> None:
        """Add a reading to the bone lengths."""
        self._lengths.append(np.linalg.norm(_bones(reading.keypoints_3d), axis=-1))

    def __call__(
        self, reading: Reading, K: np.ndarray, seconds: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """The smoothed joints of the track's next frame, (21, 2) px and (21, 3) mm, and the vertices (V, 3) mm."""
        joints = with_lengths(reading.keypoints_3d, np.median(self._lengths, axis=0))
        mm_per_px = float(max(joints[:, 2].mean(), 0.0) / focal_length(K))
        pixels = self._filter_2d(reading.keypoints_2d, seconds, unit=mm_per_px)
        vertices = None if reading.vertices is None else self._filter_mesh(reading.vertices, seconds)
        return pixels, self._filter_3d(joints, seconds), vertices


@dataclasses.dataclass
class _Pending:
    """A frame that is kept until the gaps before the latest frame can be filled."""

    frame: VideoFrame
    hands: list[tuple[Track, Reading, bool]]  # and whether it is bridged


def smooth_tracks(
    frames: Iterable[VideoFrame],
    tracker: Tracker,
    K: np.ndarray,
    *,
    min_cutoff: float = MIN_CUTOFF,
    beta: float = BETA,
) -> Iterator[tuple[VideoFrame, list[TrackedHand]]]:
    """Track the hands of a video.

    A frame is yielded `tracker.bridge` frames after it is read, so that a hand which is not seen for a while is
    interpolated when it comes back. Memory does not grow with the length of the video.

    Args:
        frames: the video, in the order of time.
        tracker: a new one.
        K: (3, 3) px.
        min_cutoff, beta: of the One Euro filter, Hz and Hz per mm/s.

    Yields:
        Every frame with its hands, in the order of their tracks.
    """
    smoothers: dict[int, _Smoother] = {}
    pending: collections.deque[_Pending] = collections.deque()

    def finished(waiting: _Pending) -> tuple[VideoFrame, list[TrackedHand]]:
        hands = []
        for track, reading, bridged in sorted(waiting.hands, key=lambda hand: hand[0].number):
            if track.seen >= LEAST_SEEN:
                pixels, joints, vertices = smoothers[track.number](reading, K, waiting.frame.seconds)
                score = 0.0 if bridged else reading.score
                smooth, raw = (pixels, joints), (reading.keypoints_2d, reading.keypoints_3d)
                mesh = vertices, reading.faces
                hands.append(TrackedHand(track.number, track.is_right, score, bridged, *smooth, *raw, *mesh))
        return waiting.frame, hands

    for frame in frames:
        before = {track.number: track.reading for track in tracker.tracks}
        hands = []
        for track, missing in tracker.step(frame.image, K):
            smoothers.setdefault(track.number, _Smoother(min_cutoff, beta)).observe(track.reading)
            hands.append((track, track.reading, False))
            for ago in range(1, missing + 1) if missing <= tracker.bridge else ():
                filled = _between(track.reading, before[track.number], ago / (missing + 1))
                pending[-ago].hands.append((track, filled, True))
        pending.append(_Pending(frame, hands))
        if len(pending) > max(tracker.bridge, LEAST_SEEN - 1):
            yield finished(pending.popleft())
        alive = {track.number for track in tracker.tracks} | {hand[0].number for each in pending for hand in each.hands}
        smoothers = {number: smoother for number, smoother in smoothers.items() if number in alive}
    yield from map(finished, pending)


def with_lengths(joints: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Set the bone lengths of a hand; the directions of its bones and the mean of its joints stay.

    Args:
        joints: (21, 3) mm in the camera's frame.
        lengths: (20,) mm, of the bones to the joints 1 to 20.

    Returns:
        (21, 3) mm.
    """
    bones = _bones(joints)
    old = np.maximum(np.linalg.norm(bones, axis=-1), 1e-6)
    steps = bones * (lengths / old)[:, None]
    posed = np.zeros_like(joints)
    for joint, parent in enumerate(PARENTS[1:], start=1):  # a parent comes before its children
        posed[joint] = posed[parent] + steps[joint - 1]
    return posed + (joints.mean(0) - posed.mean(0))


def _bones(joints: np.ndarray) -> np.ndarray:
    """Vectors (20, 3) from the parents of the joints 1 to 20 to these."""
    return joints[..., 1:, :] - joints[..., PARENTS[1:], :]


def _between(now: Reading, before: Reading, part: float) -> Reading:
    """A reading between two others; `part` is 0 for the first and 1 for the second."""
    mix = lambda a, b: a + part * (b - a)  # noqa: E731
    pixels, joints = mix(now.keypoints_2d, before.keypoints_2d), mix(now.keypoints_3d, before.keypoints_3d)
    vertices = None if now.vertices is None else mix(now.vertices, before.vertices)
    return Reading(pixels, joints, 0.0, now.right, vertices, now.faces)
