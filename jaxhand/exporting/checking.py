"""Compare an exported file with the run it came from, on random and on rendered hands."""

from collections.abc import Callable

import cv2
import jax
import numpy as np

from jaxhand.config import Config, UserError
from jaxhand.data.crop import crop
from jaxhand.data.crop_rules import RULES
from jaxhand.data.synthetic import dataset
from jaxhand.exporting.metadata import OUTPUTS
from jaxhand.exporting.network import PALM, Inputs, Network

RANDOM, RENDERED = 1, 4  # number of hands in the two batches, so that two batch sizes are tried
VIEW_PX = 128  # side of the rendered images
# The largest accepted difference of a value v in its unit (mm, px, rad, 1) is ABSOLUTE + RELATIVE * |v|: float32 sums
# in another order. Hands far away have coarser numbers.
ABSOLUTE, RELATIVE = 0.01, 2e-5

Batch = dict[str, np.ndarray]


def batches(network: Network) -> list[Batch]:
    """Two batches of a network's inputs: random values, and rendered hands with depth and without."""
    return [_random(network.inputs), _rendered(network)]


def differences(reference: Callable, run: Callable, inputs: list[Batch], *, what: str) -> dict[str, float]:
    """Compare a file with a function on batches of inputs.

    Args:
        reference: arrays in the order of the inputs → dict of arrays, in JAX.
        run: dict of arrays → dict of arrays, from the file.
        inputs: the batches.
        what: name of the file, for the error.

    Returns:
        The largest difference of each output.

    Raises:
        UserError: an output is missing, has another shape, or differs by more than the tolerance.
    """
    found: dict[str, float] = {}
    for batch in inputs:
        wanted, got = jax.device_get(reference(*batch.values())), run(batch)
        for name, expected in wanted.items():
            value = got.get(name)
            if value is None or value.shape != expected.shape:
                shape = None if value is None else value.shape
                raise UserError(f"{what} is wrong: {name} has the shape {shape}, in the run {expected.shape}")
            apart = np.abs(value.astype(np.float64) - expected)
            found[name] = max(found.get(name, 0.0), float(apart.max()))
            if not (apart <= ABSOLUTE + RELATIVE * np.abs(expected)).all():
                limit = f"{ABSOLUTE} + {RELATIVE:g} of the value"
                raise UserError(f"{what} is wrong: {name} differs from the run by {found[name]:.3g}, at most {limit}")
    return found


def by_unit(found: dict[str, float]) -> str:
    """Differences as text: the largest one in mm, and the largest one in px."""
    units = {}
    for name, apart in found.items():
        unit = OUTPUTS[name][0]
        units[unit] = max(units.get(unit, 0.0), apart)
    return ", ".join(f"{units[unit]:.2g} {unit}" for unit in ("mm", "px") if unit in units)


def cost(network: Network, inputs: Batch) -> dict[str, float]:
    """The mean difference of each output between the weights of the file and those of the run, on a batch of hands."""
    wanted, got = (jax.device_get(f(*inputs.values())) for f in (network.reference, jax.jit(network.function)))
    return {name: float(np.abs(got[name] - wanted[name]).mean()) for name in wanted}


def _random(inputs: Inputs) -> Batch:
    """Noise as an image, in front of a camera like that of a photograph."""
    rng, size = np.random.default_rng(0), inputs["image"][0][0]
    K = np.array([[1.2 * size, 0, (size - 1) / 2], [0, 1.2 * size, (size - 1) / 2], [0, 0, 1]])
    values = {
        "image": lambda shape: rng.integers(0, 256, shape),
        "depth": lambda shape: rng.uniform(-1, 1, shape),
        "has_depth": lambda shape: np.ones(shape),
        "depth_center": lambda shape: rng.uniform(300, 900, shape),
        "K": lambda shape: np.broadcast_to(K, shape),
    }
    return {name: values[name]((RANDOM, *shape)).astype(dtype) for name, (shape, dtype) in inputs.items()}


def _rendered(network: Network) -> Batch:
    """Crops of rendered hands, the first half of them without depth."""
    config: Config = network.config
    hands = dataset.load("test", RENDERED, size=VIEW_PX, seed=config.seed, progress=lambda line: None)
    records = [hands[i] for i in range(RENDERED)]
    if network.name == PALM:
        sides = network.inputs["image"][0][:2]
        return {"image": np.stack([cv2.resize(record.pixels, sides) for record in records])}
    rule = RULES[network.metadata["crop"]["rule"]]
    crops = [crop(record, config.data.image_size, config.data.crop_scale, rule=rule) for record in records]
    batch = {name: np.stack([one[name] for one in crops]) for name in network.inputs}
    for name in ("depth", "has_depth", "depth_center"):
        if name in batch:
            batch[name][: RENDERED // 2] = 0
    return batch
