"""Networks: nnx modules that map a batch to predictions; `build` makes one from its config by name."""

from flax import nnx

from jaxhand.config import Config, ConfigError
from jaxhand.models.dense import Dense

MODELS = {"dense": Dense}


def build(config: Config) -> nnx.Module:
    """The network that `config.model` names, with parameters drawn from `config.seed`.

    Raises:
        ConfigError: the name is unknown, or the sizes do not fit each other.
    """
    if config.model.name not in MODELS:
        raise ConfigError(f"model.name must be one of {', '.join(MODELS)}, got {config.model.name!r}")
    return MODELS[config.model.name](config.model, config.data.image_size, nnx.Rngs(config.seed))
