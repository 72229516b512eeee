"""Networks: nnx modules that map a batch to predictions; `build` makes one from its config by name."""

import importlib

from flax import nnx

from jaxhand import hand
from jaxhand.config import Config, ConfigError

MODELS = {"dense": "Dense", "fast_mesh": "FastMesh", "hamer": "Hamer", "mediapipe": "Mediapipe",
          "rgbd_fusion": "RgbdFusion", "wilor": "Wilor"}


def build(config: Config) -> nnx.Module:
    """The network that `config.model` names, with parameters drawn from `config.seed`.

    A model is called with a batch and, to train, with a key for what is random in it. Its `loss_terms` name the terms
    of the loss that it learns from. All but `dense` have a mesh: that of `config.hand`.

    Raises:
        ConfigError: the name is unknown, or the sizes do not fit each other.
        UserError: the hand's file cannot be read.
    """
    name = config.model.name
    if name not in MODELS:
        raise ConfigError(f"model.name must be one of {', '.join(MODELS)}, got {name!r}")
    model = getattr(importlib.import_module(f"jaxhand.models.{name}"), MODELS[name])
    return model(config, hand.load(config.hand) if config.has_mesh else None, nnx.Rngs(config.seed))
