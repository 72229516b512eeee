"""Networks: nnx modules that map a batch of crops to predictions. `build` constructs the one that `model.name` names.

A model is a class that keeps the contract below. `MODELS` lists the package's models. `model.name=package.module:Class`
selects any other class; nothing else is needed. `voting_net.py` is an example.

**Constructor**: `Model(config, hand_model, rngs)`.
- `config`: the `Config` of the run. `config.data.image_size` is the side S of the crops. The model's own settings are
  in `config.model.options`, see below.
- `hand_model`: the `SkinnedHand` of `config.hand` for a model with a mesh, else None.
- `rngs`: `nnx.Rngs` that draws all parameters.

**Class attributes**
- `has_mesh`: whether the predictions have `vertices`. Training batches then have the labels of a mesh.
- `loss_terms`: names of the loss terms that the model learns from, fields of `LossConfig`. An instance may set it
  instead.
- `Options` (optional): a frozen dataclass with the model's own settings. `config.model.options` is then an instance of
  it: an unknown key or a value of another type is an error. Without it, `config.model.options` is the mapping as
  written.
- `optional_parameters` (optional): first names on the paths of parameters that the run of `training.init_from` may
  lack.

**Call**: `model(batch, key=None)` returns a dict, see `contract.Predictions`. `key` is a JAX random key while training,
and None in tests.
- Keys of `batch`: `image` (B,S,S,3) float32 RGB in 0..1 · `depth` (B,S,S) in [-1,1] over ± `DEPTH_RANGE_MM` around the
  hand · `has_depth` (B,), 0 where depth is missing: depth must then not change the predictions · `depth_center` (B,)
  mm, the depth of the hand · `K` (B,3,3) of the crop. While training and testing, the batch also has the labels.
- Keys of the predictions: `keypoints_3d` (B,21,3) mm in the camera frame · `keypoints_2d` (B,21,2) px of the crop ·
  with a mesh `vertices` (B,V,3) mm in the order of `hand_model`; if the model poses that hand also `mano_pose` (B,48),
  `mano_shape` (B,10) and `camera` (B,3), see `mano_head.mano_predictions` · everything that its loss terms need.
- All hands are right hands: left ones are mirrored before. Outside of training, the rows of a batch must not affect
each other.

**State**: variables of type `nnx.Param` are trained; all others, such as batch statistics, are saved with them.
Attribute names are the parameter paths of checkpoints.
"""

import dataclasses
import difflib

from flax import nnx

from jaxhand import hand
from jaxhand.config import Config, ConfigError, HandConfig, build_section
from jaxhand.hand.skinned import SkinnedHand
from jaxhand.io.plugins import load_object
from jaxhand.models.contract import Model

MODELS = {  # model.name → module:Class
    "dense": "jaxhand.models.voting_net:VotingNet",
    "fast_mesh": "jaxhand.models.fast_mesh:FastMesh",
    "hamer": "jaxhand.models.hamer:Hamer",
    "mediapipe": "jaxhand.models.mediapipe:Mediapipe",
    "rgbd_fusion": "jaxhand.models.rgbd_fusion:RgbdFusion",
    "wilor": "jaxhand.models.wilor:Wilor",
}


def find(name: str) -> type[Model]:
    """The class of a model.

    Args:
        name: a key of `MODELS`, or "package.module:Class".

    Raises:
        ConfigError: the name is unknown, or the class does not say whether it has a mesh.
        UserError: the class cannot be imported.
    """
    if name not in MODELS and ":" not in name:
        nearest = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else "a model of your own is package.module:Class"
        raise ConfigError(f"model.name must be one of {', '.join(MODELS)}, got {name!r}; {hint}")
    model_class = load_object(MODELS.get(name, name), "model.name")
    _require(model_class, "has_mesh", name)
    return model_class


def build(config: Config) -> Model:
    """Construct the network that `config.model` names, with parameters drawn from `config.seed`.

    Raises:
        ConfigError: the name or an option is unknown, or the sizes do not fit each other.
        UserError: the model or the file of the hand cannot be read.
    """
    model_class, settings = find(config.model.name), config.model
    options_class = getattr(model_class, "Options", None)
    if options_class is not None:
        options = build_section(options_class, settings.options, "model.options")
        config = dataclasses.replace(config, model=dataclasses.replace(settings, options=options))
    model = model_class(config, hand_model(config), nnx.Rngs(config.seed))
    _require(model, "loss_terms", settings.name)
    return model


def optional_parameters(config: Config) -> tuple[str, ...]:
    """First names on the paths of the parameters that what the model starts from may lack."""
    return getattr(find(config.model.name), "optional_parameters", ())


def hand_config(config: Config) -> HandConfig | None:
    """The hand whose mesh the model predicts; None for a model without a mesh."""
    return config.hand if find(config.model.name).has_mesh else None


def hand_model(config: Config) -> SkinnedHand | None:
    """Load the hand that `hand_config` describes.

    Raises:
        UserError: its file cannot be read.
    """
    chosen = hand_config(config)
    return None if chosen is None else hand.load(chosen)


def _require(model, attribute: str, name: str) -> None:
    if not hasattr(model, attribute):
        raise ConfigError(
            f"model.name {name}: the class needs an attribute {attribute!r}, see jaxhand/models/__init__.py"
        )
