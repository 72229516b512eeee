"""A model from outside the package: one file and one config line; and the error messages for its author."""

import json

import jax
import numpy as np
import pytest
import yaml
from flax import nnx

from jaxhand import config as configs
from jaxhand import evaluate, models
from jaxhand.config import ConfigError, UserError
from jaxhand.data.crop_rules import RULES
from jaxhand.data.synthetic import scene
from jaxhand.hand import mano
from jaxhand.models import vit
from jaxhand.training.checkpoint import restore_best

TOY = '''
"""Mean colours of a coarse grid → joints in front of the camera."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx


class Toy(nnx.Module):
    @dataclasses.dataclass(frozen=True)
    class Options:
        grid: int = 4
        spread_mm: float = 20.0

    has_mesh = False
    loss_terms = ("joints_3d", "joints_2d")

    def __init__(self, config, hand_model, rngs):
        assert hand_model is None
        self.options = config.model.options
        self.linear = nnx.Linear(3 * self.options.grid**2, 63, rngs=rngs)

    def __call__(self, batch, key=None):
        B, grid, K = len(batch["image"]), self.options.grid, batch["K"]
        colors = jax.image.resize(batch["image"], (B, grid, grid, 3), "linear").reshape(B, -1)
        joints = self.options.spread_mm * self.linear(colors).reshape(B, 21, 3)
        joints = joints + jnp.float32([0, 0, 450])
        projected = joints @ K.swapaxes(1, 2)
        return {"keypoints_3d": joints, "keypoints_2d": projected[..., :2] / projected[..., 2:]}


class ToyMesh(Toy):
    has_mesh = True
    loss_terms = (*Toy.loss_terms, "vertices")

    def __init__(self, config, hand_model, rngs):
        super().__init__(config, None, rngs)
        self.offsets = nnx.Param(jnp.zeros((hand_model.num_vertices, 3)))

    def __call__(self, batch, key=None):
        predictions = super().__call__(batch)
        return predictions | {"vertices": predictions["keypoints_3d"][:, :1] + self.offsets[...]}


class Free(nnx.Module):
    has_mesh = False
    loss_terms = ("joints_3d",)

    def __init__(self, config, hand_model, rngs):
        self.linear = nnx.Linear(config.model.options["width"], 1, rngs=rngs)


class Silent(nnx.Module):
    loss_terms = ("joints_3d",)


class Aimless(nnx.Module):
    has_mesh = False

    def __init__(self, config, hand_model, rngs):
        self.linear = nnx.Linear(1, 1, rngs=rngs)


class Strict(Aimless):
    @dataclasses.dataclass(frozen=True)
    class Options:
        width: int
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, outside the package, with a model's file."""
    (tmp_path / "door_toy.py").write_text(TOY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def built(*overrides):
    return nnx.eval_shape(lambda: models.build(configs.load(None, overrides)))


def test_it_trains_is_evaluated_and_restored(folder, tiny_yaml, command, call):
    tree = yaml.safe_load(tiny_yaml.read_text())
    tree["model"] = {"name": "door_toy:Toy", "options": {"grid": 2}}
    tree["training"]["num_epochs"] = 1
    (folder / "toy.yaml").write_text(yaml.safe_dump(tree))

    code, output, errors = command("train", "--config", "toy.yaml", "--workdir", "run")
    assert code == 0, errors
    trained = json.loads((folder / "run" / "metrics.jsonl").read_text())
    assert f"Best model: Epoch 0, Avg Metric = {trained['avg_metric']:.3f} mm" in output
    assert trained["mpjpe"] < 400

    code, output, errors = call(evaluate.main, "run")
    assert code == 0, errors
    with_depth = json.loads((folder / "run" / "evaluation.json").read_text())["results"][0]
    assert with_depth["mpjpe"] == pytest.approx(trained["mpjpe"], abs=1e-3) and with_depth["count"] == 22

    best = restore_best("run")
    assert best.config.model.name == "door_toy:Toy" and best.config.model.options == {"grid": 2}
    graphdef, state = nnx.split(models.build(best.config))
    assert jax.tree.map(np.shape, best.params) == jax.tree.map(np.shape, nnx.to_pure_dict(state))
    assert best.params["linear"]["kernel"].shape == (3 * 2 * 2, 63)
    joints = nnx.merge(graphdef, best.params)({"image": np.zeros((2, 64, 64, 3)), "K": np.eye(3)[None].repeat(2, 0)})
    assert np.isfinite(joints["keypoints_3d"]).all()


def test_a_mesh_takes_the_hand_of_the_config(folder):
    config = configs.load(None, ["model.name=door_toy:ToyMesh"])
    assert models.hand_config(config) == config.hand
    assert built("model.name=door_toy:ToyMesh").offsets.shape == (models.hand_model(config).num_vertices, 3)
    assert models.hand_config(configs.load(None, ["model.name=door_toy:Toy"])) is None


def test_options(folder):
    toy = built("model.name=door_toy:Toy", "model.options.spread_mm=7")
    assert (toy.options.grid, toy.options.spread_mm) == (4, 7.0)
    assert built("model.name=door_toy:Free", "model.options={width: 5}").linear.kernel.shape == (5, 1)
    config = configs.load(None, ["model.options={a: {b: [1, 2]}}"])
    assert configs.from_dict(yaml.safe_load(configs.dump(config))) == config
    other = configs.load(None, ["model.options.a=1"])
    assert configs.differences(config, other) == ["model.options: {'a': {'b': [1, 2]}} -> {'a': 1}"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.name=hammer"], "model.name must be one of dense, .*, got 'hammer'; did you mean 'hamer'"),
        (["model.name=zzz"], "got 'zzz'; for your own model, use package.module:Class"),
        (["model.name=:Toy"], "model.name must be module:name, such as .*, got ':Toy'"),
        (
            ["model.name=door_toi:Toy"],
            "model.name door_toi:Toy: cannot import door_toi .ModuleNotFoundError: No module named 'door_toi'",
        ),
        (["model.name=door_toy:Tow"], "model.name door_toy:Tow: door_toy has no Tow"),
        (["model.name=door_toy:Silent"], "model.name door_toy:Silent: the class has no attribute 'has_mesh'"),
        (["model.name=door_toy:Aimless"], "model.name door_toy:Aimless: the class has no attribute 'loss_terms'"),
        (
            ["model.name=door_toy:Toy", "model.options.gird=2"],
            "'model.options.gird'. Did you mean 'model.options.grid'",
        ),
        (["model.name=door_toy:Toy", "model.options.grid=x"], "model.options.grid must be int, got 'x'"),
        (["model.name=door_toy:Strict"], "model.options: .*missing 1 required .*'width'"),
        (["model.name=door_toy:Toy", "model.options=3"], "model.options must be a mapping such as {width: 64}, got 3"),
    ],
)
def test_mistakes(folder, overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        built(*overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", models.MODELS)
def test_the_models_of_the_package_keep_the_contract(name):
    model_class = models.find(name)
    assert model_class.has_mesh is (name not in ("dense", "mediapipe", "photo_net")) and model_class.__call__.__doc__


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("model.vit.size", ["", *vit.SIZES]),
        ("data.crop_rule", RULES),
        ("data.view", scene.VIEWS),
        ("hand.tips", mano.FINGERTIP_VERTICES),
    ],
)
def test_choices_of_the_schema_are_those_of_the_code(key, known):
    assert sorted(configs.choices()[key]) == sorted(known)
    with pytest.raises(ConfigError, match=f"{key} must be one of .*, got 'other'"):
        configs.load(None, [f"{key}=other"])
