"""A detector for `predict`: MediaPipe's two small networks find hands, and say which hand each is.

    pip install ai-edge-litert
    pip install --no-deps mediapipe==0.10.21
    python -m jaxhand.predict WORKDIR photo.jpg --detector jaxhand.interop.mediapipe:detect

Both are Apache-2.0. Of the second only the networks' files are used, which later versions no longer hold; its own
dependencies would bring an old NumPy. Zhang et al., "MediaPipe Hands" (2020); numbers are those of its graphs.
"""

import functools
import importlib.util
import threading
from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.data.crop import warp

PALM_SIDE, HAND_SIDE = 192, 224  # px that the networks see
LEAST_SCORE = 0.5
MOST_OVERLAP = 0.3  # intersection over union of two palms; a hand's, found twice, is 0.5
HAND_OVER_PALM, UP = (
    2.6,
    0.5,
)  # side of what is looked at over that of the palm, and how far it lies towards the fingers
WRIST, MIDDLE_BASE = 0, 2  # points of a palm
FILES = ("palm_detection/palm_detection_full.tflite", "hand_landmark/hand_landmark_full.tflite")
_running = threading.Lock()  # a network holds its inputs


def detect(image: np.ndarray) -> list[dict]:
    """The hands in an image (H, W, 3) uint8 RGB: {"bbox": around the joints, "hand", "score"}, the surest first.

    Raises:
        UserError: the networks are not installed.
    """
    found = []
    for palm in _palms(image):
        joints, presence, right = _hand(image, palm)
        if presence >= LEAST_SCORE:
            box = np.concatenate([joints.min(0), joints.max(0)])
            found.append((presence, box, "right" if right > 0.5 else "left"))
    found.sort(key=lambda hand: -hand[0])
    apart = []
    for hand in found:
        if all(_overlap(hand[1], other[1]) < 0.5 for other in apart):
            apart.append(hand)
    return [{"bbox": box.tolist(), "hand": side, "score": float(score)} for score, box, side in apart]


@functools.cache
def _networks() -> tuple:
    """The two networks, loaded once."""
    how = "pip install ai-edge-litert, then pip install --no-deps mediapipe==0.10.21"
    try:
        from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(f"the detector needs LiteRT and MediaPipe's networks: {how}") from None
    package = importlib.util.find_spec("mediapipe")
    folders = [Path(folder) / "modules" for folder in (package and package.submodule_search_locations) or []]
    networks = []
    for name in FILES:
        file = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if file is None:
            raise UserError(f"the detector needs MediaPipe's file {Path(name).name}: {how}")
        network = Interpreter(str(file), num_threads=2)
        network.allocate_tensors()
        networks.append(network)
    return tuple(networks)


def _run(network, picture: np.ndarray) -> list[np.ndarray]:
    """What a network says of a picture (h, w, 3) uint8, in the order of its outputs' names."""
    with _running:
        network.set_tensor(network.get_input_details()[0]["index"], np.float32(picture)[None] / 255)
        network.invoke()
        outputs = sorted(network.get_output_details(), key=lambda output: output["name"])
        return [network.get_tensor(output["index"])[0] for output in outputs]


def _palms(image: np.ndarray) -> list[np.ndarray]:
    """Palms as points (9, 2) px: two corners of the box, then seven points; those that overlap a surer one are none."""
    height, width = image.shape[:2]
    side = max(height, width)
    zoom = PALM_SIDE / side
    middle = (PALM_SIDE - 1) / 2
    move = middle - zoom * (np.array([width, height]) - 1) / 2
    A = np.array([[zoom, 0, move[0]], [0, zoom, move[1]], [0, 0, 1]])
    boxes, scores = _run(_networks()[0], _through(image, A, zoom, PALM_SIDE))  # (2016, 18), (2016, 1)
    likely = np.flatnonzero(scores[:, 0] > np.log(LEAST_SCORE / (1 - LEAST_SCORE)))
    likely = likely[np.argsort(-scores[likely, 0])]
    palms = []
    for numbers, anchor in zip(boxes[likely].reshape(-1, 9, 2), _anchors()[likely]):
        center, extent, points = numbers[0] + anchor, numbers[1], numbers[2:] + anchor
        points = np.stack([center - extent / 2, center + extent / 2, *points]) - 0.5  # pixel centres
        points = (points - move) / zoom
        if all(_overlap(points[:2].ravel(), palm[:2].ravel()) < MOST_OVERLAP for palm in palms):
            palms.append(points)
    return palms


@functools.cache
def _anchors() -> np.ndarray:
    """Where each of the boxes starts from, (2016, 2) px: two on cells of 8 px, six on cells of 16 px."""
    rows = []
    for cell, boxes in ((8, 2), (16, 6)):
        middles = np.arange(PALM_SIDE // cell) * cell + cell / 2
        y, x = np.meshgrid(middles, middles, indexing="ij")
        rows.append(np.repeat(np.stack([x, y], -1).reshape(-1, 2), boxes, axis=0))
    return np.concatenate(rows)


def _hand(image: np.ndarray, palm: np.ndarray) -> tuple[np.ndarray, float, float]:
    """A palm (9, 2) → joints (21, 2) px, how likely there is a hand, and that it is a right one."""
    corner, opposite, points = palm[0], palm[1], palm[2:]
    side = (opposite - corner).max()
    up = points[MIDDLE_BASE] - points[WRIST]
    up = up / max(np.linalg.norm(up), 1e-6)
    center = (corner + opposite) / 2 + UP * side * up
    zoom = HAND_SIDE / (HAND_OVER_PALM * side)
    turn = zoom * np.array([[-up[1], up[0]], [-up[0], -up[1]]])  # `up` becomes -y
    move = (HAND_SIDE - 1) / 2 - turn @ center
    A = np.block([[turn, move[:, None]], [np.zeros((1, 2)), 1]])
    joints, presence, right, _ = _run(_networks()[1], _through(image, A, zoom, HAND_SIDE))
    joints = (joints.reshape(21, 3)[:, :2] - 0.5 - move) @ np.linalg.inv(turn).T
    return joints, float(presence[0]), float(right[0])


def _through(image: np.ndarray, A: np.ndarray, zoom: float, size: int) -> np.ndarray:
    """What a network of `size` px sees of an image through A (3, 3), which makes it `zoom` times as large."""
    out = np.empty((size, size, 3), np.uint8)
    warp(image, A, zoom, False, out)
    return out


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes (4,)."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    both = np.prod(np.maximum(sides, 0))
    return both / max(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - both, 1e-9)
