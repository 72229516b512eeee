"""A detector for `predict`: MediaPipe's two small networks detect hands and classify their handedness.

    pip install ai-edge-litert
    pip install --no-deps mediapipe==0.10.21
    python -m jaxhand.predict WORKDIR photo.jpg --detector jaxhand.interop.mediapipe:detect

Both packages have the licence Apache-2.0. Only the network files of mediapipe are used. Later versions do not contain
these files. `--no-deps` is needed because the dependencies of mediapipe would install an old NumPy.
Zhang et al., "MediaPipe Hands" (2020). The constants below are those of MediaPipe's graphs.
"""

import functools
import importlib.util
import threading
from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.data.crop import warp

PALM_INPUT_PX, HAND_INPUT_PX = 192, 224  # side of a network's input image
MIN_SCORE = 0.5  # a palm or a hand with a lower score is not used
MAX_PALM_OVERLAP, MAX_HAND_OVERLAP = 0.3, 0.5  # intersection over union of two boxes of the same hand
HAND_CROP_SCALE, CROP_SHIFT = 2.6, 0.5  # side of the crop, and its shift to the fingers, in sides of the palm's box
WRIST, MIDDLE_BASE = 0, 2  # indices of the keypoints of a palm
FILES = ("palm_detection/palm_detection_full.tflite", "hand_landmark/hand_landmark_full.tflite")
_running = threading.Lock()  # a network stores its input, so only one thread at a time may run it


def detect(image: np.ndarray) -> list[dict]:
    """Detect the hands in an image.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        One dict per hand, sorted by score, highest first: `bbox` [x0, y0, x1, y1] px around the joints, `hand` "right"
        or "left", `score` from 0 to 1.

    Raises:
        UserError: the networks are not installed.
    """
    detections = []  # (score, box, "right" or "left")
    for palm in _palms(image):
        joints, presence, right = _hand(image, palm)
        if presence >= MIN_SCORE:
            box = np.concatenate([joints.min(0), joints.max(0)])
            detections.append((presence, box, "right" if right > 0.5 else "left"))
    detections.sort(key=lambda detection: -detection[0])
    kept = []
    for detection in detections:
        if all(_overlap(detection[1], other[1]) < MAX_HAND_OVERLAP for other in kept):
            kept.append(detection)
    return [{"bbox": box.tolist(), "hand": side, "score": float(score)} for score, box, side in kept]


@functools.cache
def _networks() -> tuple:
    """Load the palm detector and the hand landmark network, only once."""
    install = "pip install ai-edge-litert, then pip install --no-deps mediapipe==0.10.21"
    try:
        from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(f"the detector needs LiteRT and MediaPipe's networks; install them: {install}") from None
    package = importlib.util.find_spec("mediapipe")
    folders = [Path(folder) / "modules" for folder in (package and package.submodule_search_locations) or []]
    networks = []
    for name in FILES:
        file = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if file is None:
            raise UserError(f"the detector needs MediaPipe's file {Path(name).name}; install it: {install}")
        network = Interpreter(str(file), num_threads=2)
        network.allocate_tensors()
        networks.append(network)
    return tuple(networks)


def _run(network, image: np.ndarray) -> list[np.ndarray]:
    """Run a network on an image (h, w, 3) uint8. Returns its outputs, sorted by name."""
    with _running:
        network.set_tensor(network.get_input_details()[0]["index"], np.float32(image)[None] / 255)
        network.invoke()
        outputs = sorted(network.get_output_details(), key=lambda output: output["name"])
        return [network.get_tensor(output["index"])[0] for output in outputs]


def _palms(image: np.ndarray) -> list[np.ndarray]:
    """Detect palms, with non-maximum suppression. A palm is (9, 2) px: two corners of its box, then seven keypoints."""
    height, width = image.shape[:2]
    side = max(height, width)
    scale = PALM_INPUT_PX / side
    center = (PALM_INPUT_PX - 1) / 2
    offset = center - scale * (np.array([width, height]) - 1) / 2
    A = np.array([[scale, 0, offset[0]], [0, scale, offset[1]], [0, 0, 1]])
    boxes, scores = _run(_networks()[0], _warped(image, A, scale, PALM_INPUT_PX))  # (2016, 18), (2016, 1)
    likely = np.flatnonzero(scores[:, 0] > np.log(MIN_SCORE / (1 - MIN_SCORE)))
    likely = likely[np.argsort(-scores[likely, 0])]
    palms = []
    for box, anchor in zip(boxes[likely].reshape(-1, 9, 2), _anchors()[likely]):
        center, extent, points = box[0] + anchor, box[1], box[2:] + anchor
        points = np.stack([center - extent / 2, center + extent / 2, *points]) - 0.5  # integers are now pixel centres
        points = (points - offset) / scale
        if all(_overlap(points[:2].ravel(), palm[:2].ravel()) < MAX_PALM_OVERLAP for palm in palms):
            palms.append(points)
    return palms


@functools.cache
def _anchors() -> np.ndarray:
    """Anchors of the palm boxes, (2016, 2) px: cell centres, two per cell of 8 px, then six per cell of 16 px."""
    rows = []
    for cell, boxes in ((8, 2), (16, 6)):
        centers = np.arange(PALM_INPUT_PX // cell) * cell + cell / 2
        y, x = np.meshgrid(centers, centers, indexing="ij")
        rows.append(np.repeat(np.stack([x, y], -1).reshape(-1, 2), boxes, axis=0))
    return np.concatenate(rows)


def _hand(image: np.ndarray, palm: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Find the hand of a palm (9, 2): joints (21, 2) px, probability that it is a hand, and that it is a right hand."""
    corner, opposite, points = palm[0], palm[1], palm[2:]
    side = (opposite - corner).max()
    up = points[MIDDLE_BASE] - points[WRIST]
    up = up / max(np.linalg.norm(up), 1e-6)
    center = (corner + opposite) / 2 + CROP_SHIFT * side * up
    scale = HAND_INPUT_PX / (HAND_CROP_SCALE * side)
    linear = scale * np.array([[-up[1], up[0]], [-up[0], -up[1]]])  # rotates `up` to -y
    offset = (HAND_INPUT_PX - 1) / 2 - linear @ center
    A = np.block([[linear, offset[:, None]], [np.zeros((1, 2)), 1]])
    joints, presence, right, _ = _run(_networks()[1], _warped(image, A, scale, HAND_INPUT_PX))
    joints = (joints.reshape(21, 3)[:, :2] - 0.5 - offset) @ np.linalg.inv(linear).T
    return joints, float(presence[0]), float(right[0])


def _warped(image: np.ndarray, A: np.ndarray, scale: float, size: int) -> np.ndarray:
    """Warp an image by the transform A (3, 3), which enlarges by `scale`, to (size, size, 3)."""
    out = np.empty((size, size, 3), np.uint8)
    warp(image, A, scale, False, out)
    return out


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes (4,)."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    both = np.prod(np.maximum(sides, 0))
    return both / max(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - both, 1e-9)
