"""Draw skeletons and meshes of hands over images, and sheets that compare prediction and ground truth."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import ArrayLike

from jaxhand.config import UserError
from jaxhand.hand.camera import project
from jaxhand.hand.skeleton import BONES, FINGER_COLORS, FINGER_OF_JOINT, WRIST_COLOR
from jaxhand.io import output_files

_SUBPIXEL_BITS = 4  # of the coordinates for cv2: units of 1/16 px
_SUPERSAMPLING = 2  # a mesh is drawn larger by this factor and then downsampled, for smooth edges
MESH_COLOR = (172, 196, 232)  # RGB; differs from the colours of skin
_LIGHT = np.array([-0.35, -0.6, -0.72])  # direction to the light: above, left, and behind the camera


def draw_skeleton(
    image: ArrayLike, keypoints_2d: ArrayLike, *, scale: int = 4, valid: ArrayLike | None = None
) -> np.ndarray:
    """Draw a hand's joints and bones over an enlarged image, one colour per finger.

    Args:
        image: (H, W, 3) uint8.
        keypoints_2d: (21, 2) px of the image. Joints without a finite position, and their bones, are left out.
        scale: integer factor of enlargement.
        valid: (21,) mask; joints with 0, and their bones, are left out. None means all are valid.

    Returns:
        (H * scale, W * scale, 3) uint8.
    """
    canvas = upscale(image, scale)
    keypoints = np.asarray(keypoints_2d, np.float64)
    shown = np.all(np.isfinite(keypoints) & (np.abs(keypoints) < 1e5), axis=-1)
    if valid is not None:
        shown &= np.asarray(valid) > 0
    pixels = (np.where(shown[:, None], keypoints, 0) + 0.5) * scale - 0.5  # in the centres of enlarged pixels
    pixels = [tuple(int(round(v * 2**_SUBPIXEL_BITS)) for v in point) for point in pixels]
    thickness = max(1, canvas.shape[0] // 140)
    for parent, child in BONES:
        if shown[parent] and shown[child]:
            color = FINGER_COLORS[FINGER_OF_JOINT[child]]
            cv2.line(canvas, pixels[parent], pixels[child], color, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
    for joint in np.flatnonzero(shown):
        color = FINGER_COLORS[FINGER_OF_JOINT[joint]] if joint else WRIST_COLOR
        radius = int((thickness + 0.6) * 2**_SUBPIXEL_BITS)
        cv2.circle(canvas, pixels[joint], radius, color, -1, cv2.LINE_AA, _SUBPIXEL_BITS)
    return canvas


def draw_mesh(
    image: ArrayLike, vertices: ArrayLike, faces: ArrayLike, K: ArrayLike, *, scale: int = 1, alpha: float = 0.85
) -> np.ndarray:
    """Draw a shaded mesh over an enlarged image.

    Triangles are painted from far to near (painter's algorithm), lit from above the camera. Triangles with a corner
    behind the camera are left out.

    Args:
        image: (H, W, 3) uint8.
        vertices: (V, 3) mm, camera frame; the meshes of several hands can be joined into one.
        faces: (F, 3) int, outward by the right-hand rule.
        K: (3, 3) of the image.
        scale: integer factor of enlargement.
        alpha: opacity of the mesh, 0 to 1.

    Returns:
        (H * scale, W * scale, 3) uint8.
    """
    canvas, vertices, faces = upscale(image, scale), np.asarray(vertices, np.float64), np.asarray(faces)
    faces = faces[(vertices[faces][..., 2] > 1).all(-1)]
    corners, normals = _subdivide(vertices[faces]), _subdivide(vertex_normals(vertices, faces)[faces])  # (4 F, 3, 3)
    order = np.argsort(-corners[..., 2].mean(-1))
    projected = project(corners[order], np.asarray(K))
    pixels = (projected + 0.5) * scale * _SUPERSAMPLING  # (4 F, 3, 2), relative to the canvas's corner
    low, high = pixels.min((0, 1), initial=np.inf) / _SUPERSAMPLING, pixels.max((0, 1), initial=0) / _SUPERSAMPLING
    (x0, y0), (x1, y1) = np.clip([np.floor(low), np.ceil(high)], 0, canvas.shape[1::-1]).astype(int)
    if x0 >= x1 or y0 >= y1:
        return canvas
    painted = np.zeros(((y1 - y0) * _SUPERSAMPLING, (x1 - x0) * _SUPERSAMPLING, 4), np.float32)
    offset = (x0 * _SUPERSAMPLING, y0 * _SUPERSAMPLING)
    points = np.clip((pixels - offset - 0.5) * 2**_SUBPIXEL_BITS, -(2**24), 2**24)
    for triangle, color in zip(np.round(points).astype(np.int32), _shades(corners[order], normals[order])):
        cv2.fillConvexPoly(painted, triangle, (*color, 1.0), cv2.LINE_8, _SUBPIXEL_BITS)
    painted = cv2.resize(painted, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
    part = canvas[y0:y1, x0:x1]
    part[...] = np.round(part + alpha * (painted[..., :3] - painted[..., 3:] * part))  # both are 0 outside the mesh
    return canvas


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals (V, 3): the normalised sum of the adjacent faces' normals, weighted by the faces' areas."""
    corners = vertices[faces]  # (F, 3, 3)
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], face_normals)
    return normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)


def _subdivide(corners: np.ndarray) -> np.ndarray:
    """Divide each triangle into four, for smoother shading: values at the corners (F, 3, C) → (4 F, 3, C)."""
    a, b, c = corners.swapaxes(0, 1)
    ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
    return np.concatenate([np.stack(quarter, 1) for quarter in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])


def _shades(corners: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Colours (F, 3) of triangles, from their corners and normals (F, 3, 3). Back faces (at an open wrist) are dark."""
    normals, rays = normals.mean(1), corners.mean(1)
    facing = -(normals * rays).sum(-1) / np.linalg.norm(rays, axis=-1)
    light = 0.2 + 0.4 * facing + 0.6 * np.maximum(normals @ _LIGHT, 0)
    return np.clip(np.where(facing > 0, light, 0.2)[:, None] * MESH_COLOR, 0, 255)


def upscale(image: ArrayLike, scale: int) -> np.ndarray:
    """Enlarge an image (H, W, 3) uint8 by an integer factor: every pixel becomes `scale` x `scale` pixels."""
    return np.ascontiguousarray(np.repeat(np.repeat(np.asarray(image, np.uint8), scale, 0), scale, 1))


def comparison_sheet(
    images: Sequence[ArrayLike] | np.ndarray,
    predicted_2d: Sequence[ArrayLike] | np.ndarray,
    true_2d: Sequence[ArrayLike] | np.ndarray | None = None,
    *,
    columns: int = 4,
    scale: int = 3,
    valid: Sequence[ArrayLike] | np.ndarray | None = None,
) -> np.ndarray:
    """Draw a batch as one image: each sample next to its predicted skeleton and, if given, its true skeleton.

    Args:
        images: (B, h, w, 3) uint8.
        predicted_2d: (B, 21, 2) px.
        true_2d: (B, 21, 2) px, or None.
        columns: samples per row.
        scale: integer factor of enlargement.
        valid: (B, 21) mask of the true joints that are labelled; None means all are labelled.

    Returns:
        (H, W, 3) uint8.
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


def grid(images: Sequence[np.ndarray], *, columns: int, gap: int = 4) -> np.ndarray:
    """Arrange images of equal size in rows on a dark background.

    Args:
        images: (h, w, 3) uint8 each.
        columns: images per row.
        gap: px between images.

    Returns:
        (H, W, 3) uint8; (0, 0, 3) if there are no images.
    """
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


def write_png(path: str | Path, image: ArrayLike, mark: bytes = b"") -> None:
    """Write an RGB image (H, W, 3) uint8 as a PNG file.

    Args:
        path: the file.
        image: the image.
        mark: the command that writes the file, kept in it for `output_files.check_own`; b"": no mark.

    Raises:
        UserError: the file cannot be written.
    """
    content = cv2.imencode(".png", np.asarray(image)[..., ::-1])[1].tobytes()
    try:
        Path(path).write_bytes(output_files.marked_png(content, mark) if mark else content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _titled(image: np.ndarray, title: str) -> np.ndarray:
    """Add a strip of 14 px with the title above an image (h, w, 3)."""
    strip = np.full((14, image.shape[1], 3), 24, np.uint8)
    cv2.putText(strip, title, (3, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (230, 230, 230), 1, cv2.LINE_AA)
    return np.concatenate([strip, image], axis=0)
