"""Hands drawn on pictures: skeletons over images, and sheets that set prediction beside truth."""

from pathlib import Path

import cv2
import numpy as np

from jaxhand.config import UserError
from jaxhand.hand.skeleton import BONES, FINGER_COLORS, FINGER_OF_JOINT, WRIST_COLOR

_SUBPIXEL = 4  # cv2 draws at 1/16 px


def draw_skeleton(image, keypoints_2d, *, scale: int = 4, valid=None) -> np.ndarray:
    """The image (H, W, 3) uint8, `scale` times larger, with its joints (21, 2) px drawn over it, one colour a finger.

    Joints with `valid` 0 or without a finite position, and their bones, are left out.
    """
    canvas = upscale(image, scale)
    keypoints = np.asarray(keypoints_2d, np.float64)
    shown = np.isfinite(keypoints).all(-1) & (np.abs(keypoints) < 1e5).all(-1)
    if valid is not None:
        shown &= np.asarray(valid) > 0
    at = (np.where(shown[:, None], keypoints, 0) + 0.5) * scale - 0.5  # pixel centres stay pixel centres
    at = [tuple(int(round(v * 2**_SUBPIXEL)) for v in point) for point in at]
    thickness = max(1, canvas.shape[0] // 140)
    for parent, child in BONES:
        if shown[parent] and shown[child]:
            color = FINGER_COLORS[FINGER_OF_JOINT[child]]
            cv2.line(canvas, at[parent], at[child], color, thickness, cv2.LINE_AA, _SUBPIXEL)
    for joint in np.flatnonzero(shown):
        color = FINGER_COLORS[FINGER_OF_JOINT[joint]] if joint else WRIST_COLOR
        cv2.circle(canvas, at[joint], int((thickness + 0.6) * 2**_SUBPIXEL), color, -1, cv2.LINE_AA, _SUBPIXEL)
    return canvas


def upscale(image, scale: int) -> np.ndarray:
    """The image (H, W, 3) uint8 with every pixel `scale` times as wide and high."""
    return np.ascontiguousarray(np.repeat(np.repeat(np.asarray(image, np.uint8), scale, 0), scale, 1))


def comparison_sheet(images, predicted_2d, true_2d=None, *, columns: int = 4, scale: int = 3, valid=None) -> np.ndarray:
    """One picture (H, W, 3) uint8 of a batch: each image beside its predicted and, where known, its true skeleton.

    Args:
        images: (B, h, w, 3) uint8.
        predicted_2d: (B, 21, 2) px.
        true_2d: (B, 21, 2) px, or None.
        columns: how many samples stand in a row.
        valid: (B, 21) which true joints are labelled, or None for all.
    """
    titles = ("image", "predicted", "true")[: 2 if true_2d is None else 3]
    samples = []
    for i, image in enumerate(images):
        views = [upscale(image, scale), draw_skeleton(image, predicted_2d[i], scale=scale)]
        if true_2d is not None:
            shown = None if valid is None else valid[i]
            views.append(draw_skeleton(image, true_2d[i], scale=scale, valid=shown))
        samples.append(np.concatenate([_titled(view, title) for view, title in zip(views, titles)], axis=1))
    return grid(samples, columns=columns)


def grid(images, *, columns: int, gap: int = 4) -> np.ndarray:
    """Images of one size (h, w, 3) uint8, set in rows of `columns` on a dark ground; (0, 0, 3) when there are none."""
    if not len(images):
        return np.zeros((0, 0, 3), np.uint8)
    height, width = images[0].shape[:2]
    columns = max(1, min(columns, len(images)))
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 24, np.uint8)
    for i, image in enumerate(images):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        sheet[y : y + height, x : x + width] = image
    return sheet


def write_png(path, image) -> None:
    """Write an RGB image (H, W, 3) uint8 as a PNG file.

    Raises:
        UserError: the file cannot be written.
    """
    encoded = cv2.imencode(".png", np.asarray(image)[..., ::-1])[1]
    try:
        Path(path).write_bytes(encoded.tobytes())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _titled(image: np.ndarray, title: str) -> np.ndarray:
    """The image under a thin strip with its title."""
    strip = np.full((14, image.shape[1], 3), 24, np.uint8)
    cv2.putText(strip, title, (3, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (230, 230, 230), 1, cv2.LINE_AA)
    return np.concatenate([strip, image], axis=0)
