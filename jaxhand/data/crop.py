"""From a record to a square crop around the hand, and back: every label follows the pixels exactly.

A 3x3 matrix A moves the pixels and an orthogonal R turns the space (in-plane rotation, mirror of a left hand).
With X' = R X and K' = A K R^T the new camera sees X' where A carries the image of X: K' X' = A K X.
"""

import cv2
import numpy as np

from jaxhand.data.crop_rules import RULES, CropRule, blur, blur_reach, blur_sigma
from jaxhand.data.images.encoded import EncodedImage, enlarge, reused
from jaxhand.data.record import Record
from jaxhand.hand.camera import DEPTH_RANGE_MM, project
from jaxhand.hand.mano_pose import turn
from jaxhand.hand.skinned import SkinnedHand


def crop(
    record: Record, size: int, crop_scale: float, *,
    rule: CropRule = RULES["square"], rotation=0.0, scale=1.0, shift=(0.0, 0.0),
    hand: SkinnedHand | None = None, out: dict | None = None,
) -> dict:  # fmt: skip
    """Cut the square around a hand and bring all labels along; a left hand comes out as a right one.

    The square is centred on the record's box (without one: on the box of its valid 2D joints; without those the whole
    image is taken) and `crop_scale` times its longer side wide, or as `rule` says. An `EncodedImage` is decoded no
    finer than the crop needs.

    Args:
        record: the labelled hand.
        size: side of the crop in px.
        crop_scale: side of the square over the longer side of the box.
        rule: one of `crop_rules.RULES`.
        rotation: in-plane turn of the hand in radians, clockwise as seen.
        scale: factor on the side of the square.
        shift: (x, y) of the square's centre, as parts of its side, in the mirrored image of a left hand.
        hand: whose mesh labels are brought along; None leaves them out.
        out: arrays to fill, as `layout` says; None makes them.

    Returns:
        `out`: image (h,w,3) uint8 · depth (h,w) in [-1,1] around the hand, 1 where unknown, all 0 without depth ·
        has_depth () · depth_center () mm · keypoints_3d (21,3) mm · keypoints_2d (21,2) px · joint_valid (21,) of 3D ·
        joint_valid_2d (21,) · K (3,3) of the crop · K_image (3,3) float64 of the record · is_right ().
        Joints that are not valid are 0. With `hand` also vertices (V,3) mm · has_vertices () · mano_pose (48,)
        axis-angle · mano_shape (10,) · has_pose (): 0 where a record has no such labels of this hand.
    """
    out = {key: np.empty(shape, dtype) for key, (shape, dtype) in layout(size, hand).items()} if out is None else out
    photo = isinstance(record.image, EncodedImage)
    left = record.hand == "left"
    K = np.asarray(record.K, np.float64)  # (3, 3)
    joints = np.asarray(record.keypoints_3d, np.float64)  # (21, 3)
    valid = np.asarray(record.joint_valid) > 0  # (21,)
    labels = None if record.keypoints_2d is None else np.asarray(record.keypoints_2d, np.float64)  # (21, 2)
    valid_2d = valid if labels is None else np.asarray(record.joint_valid_2d) > 0

    seen = project(joints[valid], K) if labels is None else labels[valid_2d]  # (n, 2)

    center_x, center_y, side = _square(record, seen, crop_scale, rule)
    side *= scale
    width, height = record.image.size if photo else record.image.shape[1::-1]
    A, R = np.eye(3), np.eye(3)
    if left:
        center_x = width - 1 - center_x
        A[0, 0], A[0, 2] = -1.0, width - 1
        R[0, 0] = -1.0
    center_x, center_y = center_x + shift[0] * side, center_y + shift[1] * side

    zoom, middle = size / side, (size - 1) / 2 + rule.middle
    moved = (abs(zoom - 1) + abs(rotation)) * size + abs(center_x - middle) + abs(center_y - middle)  # px, at most
    depth = record.depth
    if (height, width) == (size, size) and not photo and moved < 0.01:
        out["image"][...] = record.image[:, ::-1] if left else record.image
        depth = depth[:, ::-1] if left and depth is not None else depth
    else:
        cos, sin = np.cos(rotation), np.sin(rotation)
        a, b = zoom * cos, zoom * sin
        A = (
            np.array(
                [[a, -b, middle - a * center_x + b * center_y], [b, a, middle - b * center_x - a * center_y], [0, 0, 1]]
            )
            @ A
        )
        R = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ R
        pixels, T = record.image, np.eye(3)
        if photo and rule.blurred:  # as its pixels are
            pixels = record.image.pixels
        elif photo:
            pixels, T = record.image.part(_seen(A, size), 1 / zoom)
        warp(pixels, A @ T, zoom * np.abs(T[0, :2]).max(), rule.blurred, out["image"])
        if depth is not None:
            depth = cv2.warpAffine(np.asarray(depth, np.float32), A[:2], (size, size), flags=cv2.INTER_NEAREST)

    K, joints = A @ K @ R.T, joints @ R.T
    joints[~valid] = 0, 0, 1  # keeps the projection finite
    seen = project(joints, K) if labels is None else labels @ A[:2, :2].T + A[:2, 2]
    joints[~valid] = 0
    seen[~valid_2d] = 0
    out["depth_center"][...] = 0 if depth is None else _around_hand(depth, out["depth"])
    out["has_depth"][...] = out["depth_center"] > 0
    if not out["has_depth"]:
        out["depth"][...] = 0
    out["keypoints_3d"][...] = joints
    out["keypoints_2d"][...] = seen
    out["joint_valid"][...] = valid
    out["joint_valid_2d"][...] = valid_2d
    out["K"][...] = K
    out["K_image"][...] = record.K
    out["is_right"][...] = not left
    if hand is not None:
        _put_mesh(record, hand, R, out)
    return out


def _put_mesh(record: Record, hand: SkinnedHand, R, out: dict) -> None:
    """The labels of a record's mesh, turned and mirrored by R, where they are of `hand`."""
    ours = record.mesh == hand.name
    has_vertices = ours and record.vertices is not None and len(record.vertices) == hand.num_vertices
    has_pose = ours and record.mano_pose is not None and record.mano_shape is not None
    out["has_vertices"][...], out["has_pose"][...] = has_vertices, has_pose
    out["vertices"][...] = record.vertices @ R.T if has_vertices else 0
    out["mano_shape"][...] = record.mano_shape if has_pose else 0
    out["mano_pose"][...] = 0
    if has_pose:
        side = np.linalg.det(R)  # -1 where a left hand becomes a right one
        pose = np.asarray(record.mano_pose, np.float64).reshape(16, 3) * (1, side, side)
        pose[0] = turn(pose[0], R * (side, 1, 1))
        out["mano_pose"][...] = pose.reshape(48)


def layout(size: int, hand: SkinnedHand | None = None) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shape and dtype of what `crop` gives."""
    shapes = {
        "depth": (size, size),
        "has_depth": (),
        "depth_center": (),
        "keypoints_3d": (21, 3),
        "keypoints_2d": (21, 2),
        "joint_valid": (21,),
        "joint_valid_2d": (21,),
        "K": (3, 3),
        "is_right": (),
    }
    if hand is not None:
        shapes |= {"vertices": (hand.num_vertices, 3), "has_vertices": (), "mano_pose": (48,), "mano_shape": (10,)}
        shapes |= {"has_pose": ()}
    image, K_image = ((size, size, 3), np.uint8), ((3, 3), np.float64)  # as exact as `uncrop` needs it
    return {"image": image, "K_image": K_image} | {key: (shape, np.float32) for key, shape in shapes.items()}


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


def _square(record, seen, crop_scale, rule):
    """Centre x, y and side in px of the square around the hand, whose joints are at `seen` (n, 2), in its image."""
    if record.bbox is not None:
        x0, y0, x1, y1 = map(float, record.bbox)
    elif len(seen):
        (x0, y0), (x1, y1) = seen.min(0), seen.max(0)
    else:
        width, height = record.image.size if isinstance(record.image, EncodedImage) else record.image.shape[1::-1]
        return (width - 1) / 2, (height - 1) / 2, float(max(width, height))
    return (x0 + x1) / 2, (y0 + y1) / 2, crop_scale * rule.side(x1 - x0, y1 - y0)


def warp(pixels, A, zoom, blurred, out) -> None:
    """Resample (H, W, 3) uint8 through A (3, 3), which makes it `zoom` times as large, to `out`; black outside.

    Whole blocks of pixels are averaged first, as bilinear samples alone would alias; `blurred` blurs as HaMeR instead.

    The region seen is copied together and gets a fourth channel: OpenCV warps that in half the time or less.
    """
    height, width = pixels.shape[:2]
    sigma = blur_sigma(1 / zoom) if blurred else 0.0
    block = 1 if blurred else min(round(1 / zoom), height, width)  # a whole number: OpenCV averages those much faster
    if block > 1:
        height, width = height // block, width // block
        pixels = pixels[: height * block, : width * block]
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        A = A @ enlarge(block)
    size = len(out)
    seen = _seen(A, size)
    reach = blur_reach(sigma)
    (x0, y0), (x1, y1) = seen.min(1) - reach - 2, seen.max(1) + reach + 3  # a pixel more than bilinear samples touch
    x0, y0 = int(np.clip(x0, 0, width - 1)), int(np.clip(y0, 0, height - 1))
    x1, y1 = int(np.clip(x1, x0 + 1, width)), int(np.clip(y1, y0 + 1, height))
    region = cv2.cvtColor(pixels[y0:y1, x0:x1], cv2.COLOR_RGB2RGBA, reused("region", (y1 - y0, x1 - x0, 4)))
    region = blur(region, sigma) if sigma else region
    A = A @ np.array([[1, 0, x0], [0, 1, y0], [0, 0, 1]])
    warped = cv2.warpAffine(region, A[:2], (size, size), reused("warped", (size, size, 4)), flags=cv2.INTER_LINEAR)
    cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB, out)


def _seen(A, size):
    """Where the corners of a crop through A are, (2, 4) x, y."""
    return np.linalg.solve(A, np.array([[0, 0, size, size], [0, size, 0, size], [1, 1, 1, 1]]))[:2]


def _around_hand(depth, out) -> float:
    """Write depth (h, w) mm in [-1, 1] around the hand to `out`; the hand's distance in mm (0 where not measured).

    The distance is the 20 % quantile of what is known in the crop's central half: the hand is the nearest large
    thing there, so neither holes nor the background move it much, and no label is asked.
    """
    edge = len(depth) // 4
    middle = depth[edge : len(depth) - edge, edge : len(depth) - edge]
    known = middle[middle > 0]
    if not known.size:
        return 0.0
    nearer = known.size // 5
    center = np.partition(known, nearer)[nearer]
    out[...] = np.clip((depth - center) * np.float32(1 / DEPTH_RANGE_MM), -1, 1)
    out[~(depth > 0)] = 1
    return float(center)
