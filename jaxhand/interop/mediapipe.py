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

import cv2
import numpy as np

from jaxhand.config import UserError

PALM_SIDE, HAND_SIDE = 192, 224  # px that the networks see
LEAST_SCORE = 0.5
MOST_OVERLAP = 0.3  # intersection over union of two palms; a hand's, found twice, is 0.5
HAND_OVER_PALM, UP = 2.6, 0.5  # side of what is looked at over that of the palm, and how far it lies towards the fingers
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
        from ai_edge_litert.interpreter import Interpreter
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
    A = np.array([[zoom, 0, middle - zoom * (width - 1) / 2], [0, zoom, middle - zoom * (height - 1) / 2]])
    boxes, scores = _run(_networks()[0], _shrunk(image, A, zoom))  # (2016, 18), (2016, 1)
    likely = np.flatnonzero(scores[:, 0] > np.log(LEAST_SCORE / (1 - LEAST_SCORE)))
    likely = likely[np.argsort(-scores[likely, 0])]
    palms = []
    for numbers, anchor in zip(boxes[likely].reshape(-1, 9, 2), _anchors()[likely]):
        center, extent, points = numbers[0] + anchor, numbers[1], numbers[2:] + anchor
        points = np.stack([center - extent / 2, center + extent / 2, *points]) - 0.5  # pixel centres
        points = (points - A[:, 2]) / zoom
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
    A = np.concatenate([turn, ((HAND_SIDE - 1) / 2 - turn @ center)[:, None]], axis=1)
    joints, presence, side_seen, _ = _run(_networks()[1], _shrunk(image, A, zoom))
    joints = (joints.reshape(21, 3)[:, :2] - 0.5 - A[:, 2]) @ np.linalg.inv(turn).T
    return joints, float(presence[0]), 1 - float(side_seen[0])  # it learned from mirrored images


def _shrunk(image: np.ndarray, A: np.ndarray, zoom: float) -> np.ndarray:
    """What a network sees of an image through A (2, 3), which makes it `zoom` times as large; black outside."""
    size = PALM_SIDE if zoom * max(image.shape[:2]) <= PALM_SIDE + 1e-6 else HAND_SIDE
    return cv2.warpAffine(image, A, (size, size), flags=cv2.INTER_LINEAR)


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes (4,)."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    both = np.prod(np.maximum(sides, 0))
    return both / max(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - both, 1e-9)
