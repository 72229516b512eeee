"""Hands drawn on pictures: skeletons over images, and sheets that set prediction beside truth."""

from pathlib import Path

import cv2
import numpy as np

from jaxhand.config import UserError
from jaxhand.hand.camera import project
from jaxhand.hand.skeleton import BONES, FINGER_COLORS, FINGER_OF_JOINT, WRIST_COLOR

_SUBPIXEL = 4  # cv2 draws at 1/16 px
_FINER = 2  # a mesh is drawn so many times larger, then averaged: smooth edges
MESH_COLOR = (172, 196, 232)  # RGB, unlike skin
_LIGHT = np.array([-0.35, -0.6, -0.72])  # where it comes from: above, left, and behind the camera


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


def draw_mesh(image, vertices, faces, K, *, scale: int = 1, alpha: float = 0.85) -> np.ndarray:
    """The image (H, W, 3) uint8, `scale` times larger, under a shaded mesh that it shines through a little.

    Triangles are painted from far to near, lit from above the camera. One with a corner behind the camera is left out.

    Args:
        image: (H, W, 3) uint8.
        vertices: (V, 3) mm, camera frame; the meshes of several hands can be put together as one.
        faces: (F, 3) int, outward by the right-hand rule.
        K: (3, 3) of the image.
        scale: how many times larger.
        alpha: how much of the mesh is seen, 0 to 1.
    """
    canvas, vertices, faces = upscale(image, scale), np.asarray(vertices, np.float64), np.asarray(faces)
    faces = faces[(vertices[faces][..., 2] > 1).all(-1)]
    corners, normals = _quartered(vertices[faces]), _quartered(_normals(vertices, faces)[faces])  # (4 F, 3, 3)
    order = np.argsort(-corners[..., 2].mean(-1))
    pixels = (project(corners[order], K) + 0.5) * scale * _FINER  # (4 F, 3, 2) from the canvas's corner
    low, high = pixels.min((0, 1), initial=np.inf) / _FINER, pixels.max((0, 1), initial=0) / _FINER
    (x0, y0), (x1, y1) = np.clip([np.floor(low), np.ceil(high)], 0, np.multiply(image.shape[1::-1], scale)).astype(int)
    if x0 >= x1 or y0 >= y1:
        return canvas
    painted = np.zeros(((y1 - y0) * _FINER, (x1 - x0) * _FINER, 4), np.float32)
    points = np.clip((pixels - (x0 * _FINER, y0 * _FINER) - 0.5) * 2**_SUBPIXEL, -(2**24), 2**24)
    for triangle, color in zip(np.round(points).astype(np.int32), _shades(corners[order], normals[order])):
        cv2.fillConvexPoly(painted, triangle, (*color, 1.0), cv2.LINE_8, _SUBPIXEL)
    painted = cv2.resize(painted, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
    part = canvas[y0:y1, x0:x1]
    part[...] = np.round(part + alpha * (painted[..., :3] - painted[..., 3:] * part))  # unpainted, both are 0
    return canvas


def _normals(vertices, faces):
    """Normals (V, 3) at the vertices, not of unit length: of the faces around, by their area."""
    corners = vertices[faces]  # (F, 3, 3)
    of_faces = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], of_faces)
    return normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)


def _quartered(corners):
    """Values (F, 3, C) at the corners of triangles → (4 F, 3, C) of their quarters: shades are smoother."""
    a, b, c = corners.swapaxes(0, 1)
    ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
    return np.concatenate([np.stack(quarter, 1) for quarter in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])


def _shades(corners, normals):
    """Colours (F, 3) of triangles with corners and normals (F, 3, 3); an inside, seen through an open wrist, is dark."""
    normals, rays = normals.mean(1), corners.mean(1)
    facing = -(normals * rays).sum(-1) / np.linalg.norm(rays, axis=-1)
    light = 0.2 + 0.4 * facing + 0.6 * np.maximum(normals @ _LIGHT, 0)
    return np.clip(np.where(facing > 0, light, 0.2)[:, None] * MESH_COLOR, 0, 255)


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
