"""Shared by the generated trees of data sets: hands with human bones, and pictures that show every joint."""

import cv2
import numpy as np

# mm, the hand frame of the built-in body: +y towards the fingers, the thumb of a right hand towards -x
BASES = np.array([[-20, 20, -9], [-25, 88, 2], [-4, 91, 4], [15, 85, 2], [32, 75, -3]], float)
BONES = np.array([[46, 34, 29], [42, 26, 23], [47, 30, 25], [43, 28, 25], [34, 21, 21]], float)
TOWARDS = np.array([[-0.62, 0.70, -0.34], [-0.12, 0.99, 0], [0, 1, 0], [0.1, 0.99, 0], [0.22, 0.97, 0]])


def hand(seed: int, *, right: bool = True, at=(0, 0, 600)) -> np.ndarray:
    """Joints (21, 3) mm in the OpenCV camera frame, our order: a spread hand, curled and turned a little by `seed`."""
    rng = np.random.default_rng(seed)
    joints = [np.zeros((1, 3))]
    for base, bones, towards in zip(BASES, BONES, TOWARDS):
        curl = np.cumsum(rng.uniform(0.05, 0.3, 3))[:, None]
        steps = np.cos(curl) * towards / np.linalg.norm(towards) + np.sin(curl) * (0, 0, -1)
        joints.append(np.vstack([base, base + np.cumsum(bones[:, None] * steps, 0)]))
    turn = cv2.Rodrigues(rng.uniform(-0.4, 0.4, 3))[0] @ np.diag([1, -1, -1])  # seen from the back, fingers up
    joints = np.vstack(joints) @ turn.T
    return (joints - joints[9]) * (1 if right else -1, 1, 1) + at


def pixels(joints, K) -> np.ndarray:
    """Joints (N, 3) → pixels (N, 2)."""
    return (joints @ np.asarray(K).T)[:, :2] / joints[:, 2:]


def color(joint: int) -> np.ndarray:
    """RGB of the dot that marks a joint."""
    return np.array([joint % 3, joint // 3 % 3, joint // 9]) * 100 + 40


def picture(width: int, height: int, *hands) -> np.ndarray:
    """A black RGB image with a dot of `color` at every joint of the hands, each (21, 2) px."""
    image = np.zeros((height, width, 3), np.uint8)
    for points in hands:
        for joint, (x, y) in enumerate(points):
            cv2.circle(image, (round(x), round(y)), 2, color(joint).tolist(), -1)
    return image


def joints_shown(image, points) -> list[int]:
    """Index of the joint whose dot an RGB image shows at each point (N, 2) px: 0, 1, … 20 if all are right."""
    palette = np.array([color(joint) for joint in range(21)])
    seen = image[tuple(np.round(points[:, ::-1]).astype(int).T)].astype(int)  # (N, 3)
    return np.abs(seen[:, None] - palette).sum(-1).argmin(-1).tolist()


def write_image(file, image) -> None:
    """Write an RGB (or grey) image file, with as little loss as its format allows."""
    file.parent.mkdir(parents=True, exist_ok=True)
    full_color = [cv2.IMWRITE_JPEG_QUALITY, 100, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    flags = full_color if file.suffix == ".jpg" else []
    assert cv2.imwrite(str(file), image[..., ::-1] if image.ndim == 3 else image, flags)
