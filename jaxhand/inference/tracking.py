"""Follow hands from frame to frame: each hand keeps its number, and is detected only where it was lost."""

import dataclasses
import itertools
import typing
from collections.abc import Callable, Sequence

import numpy as np

from jaxhand.hand import roi
from jaxhand.inference.arguments import ImagePredictor, checked
from jaxhand.inference.boxes import HandBoxes
from jaxhand.inference.mediapipe_pipeline import LEAST_PRESENCE, Pipeline, placed

MAX_HANDS, BRIDGE = 2, 15  # hands at a time; longest gap that is filled, frames
REMEMBERED = 60  # frames after which a lost hand that comes back is a new one
DETECT_EVERY = 10  # frames between two searches for further hands, while no hand was lost a short time ago
FADE = 15  # frames without a hand after which its last place and pose count half
SAME_HAND = 0.25  # mean distance of the joints, in sizes of the hand, below which two readings are one hand
FARTHEST = 1.2  # cost above which a reading does not belong to a track
POSE_MM = 120.0  # distance of two hands' joints around the wrist that costs as much as one size of the hand
SIDE_COST = 0.4  # cost of a reading that is certainly of the other side than its track
LOST_COST = 0.2  # cost of a track that was lost: where one hand hides another, the visible one goes on
EXTRAPOLATED = 4  # frames for which a lost hand is expected to move on


@dataclasses.dataclass(frozen=True)
class Reading:
    """One hand in one frame.

    Attributes:
        keypoints_2d: (21, 2) px.
        keypoints_3d: (21, 3) mm in the camera's frame.
        score: how likely there is a hand, 0 to 1.
        right: how likely it is a right one, 0 to 1.
        vertices: (V, 3) mm in the camera's frame; None where the model has no mesh.
        faces: (F, 3) indices of vertices; None where the model has no mesh.
    """

    keypoints_2d: np.ndarray
    keypoints_3d: np.ndarray
    score: float
    right: float
    vertices: np.ndarray | None = None
    faces: np.ndarray | None = None

    @property
    def size(self) -> float:
        """The longer side of the box around the joints, px."""
        return max(float(np.ptp(self.keypoints_2d, axis=0).max()), 1.0)


class Reader(typing.Protocol):
    """Finds and reads the hands of one frame."""

    def detect(self, image: np.ndarray, K: np.ndarray) -> list[Reading]:
        """The hands of an image (H, W, 3) uint8 RGB with the camera K (3, 3)."""
        ...

    def follow(self, image: np.ndarray, K: np.ndarray, joints: Sequence[np.ndarray]) -> list[Reading]:
        """The hands near the expected joints (21, 2) px; a hand that is not there is left out."""
        ...


class PipelineReader:
    """A `Reader` with MediaPipe's networks: the joints of one frame are the crop of the next one."""

    def __init__(self, pipeline: Pipeline):
        self._pipeline = pipeline

    def detect(self, image: np.ndarray, K: np.ndarray) -> list[Reading]:
        """Each palm that the detector finds, read twice: in the crop of the palm, then in that of its joints."""
        [palms] = self._pipeline.palms([image])
        first = self._pipeline.read([image] * len(palms), [roi.of_palm(palm) for palm in palms])
        return self.follow(image, K, [hand["keypoints_2d"] for hand in first if hand["score"] >= LEAST_PRESENCE])

    def follow(self, image: np.ndarray, K: np.ndarray, joints: Sequence[np.ndarray]) -> list[Reading]:
        """The hands in the crops of the expected joints, where the network finds one."""
        hands = self._pipeline.read([image] * len(joints), [roi.of_joints(each) for each in joints])
        hands = [hand for hand in hands if hand["score"] >= LEAST_PRESENCE]
        if not hands:
            return []
        found = {key: np.stack([hand[key] for hand in hands]) for key in hands[0]}
        keypoints_3d = placed(found, np.broadcast_to(K, (len(hands), 3, 3)))
        return [
            Reading(hand["keypoints_2d"], joints_3d, float(hand["score"]), float(hand["right"]))
            for hand, joints_3d in zip(hands, keypoints_3d)
        ]


class PredictorReader:
    """A `Reader` with any other model. Such models do not return whether there is a hand: each frame is detected.

    Args:
        predictor: the model.
        find_hands: function: image → the boxes of its hands, as a detector returns them.
    """

    def __init__(self, predictor: ImagePredictor, find_hands: Callable[[np.ndarray], HandBoxes]):
        self._predictor, self._find_hands = predictor, find_hands

    def detect(self, image: np.ndarray, K: np.ndarray) -> list[Reading]:
        """The hands of an image, in the boxes of the detector."""
        boxes = self._find_hands(image)
        hands = self._predictor.predict([checked(image, boxes.boxes, boxes.sides, K)])
        none = [None] * len(hands["is_right"])
        scores = [1.0 if score is None else score for score in boxes.scores or none]
        right = [float(side) for side in hands["is_right"]]
        meshes = hands.get("vertices", none), hands.get("faces", none)
        rows = zip(hands["keypoints_2d"], hands["keypoints_3d"], scores, right, *meshes)
        return [Reading(*row) for row in rows]

    def follow(self, image: np.ndarray, K: np.ndarray, joints: Sequence[np.ndarray]) -> list[Reading]:
        """No hands: whether a hand is still there is not known."""
        return []


@dataclasses.dataclass
class Track:
    """One hand over time.

    Attributes:
        number: its identity, from 1.
        reading: the last one.
        seen: number of frames with a reading.
        missing: number of frames since the last reading.
        vote: sum over the frames of the probability of a right hand minus 1/2.
    """

    number: int
    reading: Reading
    seen: int = 1
    missing: int = 0
    vote: float = 0.0
    velocity: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(2))  # px per frame

    def __post_init__(self):
        self.vote = self.reading.right - 0.5

    @property
    def is_right(self) -> bool:
        """The side that most of the frames vote for."""
        return self.vote > 0

    def expected(self) -> np.ndarray:
        """The joints (21, 2) px in the next frame, at constant velocity."""
        return self.reading.keypoints_2d + self.velocity * min(self.missing + 1, EXTRAPOLATED)

    def cost(self, reading: Reading) -> float:
        """How badly a reading continues this track: distances in the image and of the pose, and the side."""
        size = max(self.reading.size, reading.size)
        apart = np.linalg.norm(self.expected() - reading.keypoints_2d, axis=-1).mean() / size
        poses = [each.keypoints_3d - each.keypoints_3d[:1] for each in (self.reading, reading)]
        pose = np.linalg.norm(poses[0] - poses[1], axis=-1).mean() / POSE_MM
        cost = (apart + pose) / (1 + self.missing / FADE) + LOST_COST * (self.missing > 0)
        return cost + SIDE_COST * abs(reading.right - self.is_right)

    def add(self, reading: Reading) -> None:
        """Continue the track with a reading of the current frame."""
        moved = (reading.keypoints_2d - self.reading.keypoints_2d).mean(0) / (self.missing + 1)
        self.velocity = moved if self.seen == 1 else (self.velocity + moved) / 2
        self.reading, self.missing = reading, 0
        self.seen += 1
        self.vote += reading.right - 0.5


class Tracker:
    """Turns frames into tracks.

    Args:
        reader: finds the hands of a frame.
        max_hands: the most hands at a time.
        bridge: number of frames for which a lost hand is looked for in every frame.
    """

    def __init__(self, reader: Reader, *, max_hands: int = MAX_HANDS, bridge: int = BRIDGE):
        self.reader, self.max_hands, self.bridge = reader, max_hands, bridge
        self.tracks: list[Track] = []
        self._numbers, self._frame = itertools.count(1), 0

    def step(self, image: np.ndarray, K: np.ndarray) -> list[tuple[Track, int]]:
        """Continue with the next frame.

        Args:
            image: (H, W, 3) uint8 RGB.
            K: (3, 3) px.

        Returns:
            The tracks with a hand in this frame, and in how many frames before it each was missing. The hand is the
            track's `reading`.
        """
        recent = [track for track in self.tracks if track.missing <= self.bridge]
        readings = _distinct(self.reader.follow(image, K, [track.expected() for track in recent]))
        pairs = self._pairs(readings)
        lost = not recent or any(track.number not in pairs for track in recent)
        if lost or (len(recent) < self.max_hands and self._frame % DETECT_EVERY == 0):
            readings = _distinct([*readings, *self.reader.detect(image, K)])
            pairs = self._pairs(readings)
        self._frame += 1
        found = []
        for track in self.tracks:
            if track.number in pairs:
                found.append((track, track.missing))
                track.add(pairs[track.number])
            else:
                track.missing += 1
        taken = [id(reading) for reading in pairs.values()]
        new = sorted((reading for reading in readings if id(reading) not in taken), key=lambda reading: -reading.score)
        here = sum(track.missing <= self.bridge for track in self.tracks)  # one that is lost may be seen badly
        new = [Track(next(self._numbers), reading) for reading in new[: max(0, self.max_hands - here)]]
        self.tracks = [track for track in self.tracks if track.missing <= max(self.bridge, REMEMBERED)] + new
        return found + [(track, 0) for track in new]

    def _pairs(self, readings: Sequence[Reading]) -> dict[int, Reading]:
        """Number of a track → the reading that continues it, where there is one."""
        costs = [[track.cost(reading) for track in self.tracks] for reading in readings]
        chosen = assign(costs, FARTHEST)
        return {self.tracks[i].number: reading for i, reading in zip(chosen, readings) if i is not None}


def assign(costs: Sequence[Sequence[float]], limit: float) -> tuple[int | None, ...]:
    """Pair rows with columns so that the sum of the costs is lowest; exact, and quick for few rows.

    Args:
        costs: R rows of C costs.
        limit: cost of a row without a column.

    Returns:
        The column of each row, or None.
    """
    best: dict[int, tuple[float, tuple[int | None, ...]]] = {0: (0.0, ())}  # bits of the used columns → cheapest way
    for row in costs:
        longer = {}
        for used, (total, chosen) in best.items():
            ways = [(used, total + limit, None)]
            ways += [
                (used | 1 << i, total + cost, i) for i, cost in enumerate(row) if cost < limit and not used >> i & 1
            ]
            for bits, cost, column in ways:
                if bits not in longer or cost < longer[bits][0]:
                    longer[bits] = cost, (*chosen, column)
        best = longer
    return min(best.values(), key=lambda way: way[0])[1]


def _distinct(readings: Sequence[Reading]) -> list[Reading]:
    """The readings without those that are of the same hand as an earlier one."""
    kept: list[Reading] = []
    for reading in readings:
        apart = (np.linalg.norm(reading.keypoints_2d - each.keypoints_2d, axis=-1).mean() / each.size for each in kept)
        if all(distance >= SAME_HAND for distance in apart):
            kept.append(reading)
    return kept
