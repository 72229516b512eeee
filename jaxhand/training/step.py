"""The training state, the train step and the eval step: plain nested dicts of arrays through `jax.jit`."""

import concurrent.futures
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from jaxhand import models
from jaxhand.config import Config, ConfigError
from jaxhand.data import augment, mesh_labels, mocap
from jaxhand.data.batch import layout
from jaxhand.metrics import epoch, epoch_metrics
from jaxhand.training import losses, optimizer, sharding
from jaxhand.training.sharding import HOST_ONLY, replicated, split

# The programs that draw parameters run once: XLA's first optimization level compiles them in two thirds of the time.
_RUNS_ONCE = {"xla_backend_optimization_level": 1}


class EvalModel:
    """A model's compiled eval step over a device mesh; needs no optimizer.

    `eval_step(params, batch_stats, batch)` returns sums over the valid rows of a batch, and the predictions, which are
    split over the devices as the batch is. The sums: `rows`, how many there are; `losses`, `loss` and its terms by
    name; `metrics`, what `epoch.batch_sums` returns for `metrics`.

    Args:
        config: the experiment.
        device_mesh: the devices.

    Raises:
        UserError: the model cannot be built.
    """

    def __init__(self, config: Config, device_mesh: Mesh):
        self.config, self.device_mesh = config, device_mesh
        model = nnx.eval_shape(functools.partial(models.build, config))
        self._model_terms = model.loss_terms
        self.hand_model = models.hand_model(config)
        self.graphdef, _ = nnx.split(model)
        self.eval_step = jax.jit(self._eval_step, out_shardings=(replicated(device_mesh), split(device_mesh)))

    # These three are computed when first needed: predicting must not import metrics or loss terms of the user.

    @functools.cached_property
    def metrics(self) -> tuple[epoch.EpochMetric, ...]:
        """The metrics of an epoch. Raises UserError if the config names an unknown metric."""
        return epoch_metrics.chosen(self.config.training.metrics)

    @functools.cached_property
    def loss_terms(self) -> tuple[str, ...]:
        """Names of the loss terms in training. Raises UserError if one is unknown or has no weight."""
        return losses.names_of(self._model_terms, self.config.loss)

    @functools.cached_property
    def eval_terms(self) -> tuple[str, ...]:
        """Names of the loss terms that are also computed in evaluation."""
        return tuple(name for name in self.loss_terms if not losses.resolved(name).train_only)

    def draw(self) -> dict:
        """Parameters drawn from `config.seed`, on the devices."""
        build = lambda: self._split(models.build(self.config))["params"]  # noqa: E731
        placed = sharding.shardings(self._abstract(build))
        return jax.jit(build, out_shardings=placed, compiler_options=_RUNS_ONCE)()

    def abstract_model(self) -> dict:
        """Shapes, types and shardings of `params` and `batch_stats`, as a target to restore into."""
        return self._abstract(lambda: self._split(models.build(self.config)))

    def abstract_batch(self) -> dict:
        """Shapes, types and shardings of a batch on the devices."""
        shapes = layout(self.config.data.image_size, self.hand_model) | {"valid": ((), np.float32)}
        return self._abstract_rows({key: shape for key, shape in shapes.items() if key not in HOST_ONLY})

    def _abstract_rows(self, shapes: dict) -> dict:
        """Name → abstract array of a batch, from name → (shape for one hand, dtype)."""
        rows, over_devices = self.config.training.batch_size, split(self.device_mesh)
        return {
            key: jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=over_devices)
            for key, (shape, dtype) in shapes.items()
        }

    def _abstract(self, build) -> dict:
        return sharding.abstract_state(self.device_mesh, jax.jit(build).eval_shape())

    @staticmethod
    def _split(model: nnx.Module) -> dict:
        _, params, batch_stats = nnx.split(model, nnx.Param, ...)
        return {"params": nnx.to_pure_dict(params), "batch_stats": nnx.to_pure_dict(batch_stats)}

    def _with_mesh_labels(self, batch: dict) -> dict:
        return batch if self.hand_model is None else mesh_labels.completed(self.hand_model, batch)

    def _eval_step(self, params: dict, batch_stats: dict, batch: dict):
        batch = self._with_mesh_labels(batch)
        params = sharding.gathered(self.device_mesh, params)
        predictions = nnx.merge(self.graphdef, params, batch_stats)(batch | {"image": as_float(batch["image"])})
        terms = losses.terms(predictions, batch, self.eval_terms)
        terms["loss"] = losses.total(terms, self.config.loss)
        sums = {
            "rows": batch["valid"].sum(),
            "losses": {name: jnp.where(batch["valid"] > 0, value, 0).sum() for name, value in terms.items()},
            "metrics": epoch.batch_sums(self.metrics, predictions, batch),
        }
        return sums, predictions


class Trainer(EvalModel):
    """A model's compiled train step over a device mesh.

    State: `step`, `params`, `batch_stats` (all that is not trained), `optimizer`, and `sums` of the losses since the
    epoch began. `train_step(state, batch)` takes the state (its buffers are reused) and returns the next one and the
    loss, which is NaN where the loss is finite but its gradient is not. `abstract_state` has the shapes, types and
    shardings of the state, as a target to restore into.

    `params` are what is tested and what a run predicts with. With `training.average_with_init` or `training.ema` they
    are averages, and the parameters that the gradient moves are in `optimizer`, under "trained":

    - `average_with_init`: the weighted mean of the trained parameters and of those of the start, which are in
      `optimizer` as well (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").
    - `ema`: the exponential moving average of the trained parameters (Polyak and Juditsky 1992).

    With `training.accumulate` a batch is used in parts, one after the other, and their gradients are added. The result
    is that of the whole batch, except for networks with batch norm or drop-path: batch norm uses the mean and variance
    of a part, and drop-path draws other random numbers.

    Args:
        config: the experiment.
        device_mesh: the devices.
        total_steps: length of the learning-rate schedule.

    Raises:
        UserError: the model cannot be built, a loss term is unknown, or all weights of the loss are 0.
    """

    def __init__(self, config: Config, device_mesh: Mesh, total_steps: int):
        super().__init__(config, device_mesh)
        if not any(losses.weight(name, config.loss) for name in self.loss_terms):
            names = ", ".join(self.loss_terms)
            raise ConfigError(f"loss: all of {names} are 0, and model {config.model.name!r} learns from no other")
        self.learning_rate = optimizer.schedule(config.optimizer, config.scheduler, total_steps)
        self.factors = self._factors()
        self.tx = optimizer.build(config.optimizer, self.learning_rate, self.factors)
        draw = self._init  # one object, so that JAX traces it once for both: the shapes, and the program
        self.abstract_state = self._abstract(draw)
        placed = sharding.shardings(self.abstract_state)
        self.init = jax.jit(draw, out_shardings=placed, compiler_options=_RUNS_ONCE)
        self.train_step = jax.jit(self._train_step, donate_argnums=0, out_shardings=(placed, replicated(device_mesh)))

    def prepare(self) -> concurrent.futures.Future:
        """Trace both steps, and start to compile the train step in another thread.

        A loss term or a metric that cannot be computed is an error here, before the first step. JAX keeps the traces
        and the compiled program: the first calls of the steps neither trace nor compile again.

        Returns:
            A future that is done when the train step is compiled. Wait for it before the first step.

        Raises:
            UserError: a term or a metric lacks an input; the error names it.
        """
        state, batch = self.abstract_state, self.abstract_batch()
        mocap_arrays = self._abstract_rows(mocap.SHAPES) if self.config.data.mocap else {}
        lowered = self.train_step.lower(state, batch | mocap_arrays)
        thread = concurrent.futures.ThreadPoolExecutor(1, "compile")
        compiled = thread.submit(lowered.compile)
        thread.shutdown(wait=False)
        self.eval_step.trace(state["params"], state["batch_stats"], batch)
        return compiled

    def start_from(self, state: dict, params: dict, batch_stats: dict) -> dict:
        """The state of `init` with other parameters and batch statistics, on the devices where `init` has them."""
        training = self.config.training
        state = state | {"params": params, "batch_stats": batch_stats}
        names = ("start", "trained") if training.average_with_init else ("trained",) if training.ema else ()
        if names:  # copies, because the train step reuses the buffers of its state
            state["optimizer"] |= {name: jax.tree.map(jnp.copy, params) for name in names}
        return state

    def with_sums(self, state: dict, sums: dict[str, float] | None = None) -> dict:
        """The state with these sums of the losses on the devices; by default 0, as before an epoch's first step."""
        start = {name: np.float32((sums or {}).get(name, 0)) for name in ("loss", *self.loss_terms)}
        return state | {"sums": jax.device_put(start, replicated(self.device_mesh))}

    @staticmethod
    def host_sums(state: dict) -> dict[str, float]:
        """The sums of the losses since the epoch began, as numbers; waits for the step that is being computed."""
        return {name: float(value) for name, value in state["sums"].items()}

    def _factors(self) -> dict | None:
        """The factor on every parameter's learning rate; None where all are 1."""
        rates = self.config.optimizer.rates
        return optimizer.rate_factors(rates, self.abstract_model()["params"]) if rates else None

    def _init(self) -> dict:
        model = self._split(models.build(self.config))
        sums = {name: jnp.float32(0) for name in ("loss", *self.loss_terms)}
        state = {"step": jnp.int32(0), **model, "optimizer": self.tx.init(model["params"]), "sums": sums}
        if self._averages:
            state["optimizer"] = {"tx": state["optimizer"]}
        return self.start_from(state, **model)

    def placed(self, state: dict) -> dict:
        """The state on the devices where `init` has it."""
        return jax.device_put(state, sharding.shardings(self.abstract_state))

    @property
    def _averages(self) -> bool:
        """Whether `params` of the state are an average, and not the parameters that the gradient moves."""
        return bool(self.config.training.average_with_init or self.config.training.ema)

    def _train_step(self, state: dict, batch: dict):
        batch = self._with_mesh_labels(batch)
        key = jax.random.fold_in(jax.random.key(self.config.seed), state["step"])
        image = augment.color(key, as_float(batch["image"]), self.config.data.augment)

        moved = state["optimizer"] if self._averages else {"tx": state["optimizer"], "trained": state["params"]}
        batch = batch | {"image": image, "label_scales": losses.label_scales(batch)}
        gradient, means, batch_stats = self._gradient(moved["trained"], state["batch_stats"], batch, key)
        updates, tx_state = self.tx.update(gradient, moved["tx"], moved["trained"])
        trained = optax.apply_updates(moved["trained"], updates)
        moved = moved | {"tx": tx_state, "trained": trained}
        state = {
            "step": state["step"] + 1,
            "params": self._averaged(state, moved),
            "batch_stats": batch_stats,
            "optimizer": moved if self._averages else tx_state,
            "sums": {name: state["sums"][name] + value for name, value in means.items()},
        }
        return state, jnp.where(jnp.isfinite(optax.global_norm(gradient)), means["loss"], jnp.nan)

    def _averaged(self, state: dict, moved: dict) -> dict:
        """The parameters that are tested, of the next state."""
        training = self.config.training
        if training.average_with_init:
            weight, others = training.average_with_init, moved["start"]
        elif training.ema:  # the decay grows with the step, so that the average soon forgets the initial parameters
            weight, others = jnp.minimum(training.ema, (1 + state["step"]) / (10 + state["step"])), state["params"]
        else:
            return moved["trained"]
        return jax.tree.map(lambda new, other: new + weight * (other - new), moved["trained"], others)

    def _gradient(self, params: dict, batch_stats: dict, batch: dict, key: jax.Array) -> tuple[dict, dict, dict]:
        """Gradient of the loss of a batch, the loss and its terms, and the new batch statistics."""
        parts = self.config.training.accumulate
        whole = sharding.gathered(self.device_mesh, params)  # once for all parts

        def of_part(part: dict, key: jax.Array):
            def mean_loss(params):
                params = optimizer.without_frozen(params, self.factors)
                model = nnx.merge(self.graphdef, params, batch_stats)
                predictions = model(part, key=key)
                terms = losses.terms(predictions, part, self.loss_terms, scales=batch["label_scales"])
                means = losses.reduced(terms, self.config.loss, parts)
                return means["loss"], (means, self._split(model)["batch_stats"])

            gradient, (means, new_stats) = jax.grad(mean_loss, has_aux=True)(whole)
            return sharding.split_again(self.device_mesh, gradient), means, new_stats

        rows = {name: value for name, value in batch.items() if name != "label_scales"}
        key = jax.random.fold_in(key, 1)
        if parts == 1:
            return of_part(rows, key)

        def add(sums: tuple, part: tuple):
            gradient, means, new_stats = of_part(*part)
            change = jax.tree.map(lambda new, old: (new - old) / parts, new_stats, batch_stats)
            return jax.tree.map(jnp.add, sums, (gradient, means, change)), None

        # Part p has the rows p, p + parts, p + 2 parts, ...: no row has to move to another device.
        apart = lambda value: value.reshape(-1, parts, *value.shape[1:]).swapaxes(0, 1)  # (parts, B / parts, ...)  # noqa: E731
        rows = jax.lax.with_sharding_constraint(jax.tree.map(apart, rows), sharding.split_parts(self.device_mesh))
        sums = {name: jnp.float32(0) for name in ("loss", *self.loss_terms)}
        zeros = (jax.tree.map(jnp.zeros_like, params), sums, jax.tree.map(jnp.zeros_like, batch_stats))
        (gradient, means, change), _ = jax.lax.scan(add, zeros, (rows, jax.random.split(key, parts)))
        return gradient, means, jax.tree.map(jnp.add, batch_stats, change)


def as_float(image: jax.Array) -> jax.Array:
    """(B, h, w, 3) uint8 → float32 in 0..1."""
    return image.astype(jnp.float32) * (1 / 255)
