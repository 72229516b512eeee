"""A network of a run as a function of arrays: what it takes, what it returns, and what a user of a file has to know."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from jaxhand import models
from jaxhand.config import Config, UserError
from jaxhand.exporting import half as half_precision
from jaxhand.exporting import metadata
from jaxhand.inference import mediapipe_pipeline
from jaxhand.inference.predictor import INPUTS, OUTPUTS, predict_crops
from jaxhand.models.depthwise import plain
from jaxhand.models.palm_detector import SIDE
from jaxhand.training.checkpoint import restore_best
from jaxhand.training.eval_loop import load_best
from jaxhand.training.step import as_float

HAND, PALM = "hand", "palm_detector"  # names of the files
READINGS = ("world", "presence", "right")  # further predictions of MediaPipe's network
Inputs = dict[str, tuple[tuple[int, ...], type]]  # name → (shape without the batch axis, dtype)


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of a run, ready to be written to a file.

    Attributes:
        name: "hand" or "palm_detector".
        config: of the run.
        inputs: name → (shape without the batch axis, dtype) of the arguments.
        function: arrays, in the order of `inputs` → dict of arrays. All have the batch as their first axis. Its
            weights are those of the file.
        reference: the same function as the run computes it, with the run's weights.
        metadata: what a user of the file has to know; values for JSON.
        size: bytes of the weights in the file.
    """

    name: str
    config: Config
    inputs: Inputs
    function: Callable[..., dict[str, jax.Array]]
    reference: Callable[..., dict[str, jax.Array]]
    metadata: dict
    size: int


def hand(workdir: str | Path, *, half: bool = False, dtype: str | None = None) -> Network:
    """The network for hands of a run, with its best parameters.

    Args:
        workdir: run folder.
        half: store the parameters in half precision.
        dtype: type of the computation, such as "float32"; None: `model.dtype` of the run.

    Returns:
        A function from `image` (B, S, S, 3) uint8, `K` (B, 3, 3) and, where the model reads depth, `depth` (B, S, S),
        `has_depth` (B,) and `depth_center` (B,), as in `data.batch.Batch`, to predictions as in `models`.

    Raises:
        UserError: the folder contains no run, or its parameters do not fit the model of its config.
    """
    eval_model, best = load_best(workdir)
    config, size = best.config, best.config.data.image_size
    graphdef = eval_model.graphdef
    if dtype is not None and dtype != config.model.dtype:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype=dtype))
        graphdef, _ = nnx.split(nnx.eval_shape(functools.partial(models.build, config)))
    run_params, rest = (jax.tree.map(np.asarray, tree) for tree in (best.params, best.rest))
    params = half_precision.stored(run_params, half=half)
    shapes: Inputs = {
        "image": ((size, size, 3), np.uint8),
        "depth": ((size, size), np.float32),
        "has_depth": ((), np.float32),
        "depth_center": ((), np.float32),
        "K": ((3, 3), np.float32),
    }
    assert tuple(shapes) == INPUTS

    def predict(parts, graphdef, params, *arrays):
        predictions = predict_crops(nnx.merge(graphdef, params, rest), dict(zip(parts, arrays)))
        return {key: predictions[key] for key in (*OUTPUTS, *READINGS) if key in predictions}

    used = _used(functools.partial(predict, INPUTS, graphdef, params), shapes)
    inputs = {name: shapes[name] for name in used}
    missing = {name: shape for name, (shape, _) in shapes.items() if name not in used}

    def with_all(graphdef, params, *arrays):
        """The model's arguments may include arrays that it does not read; they are 0."""
        zeros = [np.zeros((1, *shape), np.float32) for shape in missing.values()]
        return predict((*inputs, *missing), graphdef, half_precision.restored(params), *arrays, *zeros)

    function = functools.partial(with_all, graphdef, params)
    reference = jax.jit(functools.partial(with_all, eval_model.graphdef, run_params))
    about = metadata.of_hand(best, workdir, config, inputs, _shapes(function, inputs), half=half)
    return Network(HAND, config, inputs, function, reference, about, _size(params))


def palm_detector(workdir: str | Path, *, half: bool = False) -> Network:
    """The palm detector that belongs to a run of MediaPipe's networks.

    Returns:
        A function from `image` (B, 192, 192, 3) uint8 to `points` (B, 2016, 9, 2) px and `scores` (B, 2016) of
        candidate palms, as `models.palm_detector.Palms` describes them.

    Raises:
        UserError: the run has no palm detector.
    """
    folder = mediapipe_pipeline.palm_folder(workdir)
    if folder is None:
        raise UserError(f"{workdir} has no palm detector: {mediapipe_pipeline.HOW}")
    best = restore_best(folder)
    graphdef, state = nnx.split(mediapipe_pipeline.network(mediapipe_pipeline.palm_detector, best))
    run_state = jax.tree.map(np.asarray, nnx.to_pure_dict(state))
    stored = half_precision.stored(run_state, half=half)

    def detect(state, image):
        return nnx.merge(graphdef, half_precision.restored(state))(as_float(image))._asdict()

    inputs: Inputs = {"image": ((SIDE, SIDE, 3), np.uint8)}
    function, reference = functools.partial(detect, stored), jax.jit(functools.partial(detect, run_state))
    about = metadata.of_palm_detector(best, folder, inputs, _shapes(function, inputs), half=half)
    return Network(PALM, best.config, inputs, function, reference, about, _size(stored))


def arguments(inputs: Inputs, batch) -> list[jax.ShapeDtypeStruct]:
    """Shapes and types of a network's arguments, for a number or a symbolic dimension as the batch size."""
    return [jax.ShapeDtypeStruct((batch, *shape), dtype) for shape, dtype in inputs.values()]


def _size(params: dict) -> int:
    """Bytes of parameters."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(params))


def _shapes(function: Callable, inputs: Inputs) -> dict[str, tuple[int, ...]]:
    """Name → shape without the batch axis of every output."""
    with plain():
        outputs = jax.eval_shape(function, *arguments(inputs, 1))
    return {name: output.shape[1:] for name, output in outputs.items()}


def _used(function: Callable, inputs: Inputs) -> list[str]:
    """The names of the arguments that a function reads."""
    with plain():
        jaxpr = jax.make_jaxpr(function)(*arguments(inputs, 2)).jaxpr
    read = {id(atom) for equation in jaxpr.eqns for atom in equation.invars}
    return [name for name, var in zip(inputs, jaxpr.invars) if id(var) in read]
