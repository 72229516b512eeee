"""Cut a square crop around the hand of a record, and transform all labels in the same way as its pixels.

A 3x3 matrix A transforms pixels. An orthogonal R transforms 3D points (in-plane rotation, mirroring of a left hand).
With X' = R X and K' = A K R^T, the camera of the crop projects X' to the transformed pixel of X: K' X' = A K X.
`hand.camera.uncrop` is the inverse.
"""

import dataclasses
import math

import cv2
import numpy as np

from jaxhand.data.batch import layout
from jaxhand.data.crop_rules import RULES, CropRule, blur, blur_reach, blur_sigma, whole_image_box
from jaxhand.data.images.encoded import EncodedImage, block_centers, scratch
from jaxhand.data.label_checks import BOX_MARGIN, box_misses_joints, joints_inside
from jaxhand.data.record import Record
from jaxhand.hand import roi
from jaxhand.hand.camera import DEPTH_RANGE_MM, project
from jaxhand.hand.mano_pose import rotate_axis_angle
from jaxhand.hand.skinned import SkinnedHand

_SAME_PX = 0.01  # if a crop moves all pixels by less than this, the image is used unchanged


@dataclasses.dataclass(frozen=True)
class CropTransform:
    """The transformation from an image to its crop.

    Attributes:
        A: (3, 3) pixel coordinates of the image → of the crop, including the mirroring of a left hand.
        R: (3, 3) orthogonal, camera frame of the image → of the crop, including the mirroring of a left hand.
        unmirrored: (3, 3) A without the mirroring, for the image of a left hand that was flipped before.
        zoom: pixels of the crop per pixel of the image.
        rotation: radians, clockwise, in the mirrored image of a mirrored hand.
        mirrored: whether the hand is mirrored, such as a left hand to a right hand.
        whole_image: whether the pixels of the crop are those of the image, possibly flipped.
    """

    A: np.ndarray
    R: np.ndarray
    unmirrored: np.ndarray
    zoom: float
    rotation: float
    mirrored: bool
    whole_image: bool


def crop(
    record: Record,
    size: int,
    crop_scale: float,
    *,
    rule: CropRule = RULES["square"],
    rotation: float = 0.0,
    scale: float = 1.0,
    shift: tuple[float, float] = (0.0, 0.0),
    mirror: bool = False,
    hand_model: SkinnedHand | None = None,
    out: dict[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Cut a square around a hand and transform all labels accordingly. Most rules mirror a left hand to a right hand.

    The square is centred on the record's box. A record without a box uses the bounding box of its valid 2D joints, and
    so does a record whose box does not fit its joints (`label_checks.box_misses_joints`). A record without a box and
    without valid joints uses the complete image. The side of the square is `crop_scale` times `CropRule.side` of
    the box. A rule with `along_hand` uses the rotated square of the 2D joints instead, if all joints are valid. An
    `EncodedImage` is not decoded at a higher resolution than the crop needs.

    Args:
        record: the labelled hand.
        size: side of the crop in px.
        crop_scale: side of the square / `CropRule.side` of the box.
        rule: one of `crop_rules.RULES`.
        rotation: in-plane rotation of the hand in radians, clockwise in the image; on top of that of the rule.
        scale: factor that multiplies the side of the square.
        shift: (x, y) shift of the square's centre, as a fraction of its side; for a left hand, in the mirrored image.
        mirror: mirror the hand, on top of what the rule does.
        hand_model: the hand model whose mesh labels are transformed; None: no mesh labels.
        out: arrays to fill, with the shapes of `batch.layout`; None allocates them.

    Returns:
        `out`: one row of a `batch.Batch`, without `valid` and `index`. Mesh labels are 0 if the record has none for
        this hand model.

    Raises:
        UserError: the image cannot be decoded.
    """
    if out is None:
        out = {key: np.empty(shape, dtype) for key, (shape, dtype) in layout(size, hand_model).items()}
    changes = {"rotation": rotation, "scale": scale, "shift": shift, "mirror": mirror}
    transform = crop_transform(record, size, crop_scale, rule=rule, **changes)
    warp_pixels(record, transform, rule.antialias_blur, out)
    transform_labels(record, transform, hand_model, out)
    return out


def crop_transform(
    record: Record,
    size: int,
    crop_scale: float,
    *,
    rule: CropRule = RULES["square"],
    rotation: float = 0.0,
    scale: float = 1.0,
    shift: tuple[float, float] = (0.0, 0.0),
    mirror: bool = False,
) -> CropTransform:
    """Compute the transformation of pixels and 3D points from image to crop. The arguments are those of `crop`."""
    width, height = image_size(record)
    mirrored = (record.hand == "left" and rule.mirror_left) != mirror
    center_x, center_y, side, own_rotation = _square(record, crop_scale, rule)
    side *= scale
    flip, R = np.eye(3), np.eye(3)
    if mirrored:
        center_x, own_rotation = width - 1 - center_x, -own_rotation
        flip[0, 0], flip[0, 2] = -1.0, width - 1
        R[0, 0] = -1.0
    center_x, center_y = center_x + shift[0] * side, center_y + shift[1] * side
    rotation += own_rotation

    zoom, crop_center = size / side, (size - 1) / 2 + rule.pixel_center_offset
    moved = (abs(zoom - 1) + abs(rotation)) * size + abs(center_x - crop_center) + abs(center_y - crop_center)  # px
    if (height, width) == (size, size) and not isinstance(record.image, EncodedImage) and moved < _SAME_PX:
        return CropTransform(flip, R, np.eye(3), 1.0, 0.0, mirrored, whole_image=True)
    cos, sin = np.cos(rotation), np.sin(rotation)
    a, b = zoom * cos, zoom * sin
    unmirrored = np.array(
        [
            [a, -b, crop_center - a * center_x + b * center_y],
            [b, a, crop_center - b * center_x - a * center_y],
            [0, 0, 1],
        ]
    )
    R = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ R
    return CropTransform(unmirrored @ flip, R, unmirrored, zoom, rotation, mirrored, whole_image=False)


def warp_pixels(record: Record, transform: CropTransform, antialias_blur: bool, out: dict[str, np.ndarray]) -> None:
    """Fill `image`, `depth`, `has_depth` and `depth_center` of a crop.

    The image of a left hand is flipped first and then warped, because a warp that mirrors rounds differently. So its
    crop is equal, bit by bit, to the crop of a right hand in the mirrored photograph.

    Args:
        record: the labelled hand.
        transform: the result of `crop_transform` for this record.
        antialias_blur: True: blur before downsampling, as HaMeR does. False: average blocks of pixels.
        out: arrays to fill, with the shapes of `batch.layout`.
    """
    size = len(out["image"])
    depth = record.depth
    if depth is not None and transform.mirrored:
        depth = depth[:, ::-1]
    if transform.whole_image:
        out["image"][...] = record.pixels[:, ::-1] if transform.mirrored else record.pixels
    else:
        if isinstance(record.image, EncodedImage) and not antialias_blur:
            pixels, T = record.image.decode_region(_corners(transform.A, size), 1 / transform.zoom)
        else:  # the blur needs all pixels at full size
            pixels, T = record.pixels, np.eye(3)
        to_crop = transform.A @ T
        if transform.mirrored:
            flip = np.array([[-1, 0, pixels.shape[1] - 1], [0, 1, 0], [0, 0, 1]])
            to_crop = transform.unmirrored if pixels is record.image else to_crop @ flip
            pixels = pixels[:, ::-1]
        warp(pixels, to_crop, transform.zoom * np.abs(T[0, :2]).max(), antialias_blur, out["image"])
        if depth is not None:
            depth = np.ascontiguousarray(depth, np.float32)
            depth = cv2.warpAffine(depth, transform.unmirrored[:2], (size, size), flags=cv2.INTER_NEAREST)
    out["depth_center"][...] = 0 if depth is None else _normalize_depth(depth, out["depth"])
    out["has_depth"][...] = out["depth_center"] > 0
    if not out["has_depth"]:
        out["depth"][...] = 0


def transform_labels(
    record: Record, transform: CropTransform, hand_model: SkinnedHand | None, out: dict[str, np.ndarray]
) -> None:
    """Fill the labels of a crop: joints in 3D and 2D, cameras, left or right; with a hand model, its mesh labels.

    Args:
        record: the labelled hand.
        transform: the result of `crop_transform` for this record.
        hand_model: the hand model whose mesh labels are transformed; None: no mesh labels.
        out: arrays to fill, with the shapes of `batch.layout`.
    """
    A, R = transform.A, transform.R
    K_image = np.asarray(record.K, np.float64)  # (3, 3)
    K = A @ K_image @ R.T
    valid = np.asarray(record.joint_valid) > 0  # (21,)
    joints = np.asarray(record.keypoints_3d, np.float64) @ R.T  # (21, 3)
    joints[~valid] = 0, 0, 1  # keeps the projection finite
    if record.keypoints_2d is None:
        pixels, valid_2d = project(joints, K), valid  # (21, 2)
    else:
        pixels = np.asarray(record.keypoints_2d, np.float64) @ A[:2, :2].T + A[:2, 2]
        valid_2d = np.asarray(record.joint_valid_2d) > 0
    joints[~valid] = 0
    pixels[~valid_2d] = 0
    out["keypoints_3d"][...] = joints
    out["keypoints_2d"][...] = pixels
    out["joint_valid"][...] = valid
    out["joint_valid_2d"][...] = valid_2d
    out["K"][...] = K
    out["K_image"][...] = K_image
    out["is_right"][...] = not transform.mirrored
    out["rotation"][...] = transform.rotation
    if hand_model is not None:
        _transform_mesh(record, hand_model, R, out)


def _transform_mesh(record: Record, hand_model: SkinnedHand, R: np.ndarray, out: dict[str, np.ndarray]) -> None:
    """Transform the mesh labels of a record by R, if these labels belong to `hand_model`."""
    same_model = record.mesh == hand_model.name
    has_vertices = same_model and record.vertices is not None and len(record.vertices) == hand_model.num_vertices
    has_pose = same_model and record.mano_pose is not None and record.mano_shape is not None
    out["has_vertices"][...], out["has_pose"][...] = has_vertices, has_pose
    out["vertices"][...] = record.vertices @ R.T if has_vertices else 0
    out["mano_shape"][...] = record.mano_shape if has_pose else 0
    out["mano_pose"][...] = 0
    if has_pose:
        sign = np.linalg.det(R)  # -1 if a left hand becomes a right hand
        pose = np.asarray(record.mano_pose, np.float64).reshape(16, 3) * (1, sign, sign)
        pose[0] = rotate_axis_angle(pose[0], R * (sign, 1, 1))
        out["mano_pose"][...] = pose.reshape(48)


def image_size(record: Record) -> tuple[int, int]:
    """Return width and height of a record's image, px."""
    return record.image.size if isinstance(record.image, EncodedImage) else record.pixels.shape[1::-1]


def _square(record: Record, crop_scale: float, rule: CropRule) -> tuple[float, float, float, float]:
    """Return centre x, y, side (px) and rotation of the square around the hand in its image, before any augmentation.

    The rotation, in radians, is the one that turns the hand upright, clockwise.
    """
    pixels = _labelled_pixels(record)
    if rule.along_hand and len(pixels) == len(record.joint_valid):
        square = roi.of_joints(pixels)
        return *square.center, square.side, np.arctan2(-square.up[0], -square.up[1])
    if record.bbox is not None and not _box_misses(record, pixels):
        x0, y0, x1, y1 = map(float, record.bbox)
    elif len(pixels):
        (x0, y0), (x1, y1) = pixels.min(0), pixels.max(0)
    else:
        x0, y0, x1, y1 = whole_image_box(*image_size(record), crop_scale)
    return (x0 + x1) / 2, (y0 + y1) / 2, crop_scale * rule.side(x1 - x0, y1 - y0), 0.0


def _box_misses(record: Record, pixels: np.ndarray) -> bool:
    """Whether the record's box is none, or does not fit its labelled joints (n, 2) px, of which those outside the
    image do not count."""
    x0, y0, x1, y1 = np.asarray(record.bbox, np.float64).tolist()
    if not (min(x1 - x0, y1 - y0) > 0 and math.isfinite(x0 + y0 + x1 + y1)):
        return True
    reach = BOX_MARGIN / 2 * max(x1 - x0, y1 - y0)
    if len(pixels):
        if np.abs(pixels - ((x0 + x1) / 2, (y0 + y1) / 2)).max() <= reach:
            return False  # all joints are inside, as nearly always; this is quicker
    inside = joints_inside(pixels[None], np.ones((1, len(pixels))), np.array([image_size(record)]))
    return bool(box_misses_joints(np.asarray(record.bbox)[None], pixels[None], inside)[0])


def _labelled_pixels(record: Record) -> np.ndarray:
    """The joints that are labelled in the image (n, 2) px."""
    if record.keypoints_2d is not None:
        return np.asarray(record.keypoints_2d, np.float64)[np.asarray(record.joint_valid_2d) > 0]
    valid = np.asarray(record.joint_valid) > 0
    return project(np.asarray(record.keypoints_3d, np.float64)[valid], np.asarray(record.K, np.float64))


def warp(pixels: np.ndarray, A: np.ndarray, zoom: float, antialias_blur: bool, out: np.ndarray) -> None:
    """Warp an image by an affine matrix with bilinear sampling. Pixels outside the image are black.

    Blocks of pixels are averaged before, because bilinear sampling alone would alias. With `antialias_blur` the image
    is blurred instead, as in HaMeR. Only the required region is copied, and gets a fourth channel: OpenCV warps four
    channels at least twice as fast as three.

    Args:
        pixels: (H, W, 3) uint8.
        A: (3, 3) pixel coordinates of `pixels` → of `out`.
        zoom: pixels of `out` per pixel of `pixels`.
        antialias_blur: as in `CropRule.antialias_blur`.
        out: (h, h, 3) uint8 to fill.
    """
    height, width = pixels.shape[:2]
    sigma = blur_sigma(1 / zoom) if antialias_blur else 0.0
    block = 1 if antialias_blur else min(round(1 / zoom), height, width)  # OpenCV is much faster with integers
    if block > 1:
        height, width = height // block, width // block
        pixels = pixels[: height * block, : width * block]
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        A = A @ block_centers(block)
    size = len(out)
    corners = _corners(A, size)
    reach = blur_reach(sigma)
    (x0, y0), (x1, y1) = corners.min(1) - reach - 2, corners.max(1) + reach + 3  # 1 px more than bilinear needs
    x0, y0 = int(np.clip(x0, 0, width - 1)), int(np.clip(y0, 0, height - 1))
    x1, y1 = int(np.clip(x1, x0 + 1, width)), int(np.clip(y1, y0 + 1, height))
    region = cv2.cvtColor(pixels[y0:y1, x0:x1], cv2.COLOR_RGB2RGBA, scratch("region", (y1 - y0, x1 - x0, 4)))
    region = blur(region, sigma) if sigma else region
    A = A @ np.array([[1, 0, x0], [0, 1, y0], [0, 0, 1]])
    warped = cv2.warpAffine(region, A[:2], (size, size), scratch("warped", (size, size, 4)), flags=cv2.INTER_LINEAR)
    cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB, out)


def _corners(A: np.ndarray, size: int) -> np.ndarray:
    """Corners (2, 4) x, y, in image pixels, of a crop of `size` px; A (3, 3) maps from the image to the crop."""
    return np.linalg.solve(A, np.array([[0, 0, size, size], [0, size, 0, size], [1, 1, 1, 1]]))[:2]


def _normalize_depth(depth: np.ndarray, out: np.ndarray) -> float:
    """Normalise depth (h, w) mm to [-1, 1] around the hand, into `out`. Returns the hand's distance, mm; 0 if unknown.

    The distance is the 20 % quantile of the known depths in the central half of the crop. The hand is the nearest large
    object there. So holes and background hardly change the quantile, and no label is needed.
    """
    edge = len(depth) // 4
    central = depth[edge : len(depth) - edge, edge : len(depth) - edge]
    known = central[central > 0]
    if not known.size:
        return 0.0
    rank = known.size // 5
    center = np.partition(known, rank)[rank]
    out[...] = np.clip((depth - center) * np.float32(1 / DEPTH_RANGE_MM), -1, 1)
    out[~(depth > 0)] = 1
    return float(center)
