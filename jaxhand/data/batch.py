"""The contract of a batch: names, shapes and units of its arrays."""

import typing
from typing import NotRequired

import numpy as np

from jaxhand.hand.skinned import SkinnedHand


class Batch(typing.TypedDict):
    """Crops of B hands with their labels. Left hands are mirrored to right hands, unless `data.crop_rule` keeps them.

    Joints that are not valid are 0.

    Millimetres are in the OpenCV camera frame of the crop; an integer pixel coordinate is the centre of a pixel.
    """

    image: np.ndarray  # (B, h, w, 3) uint8 RGB
    depth: np.ndarray  # (B, h, w) in [-1, 1] around the hand; 1 where unknown; all 0 without a depth image
    has_depth: np.ndarray  # (B,) 1 with a depth image, else 0
    depth_center: np.ndarray  # (B,) mm, the distance at which `depth` is 0
    keypoints_3d: np.ndarray  # (B, 21, 3) mm
    keypoints_2d: np.ndarray  # (B, 21, 2) px of the crop
    joint_valid: np.ndarray  # (B, 21) 1 for joints that are labelled in 3D
    joint_valid_2d: np.ndarray  # (B, 21) 1 for joints that are labelled in 2D
    K: np.ndarray  # (B, 3, 3) camera matrix of the crop
    K_image: np.ndarray  # (B, 3, 3) float64, camera matrix of the original image; not copied to the device
    is_right: np.ndarray  # (B,) 0 if the hand was mirrored
    rotation: np.ndarray  # (B,) radians, clockwise, from the image to the crop; stays on the host
    valid: np.ndarray  # (B,) 0 for padding rows at the end of the data set
    index: np.ndarray  # (B,) int32, index of the record in its source; not copied to the device
    # Only if the network predicts a mesh: labels of its hand model
    vertices: NotRequired[np.ndarray]  # (B, V, 3) mm
    has_vertices: NotRequired[np.ndarray]  # (B,) 1 if `vertices` are labelled, else 0
    mano_pose: NotRequired[np.ndarray]  # (B, 48) axis-angle
    mano_shape: NotRequired[np.ndarray]  # (B, 10)
    has_pose: NotRequired[np.ndarray]  # (B,) 1 if `mano_pose` and `mano_shape` are labelled, else 0
    # Only with `data.mocap`: real hands without an image, two per row
    mocap_pose: NotRequired[np.ndarray]  # (B, 2, 48) axis-angle
    mocap_shape: NotRequired[np.ndarray]  # (B, 2, 10)


def layout(size: int, hand_model: SkinnedHand | None = None) -> dict[str, tuple[tuple[int, ...], type]]:
    """Return name → (shape for one hand, dtype) of every array that `crop.crop` fills.

    Args:
        size: side of the crop, px.
        hand_model: the hand model whose mesh labels are part of a batch; None: no mesh labels.
    """
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
    if hand_model is not None:
        shapes |= {
            "vertices": (hand_model.num_vertices, 3),
            "has_vertices": (),
            "mano_pose": (48,),
            "mano_shape": (10,),
            "has_pose": (),
        }
    others: dict[str, tuple[tuple[int, ...], type]] = {
        "image": ((size, size, 3), np.uint8),
        "K_image": ((3, 3), np.float64),  # this and the rotation are for `uncrop`
        "rotation": ((), np.float64),
    }
    return others | {key: (shape, np.float32) for key, shape in shapes.items()}
