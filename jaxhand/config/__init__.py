"""The config of an experiment: frozen dataclasses, read from a YAML file and from overrides on the command line."""

import os
from pathlib import Path

from jaxhand.config.errors import ConfigError, UserError
from jaxhand.config.loading import build_section, choices, differences, dump, from_dict, load, to_dict
from jaxhand.config.schema import (
    AugmentConfig,
    Config,
    DataConfig,
    FusionConfig,
    HamerConfig,
    HandConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    SchedulerConfig,
    TrainingConfig,
    ViTConfig,
)


def cache_folder() -> Path:
    """The user's cache folder of jaxhand, for rendered synthetic sets and compiled programs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxhand"


__all__ = [
    "AugmentConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "FusionConfig",
    "HamerConfig",
    "HandConfig",
    "LossConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimizerConfig",
    "SchedulerConfig",
    "TrainingConfig",
    "UserError",
    "ViTConfig",
    "build_section",
    "cache_folder",
    "choices",
    "differences",
    "dump",
    "from_dict",
    "load",
    "to_dict",
]
