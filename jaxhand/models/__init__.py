"""Networks: nnx modules that map a batch of crops to predictions. `build` constructs the network of a config.

A model is a class that keeps the contract below. `MODELS` lists the package's models. `model.name=package.module:Class`
selects any other class, without further registration. `voting_net.py` is an example.

**Constructor**: `Model(config, hand_model, rngs)`.
- `config`: the `Config` of the run. `config.data.image_size` is the side S of the crops, px. The model's own settings
  are in `config.model.options`, see below.
- `hand_model`: the `SkinnedHand` of `config.hand`; None for a model without a mesh.
- `rngs`: `nnx.Rngs` that draws all parameters.

**Class attributes**
- `has_mesh`: whether the predictions have `vertices`. If so, training batches have mesh labels.
- `loss_terms`: names of the loss terms that train the model, fields of `LossConfig`. It may also be an attribute of the
  instance.
- `Options` (optional): a frozen dataclass with the model's own settings. `config.model.options` is then an instance of
  this class, and an unknown key or a value of another type is an error. Without `Options`, `config.model.options` is
  the mapping in the config, unchecked.
- `optional_parameters` (optional): first names on the paths of parameters that the run of `training.init_from` may
  lack.

**Call**: `model(batch, key=None)` returns a dict, see `contract.Predictions`. `key` is a JAX random key while training,
and None in tests.
- Keys of `batch`: `image` (B,S,S,3) float32 RGB in 0..1 · `depth` (B,S,S) relative to the hand; [-1,1] is ±
  `DEPTH_RANGE_MM` · `has_depth` (B,), 0 if the depth image is missing: `depth` must then not change the predictions ·
  `depth_center` (B,) mm, distance of the hand along the camera axis · `K` (B,3,3) of the crop. While training and
  testing, the batch also has the labels.
- Keys of the predictions: `keypoints_3d` (B,21,3) mm in the camera frame · `keypoints_2d` (B,21,2) px of the crop ·
  for a model with a mesh, `vertices` (B,V,3) mm in the order of `hand_model` · for a model that poses `hand_model`,
  `mano_pose` (B,48), `mano_shape` (B,10) and `camera` (B,3), see `mano_head.mano_predictions` · all arrays that the
  model's loss terms need.
- All hands are right hands: images of left hands are mirrored before the call. Outside of training, the rows of a batch
  must not affect each other.

**State**: variables of type `nnx.Param` are trained. Variables of other types, such as batch statistics, are not
trained. Both are saved in checkpoints, under the names of the attributes.
"""

import dataclasses
import difflib

from flax import nnx

from jaxhand import hand
from jaxhand.config import Config, ConfigError, HandConfig, build_section
from jaxhand.hand.skinned import SkinnedHand
from jaxhand.io.plugins import load_object
from jaxhand.models.contract import Model

MODELS = {  # model.name → package.module:Class
    "dense": "jaxhand.models.voting_net:VotingNet",
    "fast_mesh": "jaxhand.models.fast_mesh:FastMesh",
    "hamer": "jaxhand.models.hamer:Hamer",
    "mediapipe": "jaxhand.models.mediapipe:Mediapipe",
    "photo_net": "jaxhand.models.photo_net:PhotoNet",
    "rgbd_fusion": "jaxhand.models.rgbd_fusion:RgbdFusion",
    "wilor": "jaxhand.models.wilor:Wilor",
}


def find(name: str) -> type[Model]:
    """Find the class of a model.

    Args:
        name: a key of `MODELS`, or "package.module:Class".

    Raises:
        ConfigError: the name is unknown, or the class has no attribute `has_mesh`.
        UserError: the class cannot be imported.
    """
    if name not in MODELS and ":" not in name:
        nearest = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else "for your own model, use package.module:Class"
        raise ConfigError(f"model.name must be one of {', '.join(MODELS)}, got {name!r}; {hint}")
    model_class = load_object(MODELS.get(name, name), "model.name")
    _require(model_class, "has_mesh", name)
    return model_class


def build(config: Config) -> Model:
    """Construct the network of a config, with initial parameters drawn from `config.seed`.

    Raises:
        ConfigError: `model.name` or an option is unknown, or sizes do not fit each other.
        UserError: the model's class cannot be imported, or the file of the hand cannot be read.
    """
    model_class, settings = find(config.model.name), config.model
    options_class = getattr(model_class, "Options", None)
    if options_class is not None:
        options = build_section(options_class, settings.options, "model.options")
        config = dataclasses.replace(config, model=dataclasses.replace(settings, options=options))
    model = model_class(config, hand_model(config), nnx.Rngs(config.seed))
    _require(model, "loss_terms", settings.name)
    return model


def check(config: Config) -> None:
    """Check that the network of a config can be built. No parameter is drawn.

    Raises:
        ConfigError, UserError: as for `build`.
    """
    nnx.eval_shape(lambda: build(config))


def optional_parameters(config: Config) -> tuple[str, ...]:
    """First names on the paths of the parameters that what the model starts from may lack."""
    return getattr(find(config.model.name), "optional_parameters", ())


def hand_config(config: Config) -> HandConfig | None:
    """The config of the hand whose mesh the model predicts; None for a model without a mesh."""
    return config.hand if find(config.model.name).has_mesh else None


def hand_model(config: Config) -> SkinnedHand | None:
    """Load the hand whose mesh the model predicts; None for a model without a mesh.

    Raises:
        UserError: the file of the hand cannot be read.
    """
    chosen = hand_config(config)
    return None if chosen is None else hand.load(chosen)


def _require(model, attribute: str, name: str) -> None:
    if not hasattr(model, attribute):
        raise ConfigError(
            f"model.name {name}: the class has no attribute {attribute!r}; add it, see jaxhand/models/__init__.py"
        )
