"""The training state, the train step and the test step: plain nested dicts of arrays through `jax.jit`."""

import functools

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from jaxhand import models
from jaxhand.config import Config, ConfigError
from jaxhand.data import augment
from jaxhand.metrics import epoch_sums, mesh_sums
from jaxhand.training import losses, mesh_losses, optimizer
from jaxhand.training.sharding import replicated, split


class Tester:
    """A model's compiled test step over a mesh; needs no optimizer.

    `test_step(params, rest, batch)` returns sums over the valid rows of a batch (`loss`, every term of it, `mpjpe`,
    `pa_mpjpe`, `count`, …), and the predictions, split over the devices as the batch is.
    """

    def __init__(self, config: Config, mesh: Mesh):
        self.config, self.mesh = config, mesh
        model = nnx.eval_shape(functools.partial(models.build, config))
        self.loss_terms = model.loss_terms
        self.hand_model = models.hand_model(config)
        self.graphdef, self._model = nnx.split(model)
        self.test_step = jax.jit(self._test_step, out_shardings=(replicated(mesh), split(mesh)))

    def abstract_model(self) -> dict:
        """Shapes, types and shardings of `params` and `rest`, as a target to restore into."""
        return self._abstract(lambda: self._split(models.build(self.config)))

    def _abstract(self, build) -> dict:
        everywhere = replicated(self.mesh)
        shapes = jax.eval_shape(build)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), shapes)

    @staticmethod
    def _split(model: nnx.Module) -> dict:
        _, params, rest = nnx.split(model, nnx.Param, ...)
        return {"params": nnx.to_pure_dict(params), "rest": nnx.to_pure_dict(rest)}

    def _labelled(self, batch: dict) -> dict:
        return batch if self.hand_model is None else mesh_losses.complete(self.hand_model, batch)

    def _test_step(self, params: dict, rest: dict, batch: dict):
        batch = self._labelled(batch)
        predictions = nnx.merge(self.graphdef, params, rest)(batch | {"image": as_float(batch["image"])})
        terms = losses.terms(predictions, batch, self.loss_terms)
        terms["loss"] = losses.total(terms, self.config.loss)
        sums = {name: jnp.where(batch["valid"] > 0, value, 0).sum() for name, value in terms.items()}
        joints, true_joints = predictions["keypoints_3d"], batch["keypoints_3d"]
        metrics = epoch_sums(joints, true_joints, batch["joint_valid"], batch["valid"])
        if "vertices" in predictions:
            labelled = batch["valid"] * batch["has_vertices"] * batch["joint_valid"][:, 0]
            meshes = (values["vertices"] - values["keypoints_3d"][:, :1] for values in (predictions, batch))
            metrics |= mesh_sums(*meshes, labelled)
        sums["rows"] = batch["valid"].sum()
        return sums | metrics, predictions


class Trainer(Tester):
    """A model's compiled train step over a mesh.

    State: `step`, `params`, `rest` (batch statistics), `optimizer`, and `sums` of the losses since the epoch began.
    `train_step(state, batch)` takes the state (its buffers are reused) and returns the next one and the loss, which is
    NaN where the loss is finite but its gradient is not.
    """

    def __init__(self, config: Config, mesh: Mesh, total_steps: int):
        super().__init__(config, mesh)
        if not any(getattr(config.loss, name) for name in self.loss_terms):
            names = ", ".join(self.loss_terms)
            raise ConfigError(f"loss: all of {names} are 0, and model {config.model.name!r} learns from no other")
        self.learning_rate = optimizer.schedule(config.optimizer, config.scheduler, total_steps)
        self.tx = optimizer.build(config.optimizer, self.learning_rate)
        self.init = jax.jit(self._init, out_shardings=replicated(mesh))
        self.train_step = jax.jit(self._train_step, donate_argnums=0, out_shardings=replicated(mesh))

    def abstract_state(self) -> dict:
        """Shapes, types and shardings of the state, as a target to restore into."""
        return self._abstract(self._init)

    def zero_sums(self) -> dict:
        """The sums before an epoch's first step."""
        return {name: jnp.float32(0) for name in ("loss", *self.loss_terms)}

    def _init(self) -> dict:
        model = self._split(models.build(self.config))
        optimizer_state = self.tx.init(model["params"])
        return {"step": jnp.int32(0), **model, "optimizer": optimizer_state, "sums": self.zero_sums()}

    def _train_step(self, state: dict, batch: dict):
        batch = self._labelled(batch)
        key = jax.random.fold_in(jax.random.key(self.config.seed), state["step"])
        image = augment.color(key, as_float(batch["image"]), self.config.data.augment)

        def mean_loss(params):
            model = nnx.merge(self.graphdef, params, state["rest"])
            predictions = model(batch | {"image": image}, key=jax.random.fold_in(key, 1))
            terms = losses.terms(predictions, batch, self.loss_terms, balanced=True)
            means = losses.reduced(terms, self.config.loss)
            return means["loss"], (means, self._split(model)["rest"])

        gradient, (means, rest) = jax.grad(mean_loss, has_aux=True)(state["params"])
        updates, optimizer_state = self.tx.update(gradient, state["optimizer"], state["params"])
        state = {
            "step": state["step"] + 1,
            "params": optax.apply_updates(state["params"], updates),
            "rest": rest,
            "optimizer": optimizer_state,
            "sums": state["sums"] | {name: state["sums"][name] + value for name, value in means.items()},
        }
        return state, jnp.where(jnp.isfinite(optax.global_norm(gradient)), means["loss"], jnp.nan)


def as_float(image: jax.Array) -> jax.Array:
    """(B, h, w, 3) uint8 → float32 in 0..1."""
    return image.astype(jnp.float32) * (1 / 255)
