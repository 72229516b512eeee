"""Runs of every model with drawn parameters, for the tests of exporting."""

import contextlib

import jax
import numpy as np
from flax import nnx

from jaxhand import config as configs
from jaxhand import models
from jaxhand.hand.camera import project
from jaxhand.models.mediapipe import CROP
from jaxhand.training import run_dir
from jaxhand.training.checkpoint import Checkpoints

VOTING = ("model.width=32", "model.fine_blocks=1", "model.blocks=1", "model.joint_width=32", "model.joint_blocks=1")
TRANSFORMER = ("model.vit.width=32", "model.vit.depth=2", "model.vit.heads=2", "model.vit.patch=8", "model.remat=true")
DECODER = ("model.hamer.width=24", "model.hamer.depth=2", "model.hamer.heads=2", "model.hamer.head_width=8")
MODELS = {  # name → config keys of a tiny network
    "dense": (*VOTING, "model.looks=1"),
    "fast_mesh": (*VOTING, "model.looks=1", "model.mesh.widths=[16]"),
    "rgbd_fusion": (*TRANSFORMER, "model.fusion.upsampler=8", "model.fusion.scales=2", "model.fusion.graph=[8,8]"),
    "hamer": (*TRANSFORMER, *DECODER, "model.hamer.mlp=32", "data.crop_rule=hamer"),
    "wilor": (*TRANSFORMER, "data.crop_rule=hamer"),
    "mediapipe": ("model.options.size=lite", "model.options.adapt=true", "data.image_size=224"),
    "photo_net": ("model.options.size=lite", "model.options.looks=1", "data.image_size=224"),
}


def drawn_run(workdir, name: str, *overrides: str):
    """A run folder whose only checkpoint has drawn parameters; layers that start near 0 are moved away from it."""
    size = () if name in ("mediapipe", "photo_net") else ("data.image_size=64",)
    config = configs.load(None, [f"model.name={name}", *size, *MODELS[name], *overrides])
    _, params, rest = nnx.split(models.build(config), nnx.Param, ...)
    rng = np.random.default_rng(0)
    params, rest = nnx.to_pure_dict(params), nnx.to_pure_dict(rest)
    params = jax.tree.map(lambda leaf: leaf + rng.normal(0, 0.02, leaf.shape).astype(np.float32), params)
    if name in ("mediapipe", "photo_net"):
        _show_a_hand(params)
    run_dir.prepare(workdir, config)
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        meta = {"epoch": 0, "config": configs.to_dict(config)}
        checkpoints.save(1, params=params, rest=rest, optimizer={}, data={}, meta=meta, avg_metric=10.0)
    return workdir


def _show_a_hand(params: dict) -> None:
    """Make MediaPipe's network predict about the same hand for every image: noise has no place before a camera."""
    place, size = np.float32([20, -30, 400]), CROP
    joints = np.random.default_rng(0).uniform(-80, 80, (21, 3)).astype(np.float32)  # mm
    K = np.float32([[1.2 * size, 0, size / 2], [0, 1.2 * size, size / 2], [0, 0, 1]])
    pixels = np.concatenate([project(joints + place, K), joints[:, 2:]], axis=1)
    for name, values in (("landmarks", pixels), ("world", joints / 1000)):
        params[name] = {"kernel": params[name]["kernel"] * 1e-4, "bias": values.reshape(-1)}
