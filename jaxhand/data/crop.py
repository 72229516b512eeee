"""From a record to a square crop around the hand, and back: every label follows the pixels exactly.

A 3x3 matrix A moves the pixels and an orthogonal R turns the space (in-plane rotation, mirror of a left hand).
With X' = R X and K' = A K R^T the new camera sees X' where A carries the image of X: K' X' = A K X.
"""

import cv2
import numpy as np

from jaxhand.data.record import Record
from jaxhand.hand.camera import DEPTH_RANGE_MM, project


def crop(record: Record, size: int, crop_scale: float, *, rotation=0.0, scale=1.0, shift=(0.0, 0.0)) -> dict:
    """Cut the square around a hand and bring all labels along; a left hand comes out as a right one.

    The square is centred on the record's box (without one: on the box of its valid 2D joints; without those the whole
    image is taken) and `crop_scale` times its longer side wide.

    Args:
        record: the labelled hand.
        size: side of the crop in px.
        crop_scale: side of the square over the longer side of the box.
        rotation: in-plane turn of the hand in radians, clockwise as seen.
        scale: factor on the side of the square.
        shift: (x, y) of the square's centre, as parts of its side, in the mirrored image of a left hand.

    Returns:
        image (h,w,3) uint8 · depth (h,w) in [-1,1] around the hand, 1 where unknown, all 0 without depth · has_depth
        () · depth_center () mm · keypoints_3d (21,3) mm · keypoints_2d (21,2) px · joint_valid (21,) of 3D ·
        joint_valid_2d (21,) · K (3,3) · is_right (). Joints that are not valid are 0.
    """
    height, width = record.image.shape[:2]
    left = record.hand == "left"
    K = np.asarray(record.K, np.float64)  # (3, 3)
    joints = np.asarray(record.keypoints_3d, np.float64)  # (21, 3)
    valid = np.asarray(record.joint_valid) > 0  # (21,)
    labels = None if record.keypoints_2d is None else np.asarray(record.keypoints_2d, np.float64)  # (21, 2)
    valid_2d = valid if labels is None else np.asarray(record.joint_valid_2d) > 0

    seen = project(joints[valid], K) if labels is None else labels[valid_2d]  # (n, 2)

    center_x, center_y, side = _square(record, seen, crop_scale)
    A, R = np.eye(3), np.eye(3)
    if left:
        center_x = width - 1 - center_x
        A[0, 0], A[0, 2] = -1.0, width - 1
        R[0, 0] = -1.0
    side *= scale
    center_x, center_y = center_x + shift[0] * side, center_y + shift[1] * side

    zoom, middle = size / side, (size - 1) / 2
    moved = (abs(zoom - 1) + abs(rotation)) * size + abs(center_x - middle) + abs(center_y - middle)  # px, at most
    if (height, width) == (size, size) and moved < 0.01:
        image, depth = (record.image[:, ::-1], _mirrored(record.depth)) if left else (record.image, record.depth)
    else:
        cos, sin = np.cos(rotation), np.sin(rotation)
        a, b = zoom * cos, zoom * sin
        A = np.array([[a, -b, middle - a * center_x + b * center_y],
                      [b, a, middle - b * center_x - a * center_y],
                      [0, 0, 1]]) @ A
        R = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ R
        image = _warp(record.image, A, size, zoom)
        depth = None
        if record.depth is not None:
            depth = cv2.warpAffine(np.asarray(record.depth, np.float32), A[:2], (size, size), flags=cv2.INTER_NEAREST)

    K, joints = A @ K @ R.T, joints @ R.T
    joints[~valid] = 0, 0, 1  # keeps the projection finite
    pixels = project(joints, K) if labels is None else labels @ A[:2, :2].T + A[:2, 2]
    joints[~valid] = 0
    pixels[~valid_2d] = 0
    depth, depth_center = _around_hand(depth, size)
    return {
        "image": image,
        "depth": depth,
        "has_depth": np.float32(depth_center > 0),
        "depth_center": np.float32(depth_center),
        "keypoints_3d": joints.astype(np.float32),
        "keypoints_2d": pixels.astype(np.float32),
        "joint_valid": valid.astype(np.float32),
        "joint_valid_2d": valid_2d.astype(np.float32),
        "K": K.astype(np.float32),
        "is_right": np.float32(not left),
    }


def uncrop(keypoints_2d, keypoints_3d, K_crop, K_image, is_right):
    """Bring predictions in a crop that was not rotated back to its image: the inverse of `crop`.

    Args:
        keypoints_2d: (..., N, 2) px of the crop.
        keypoints_3d: (..., N, 3) mm, camera frame of the crop.
        K_crop: (..., 3, 3) as `crop` gives it.
        K_image: (..., 3, 3) of the record.
        is_right: (...) 0 where the hand was mirrored.

    Returns:
        (..., N, 2) px of the image and (..., N, 3) mm in its camera frame, of the left or right hand as it was.
    """
    signs = np.ones((*np.shape(is_right), 3))
    signs[..., 0] = np.where(np.asarray(is_right) > 0, 1, -1)
    to_crop = (np.asarray(K_crop, np.float64) * signs[..., None, :]) @ np.linalg.inv(K_image)  # A = K' R K^-1
    pixels = np.concatenate([keypoints_2d, np.ones_like(keypoints_2d[..., :1])], axis=-1)  # (..., N, 3)
    pixels = pixels @ np.linalg.inv(to_crop).swapaxes(-1, -2)
    return pixels[..., :2], keypoints_3d * signs[..., None, :]


def _square(record, seen, crop_scale):
    """Centre x, y and side in px of the square around the hand, whose joints are at `seen` (n, 2), in its image."""
    if record.bbox is not None:
        x0, y0, x1, y1 = map(float, record.bbox)
    elif len(seen):
        (x0, y0), (x1, y1) = seen.min(0), seen.max(0)
    else:
        height, width = record.image.shape[:2]
        return (width - 1) / 2, (height - 1) / 2, float(max(width, height))
    return (x0 + x1) / 2, (y0 + y1) / 2, crop_scale * max(x1 - x0, y1 - y0, 1.0)


def _mirrored(depth):
    return None if depth is None else depth[:, ::-1]


def _warp(image, A, size, zoom):
    """Resample (H, W, 3) through A. Whole blocks of pixels are averaged first: bilinear samples alone would alias."""
    height, width = image.shape[:2]
    block = min(round(1 / zoom), height, width)  # a whole number: OpenCV averages those several times faster
    if block > 1:
        rows, columns = height // block, width // block
        image = image[: rows * block, : columns * block]
        image = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
        A = A @ np.array([[block, 0, (block - 1) / 2], [0, block, (block - 1) / 2], [0, 0, 1]])  # from its pixels
    return cv2.warpAffine(image, A[:2], (size, size), flags=cv2.INTER_LINEAR)


def _around_hand(depth, size):
    """Depth (h, w) mm → the same in [-1, 1] around the hand, and the hand's distance in mm (0 where not measured).

    The distance is the 20 % quantile of what is known in the crop's central half: the hand is the nearest large
    thing there, so neither holes nor the background move it much, and no label is asked.
    """
    if depth is not None:
        edge = size // 4
        middle = depth[edge : size - edge, edge : size - edge]
        known = middle[middle > 0]
        if known.size:
            nearer = known.size // 5
            center = np.partition(known, nearer)[nearer]
            around = np.clip((depth - center) * np.float32(1 / DEPTH_RANGE_MM), -1, 1)
            around[~(depth > 0)] = 1
            return around.astype(np.float32, copy=False), float(center)
    return np.zeros((size, size), np.float32), 0.0
