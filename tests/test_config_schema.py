"""The schema of a config: each key has a comment, a default that stays, and a range."""

import dataclasses
import inspect

import jax.numpy as jnp
import numpy as np
import pytest

from jaxhand import config as configs
from jaxhand.config import Config, loading, schema
from jaxhand.training.optimizer import build, schedule

# The numbers that every config of a user builds on; new keys need not be here
DEFAULTS = {
    "": {"seed": 0},
    "data": {
        "train_samples": 20480,
        "test_samples": 2000,
        "image_size": 64,
        "crop_scale": 1.4,
        "depth_dropout": 0.3,
        "threads": 2,
        "strict": False,
    },
    "data.augment": {"rotation_deg": 0.0, "scale": 0.0, "shift": 0.0, "mirror": 0.0, "color": 0.2, "noise": 0.0},
    "model": {
        "remat": False,
        "width": 128,
        "fine_blocks": 1,
        "blocks": 4,
        "expansion": 1,
        "joint_width": 64,
        "joint_blocks": 1,
        "looks": 2,
    },
    "model.vit": {"width": 384, "depth": 12, "heads": 6, "mlp_ratio": 4.0, "patch": 16, "drop_path": 0.0},
    "model.fusion": {
        "upsampler": 640,
        "scales": 3,
        "graph": [512, 512, 256, 256],
        "depth": True,
        "looks": 1,
        "refine": True,
    },
    "model.hamer": {"width": 1024, "depth": 6, "heads": 8, "head_width": 64, "mlp": 1024, "discriminator": False},
    "model.mesh": {"widths": [256, 128, 64]},
    "loss": {
        "joints_3d": 1.0,
        "joints_2d": 1.0,
        "camera": 1.0,
        "depth": 1.0,
        "distance": 0.3,
        "size": 1.0,
        "guesses": 0.5,
        "vertices": 1.0,
        "w_2d": 0.01,
        "w_3d_joint": 0.05,
        "w_3d_vert": 0.0,
        "w_prior": 0.001,
        "w_aux": 0.001,
        "keypoints_2d": 0.01,
        "keypoints_3d": 0.05,
        "global_orient": 0.001,
        "hand_pose": 0.001,
        "betas": 0.0005,
        "adversarial": 0.0005,
        "discriminator": 0.0005,
    },
    "optimizer": {
        "learning_rate": 0.003,
        "weight_decay": 0.0001,
        "b1": 0.9,
        "b2": 0.99,
        "momentum": 0.95,
        "adam_rate": 0.5,
        "clip_norm": 1.0,
    },
    "scheduler": {"warmup_steps": 100, "eta_min": 0.0},
    "training": {
        "num_epochs": 10,
        "batch_size": 64,
        "epoch_samples": 0,
        "save_freq": 10,
        "test_freq": 1,
        "average_with_init": 0.0,
        "ema": 0.0,
        "accumulate": 1,
    },
    "training.mesh": {"data": -1, "fsdp": -1},
}
RANGES = {
    "at least -inf and finite": "seed",
    "at least 1 and at most 1,073,741,824": "data.train_samples data.test_samples",
    "at least 1 and at most 4,096": "data.image_size",
    "positive and at most 10": "data.crop_scale",
    "between 0 and 1": "data.depth_dropout data.augment.shift data.augment.mirror data.augment.noise",
    "at least 1 and at most 1,024": "data.threads",
    "between 0 and 180": "data.augment.rotation_deg",
    "below 1 and at least 0": (
        "data.augment.scale data.augment.color model.vit.drop_path optimizer.b1 optimizer.b2 "
        "optimizer.momentum training.average_with_init training.ema"
    ),
    "at least 1 and finite": (
        "model.vit.width model.vit.depth model.vit.heads model.vit.patch model.fusion.upsampler "
        "model.fusion.scales model.fusion.looks model.expansion model.joint_width training.save_freq"
    ),
    "at least 2 and finite": "model.width",
    "positive and at most 1,000": "optimizer.learning_rate",
    "between 0 and 10": "scheduler.eta_min",
    "at least 1 and at most 1,000,000": "training.num_epochs",
    "at least 1 and at most 1,048,576": "training.batch_size",
    "between 0 and 1,099,511,627,776": "training.epoch_samples",
    "at least 1 and at most 65,536": "training.accumulate",
    "at least -1 and finite": "training.mesh.data training.mesh.fsdp",
}


def test_defaults_stay():
    """A config states only what differs: with another default, it would mean another experiment."""
    for section, defaults in DEFAULTS.items():
        for key, default in defaults.items():
            tree = configs.to_dict(Config())
            for name in (*section.split("."), key) if section else (key,):
                tree = tree[name]
            assert tree == default, f"{section}.{key}"


def test_ranges_stay():
    ranges = loading._metadata("range", Config)
    for text, keys in RANGES.items():
        for key in keys.split():
            assert str(ranges[key]) == text, key


def sections():
    """The dataclasses of the schema."""
    return [cls for cls in vars(schema).values() if isinstance(cls, type) and dataclasses.is_dataclass(cls)]


@pytest.mark.parametrize("section", sections(), ids=lambda cls: cls.__name__)
def test_every_key_has_a_comment(section):
    """The schema is the reference of all keys: a key has a comment behind it or above it, or is itself a section."""
    lines = inspect.getsource(section).splitlines()
    for field in dataclasses.fields(section):
        [number] = [number for number, line in enumerate(lines) if line.startswith(f"    {field.name}: ")]
        commented = "  # " in lines[number] or lines[number - 1].startswith("    # ")
        assert commented or dataclasses.is_dataclass(field.type), field.name
    assert not section.__doc__.startswith(f"{section.__name__}(")  # the signature, which a bare dataclass has


def test_each_choice_of_optimizer_and_schedule_is_another_one():
    params, rate = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}, lambda step: 0.1
    updates = []
    for name in configs.choices()["optimizer.name"]:
        optimizer = build(configs.OptimizerConfig(name=name), rate)
        gradients = {"kernel": jnp.arange(12.0).reshape(4, 3), "bias": jnp.arange(3.0)}
        updates.append(optimizer.update(gradients, optimizer.init(params), params)[0]["kernel"])
    courses = [
        schedule(configs.OptimizerConfig(), configs.SchedulerConfig(name=name, warmup_steps=2), 10)(8)
        for name in configs.choices()["scheduler.name"]
    ]
    assert not np.allclose(*updates) and not np.allclose(*courses)
