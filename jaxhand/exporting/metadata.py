"""What a user of an exported network has to know: how its crop is cut, units, joints, and where it comes from."""

import dataclasses
import hashlib
from pathlib import Path

import jax
import numpy as np

import jaxhand
from jaxhand import models
from jaxhand.config import Config
from jaxhand.data.crop_rules import RULES
from jaxhand.hand.camera import DEPTH_RANGE_MM
from jaxhand.hand.skeleton import JOINT_NAMES
from jaxhand.inference.mediapipe_pipeline import has_networks
from jaxhand.interop.mediapipe_weights import HAND
from jaxhand.models.palm_detector import MOST_OVERLAP, SIDE
from jaxhand.models.preprocess import IMAGE_MEAN, IMAGE_STD
from jaxhand.training import checkpoint_files
from jaxhand.training.checkpoint_files import Restored

VERSION = 1  # of this form of metadata
INPUTS = {
    "image": "RGB, 0 to 255",
    "depth": "depth minus depth_center, divided by depth_range_mm, cut to -1..1; 1 where unknown; 0 without depth",
    "has_depth": "1 with a depth image, else 0",
    "depth_center": "mm, distance of the hand along the camera's axis; 0 without depth",
    "K": "camera matrix of the crop, px",
}
OUTPUTS = {  # name → (unit, description)
    "keypoints_3d": ("mm", "joints in the camera frame of the crop: x right, y down, z forward"),
    "keypoints_2d": ("px", "joints in the crop; an integer is the centre of a pixel"),
    "vertices": ("mm", "vertices of the mesh in the camera frame of the crop"),
    "mano_pose": ("rad", "axis-angle of the whole hand and of MANO's 15 joints"),
    "mano_shape": ("", "MANO's shape parameters"),
    "camera_translation": ("mm", "position of the hand model's origin in the camera frame of the crop"),
    "world": ("mm", "joints around the middle of the hand, axes of the crop: x right, y down, z forward"),
    "presence": ("", "probability that there is a hand"),
    "right": ("", "probability that it is a right hand"),
    "points": (
        "px",
        "of a palm: two corners of its box, wrist, bases of index, middle, ring, little finger, 2 of the thumb",
    ),
    "scores": ("", "probability that there is a palm"),
}
LICENCES = {  # kind of converted weights → their licence
    "mediapipe": "Apache-2.0, The MediaPipe Authors (Google LLC)",
    "efficientnet_lite0": "Apache-2.0, the authors of EfficientNet-Lite0 and of its PyTorch port",
    "vitpose": "Apache-2.0, the authors of ViTPose",
    "hamer": "that of HaMeR's checkpoint; ask its authors before commercial use",
    "wilor": "that of WiLoR's checkpoint (CC BY-NC-ND); no commercial use",
}
MANO = "the mesh is MANO's, under its licence: https://mano.is.tue.mpg.de/license.html"


def of_hand(best: Restored, workdir, config: Config, inputs: dict, outputs: dict, *, half: bool) -> dict:
    """The metadata of the network for hands.

    Args:
        best: the restored step of the run.
        workdir: run folder.
        config: of the exported network.
        inputs: name → (shape without the batch axis, dtype).
        outputs: name → shape without the batch axis.
        half: whether the parameters are in half precision.
    """
    name = HAND if has_networks(workdir) else config.data.crop_rule
    rule = RULES[name]
    crop = {
        "rule": name,
        "image_size": config.data.image_size,
        "crop_scale": config.data.crop_scale,
        **dataclasses.asdict(rule),
    }
    about = _common(best, config.model.name, inputs, outputs, half=half) | {"dtype": config.model.dtype, "crop": crop}
    about |= {
        "joints": list(JOINT_NAMES),
        "hands": "right hands; mirror a left hand's image before, and x of its predictions after"
        if rule.mirror_left
        else "right and left hands, not mirrored",
        "licence": _licence(Path(workdir), best.meta, config),
    }
    if "depth" in inputs:
        about["depth_range_mm"] = DEPTH_RANGE_MM
    hand_model = models.hand_model(config) if "vertices" in outputs else None
    if hand_model is not None:
        about["faces"] = hand_model.faces.tolist()
    return about


def of_palm_detector(best: Restored, workdir, inputs: dict, outputs: dict, *, half: bool) -> dict:
    """The metadata of the palm detector; arguments as of `of_hand`."""
    about = _common(best, "palm_detector", inputs, outputs, half=half)
    crop = {"rule": "square", "image_size": SIDE, "what": "the whole image in the middle of a black square"}
    licence = _licence(Path(workdir), best.meta, best.config)
    return about | {"dtype": "float32", "crop": crop, "most_overlap": MOST_OVERLAP, "licence": licence}


def _common(best: Restored, model: str, inputs: dict, outputs: dict, *, half: bool) -> dict:
    return {
        "metadata_version": VERSION,
        "jaxhand": jaxhand.__version__,
        "model": model,
        "weights": "float16" if half else "float32",
        "run": {
            "step": best.step,
            "epoch": best.meta.get("epoch"),
            "avg_metric_mm": best.meta.get("avg_metric"),
            "sha256": weights_hash(best),
        },
        "normalisation": {  # inside the network
            "scale": 1 / 255,
            "imagenet_mean": list(IMAGE_MEAN) if model in ("hamer", "wilor", "rgbd_fusion") else None,
            "imagenet_std": list(IMAGE_STD) if model in ("hamer", "wilor", "rgbd_fusion") else None,
        },
        "inputs": {
            name: {"shape": ["B", *shape], "dtype": np.dtype(dtype).name, "about": INPUTS[name]}
            for name, (shape, dtype) in inputs.items()
        },
        "outputs": {
            name: {"shape": ["B", *shape], "unit": OUTPUTS[name][0], "about": OUTPUTS[name][1]}
            for name, shape in outputs.items()
        },
    }


def weights_hash(best: Restored) -> str:
    """SHA-256 of a step's weights: of the name, type, shape and bytes of each array."""
    digest = hashlib.sha256()
    for tree in (best.params, best.rest):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            array = np.asarray(leaf)
            digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _licence(workdir: Path, meta: dict, config: Config) -> str:
    """The licence of a run's weights, as far as the run tells it."""
    parts, start = [], config.training.init_from
    kind = meta.get("converted", {}).get("kind")
    if kind:
        parts.append(LICENCES.get(kind, f"that of {kind}'s weights"))
    else:
        train = config.data.train if isinstance(config.data.train, str) else ", ".join(config.data.train)
        parts.append(f"that of the run's owner, and the terms of its training data ({train})")
        metas = checkpoint_files.metas(Path(start) / "checkpoints") if start else {}
        kinds = {found["converted"]["kind"] for found in metas.values() if "converted" in found}
        parts += [f"it started from weights under {LICENCES.get(kind, kind)}" for kind in sorted(kinds)]
        if start and not kinds:
            parts.append(f"it started from the weights in {start}")
    if config.hand.mano_path and models.find(config.model.name).has_mesh:
        parts.append(MANO)
    return "; ".join(parts)
