"""Cost of a model and of each of its modules: `jaxhand summary CONFIG [key=value …]`."""

import argparse
import inspect
import json
import math
import re
import statistics
import sys
import time
import typing

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxhand import config as configs
from jaxhand import models
from jaxhand.config import Config, UserError
from jaxhand.models.vit import Encoder

NOTES = """\
FLOPs: operations of matrix products and convolutions in the forward pass of one image; a multiply-add is 2 operations.
A training step needs about 3 times as many. Activations: bytes that the forward pass of a training step saves for the
backward pass. They do not include the parameters, the loss and other operations that only training needs."""
_SCOPE = re.compile(r"<([\w.]*)>")  # the path of a module in the name stack of an equation
_TIMED_S = 2.0  # the forward pass is repeated for this time, s


def summarize(config: Config) -> list[dict]:
    """Compute the cost of a config's model from the shapes of its arrays, without running the model.

    Returns:
        Rows with `part` (module), `parameters`, `flops` (one image) and `activations` (bytes, at the config's batch
        size). There is one row for each top-level module, in the order of use; a row "(between)" for operations outside
        of modules; and a row "total". Below its module, a row with `count` is the cost of one of `count` equal blocks.

    Raises:
        UserError: the config's model cannot be built.
    """
    model = nnx.eval_shape(lambda: models.build(config))
    _name_calls(model)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def residuals(params, rest, batch):
        def floats(params):
            predictions = jax.tree.leaves(nnx.merge(graphdef, params, rest)(batch))
            return [value for value in predictions if jnp.issubdtype(value.dtype, jnp.inexact)]

        return jax.tree.leaves(jax.vjp(floats, params)[1])

    forward = jax.make_jaxpr(lambda *state, batch: nnx.merge(graphdef, *state)(batch))(
        params, rest, batch=_batch(config, 1)
    )
    costs = {
        "parameters": [(".".join(map(str, path)), math.prod(leaf.shape)) for path, leaf in nnx.to_flat_state(params)],
        "flops": list(_product_flops(forward.jaxpr)),
        "activations": list(
            _saved_activations(
                jax.make_jaxpr(residuals)(params, rest, _batch(config, config.training.batch_size)).jaxpr
            )
        ),
    }

    def row(part: str, selects: typing.Callable[[str], bool], count: int = 1) -> dict:
        sums = {key: sum(n for path, n in values if selects(path)) for key, values in costs.items()}
        return {"part": part} | {key: value // count for key, value in sums.items()}

    def inside(part: str) -> typing.Callable[[str], bool]:
        return lambda path: f"{path}.".startswith(f"{part}.")

    used = [_path(equation, "") for equation in _all_equations(forward.jaxpr)] + [
        path for path, _ in costs["parameters"]
    ]
    rows, stacks = [], _stacks(model)
    for part in dict.fromkeys(path.partition(".")[0] for path in used if path):
        rows.append(row(part, inside(part)))
        blocks = {path: count for path, count in stacks.items() if inside(part)(path)}
        rows += [row(path, inside(path), count) | {"count": count} for path, count in blocks.items()]
    return [*rows, row("(between)", lambda path: not path), row("total", lambda path: True)]


def measure(config: Config, sizes: typing.Iterable[int]) -> typing.Iterator[dict]:
    """Measure the compiled forward pass on batches of the given sizes.

    Yields:
        `batch` (size), `milliseconds` (median), `memory` (bytes that XLA needs besides parameters, batch and
        predictions).
    """
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: models.build(config)))
    state = jax.jit(lambda: nnx.split(models.build(config))[1])()
    for size in sizes:
        batch = jax.device_put(_batch(config, size))
        forward = jax.jit(lambda state, batch: nnx.merge(graphdef, state)(batch)).lower(state, batch).compile()
        jax.block_until_ready(forward(state, batch))
        seconds = []
        while sum(seconds) < _TIMED_S:
            begin = time.perf_counter()
            jax.block_until_ready(forward(state, batch))
            seconds.append(time.perf_counter() - begin)
        analysis = forward.memory_analysis()
        memory = analysis.temp_size_in_bytes if analysis else None
        yield {"batch": size, "milliseconds": 1e3 * statistics.median(seconds), "memory": memory}


def _batch(config: Config, rows: int) -> dict:
    """A batch with all inputs of a model, filled with noise."""
    side, rng = config.data.image_size, np.random.default_rng(0)
    K = np.array([[1.5 * side, 0, side / 2], [0, 1.5 * side, side / 2], [0, 0, 1]], np.float32)
    return {
        "image": rng.random((rows, side, side, 3), np.float32),
        "depth": rng.uniform(-1, 1, (rows, side, side)).astype(np.float32),
        "has_depth": np.ones(rows, np.float32),
        "depth_center": np.full(rows, 500, np.float32),
        "K": np.tile(K, (rows, 1, 1)),
        "is_right": np.ones(rows, np.float32),
    }


def _name_calls(model: nnx.Module) -> None:
    """Wrap the methods of every module, so that the name stack of each equation contains the path of the module.

    Every module gets a subclass of its own with the wrapped methods. So copies of the module, as in the body of a loop,
    have these methods, too.
    """
    for path, module in nnx.iter_modules(model):
        kind, scope = type(module), f"<{'.'.join(map(str, path))}>"
        ours = [base for base in kind.__mro__ if base not in nnx.Module.__mro__]
        names = {name for base in ours for name, value in vars(base).items() if inspect.isfunction(value)}
        calls = {name: _named(getattr(kind, name), scope) for name in names if name == "__call__" or name[0] != "_"}
        if path and calls:
            object.__setattr__(module, "__class__", typing.cast(type, type(kind))(kind.__name__, (kind,), calls))


def _named(function: typing.Callable, scope: str) -> typing.Callable:
    def call(*args, **kwargs):
        with jax.named_scope(scope):
            return function(*args, **kwargs)

    return call


def _stacks(model: nnx.Module) -> dict[str, int]:
    """Find stacks of equal blocks: path → number of blocks. A stack inside of another stack is left out."""
    found = {}
    for path, module in sorted(nnx.iter_modules(model), key=lambda item: len(item[0])):
        path = ".".join(map(str, path))
        if isinstance(module, Encoder):
            path, count = f"{path}.blocks".lstrip("."), module.depth
        elif (
            isinstance(module, nnx.List)
            and len({str(jax.tree.map(jnp.shape, nnx.state(part))) for part in module}) == 1
        ):
            count = len(module)
        else:
            continue
        if count > 1 and not any(path.startswith(f"{outer}.") for outer in found):
            found[path] = count
    return found


def _product_flops(jaxpr, path: str = "", times: int = 1) -> typing.Iterator[tuple[str, int]]:
    """Yield (module's path, FLOPs) for every matrix product and convolution in a jaxpr and in its inner jaxprs.

    The FLOPs of a scan's body are multiplied by the number of iterations, unlike in XLA's analysis. A loop of unknown
    length is counted as one iteration.
    """
    for equation in jaxpr.eqns:
        here, name = _path(equation, path), equation.primitive.name
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            summed = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            yield here, 2 * times * equation.outvars[0].aval.size * summed
        elif name == "conv_general_dilated":
            kernel, layout = equation.invars[1].aval, equation.params["dimension_numbers"]
            summed = kernel.size // kernel.shape[layout.rhs_spec[0]]  # input channels of a group * kernel size
            zeros = math.prod(equation.params["lhs_dilation"])  # a transposed convolution inserts zeros between pixels
            yield here, 2 * times * equation.outvars[0].aval.size * summed // zeros
        elif name.startswith("dot_product_attention_fwd"):  # cuDNN's attention: queries (B, T, H, D), keys (B, S, H, D)
            (B, T, H, D), S = equation.invars[0].aval.shape, equation.invars[1].aval.shape[1]
            yield here, 4 * times * B * H * T * S * D
        else:
            repeat = times * (equation.params["length"] if name == "scan" else 1)
            for body in _inner_jaxprs(equation):
                yield from _product_flops(body, here, repeat)


def _saved_activations(jaxpr) -> typing.Iterator[tuple[str, int]]:
    """Yield (path of the module, bytes) for each output of a jaxpr; a scan's outputs belong to the module in it."""
    wanted = {v for v in jaxpr.outvars if not hasattr(v, "val")}  # literals are not variables
    for equation in jaxpr.eqns:
        path = _path(equation, "")
        if equation.primitive.name == "scan":
            inner = [_path(e, "") for body in _inner_jaxprs(equation) for e in _all_equations(body)]
            path = min(filter(None, inner), key=len, default=path)
        for v in wanted.intersection(equation.outvars):
            yield path, v.aval.size * v.aval.dtype.itemsize


def _path(equation, outer: str) -> str:
    """The path of an equation's module; `outer` if the equation's name stack contains no path."""
    return (_SCOPE.findall(str(equation.source_info.name_stack)) or [outer])[-1]


def _all_equations(jaxpr) -> typing.Iterator:
    """Yield all equations of a jaxpr and of its inner jaxprs, in order."""
    for equation in jaxpr.eqns:
        yield equation
        for body in _inner_jaxprs(equation):
            yield from _all_equations(body)


def _inner_jaxprs(equation) -> typing.Iterator:
    """Yield the jaxprs inside an equation, such as the body of a loop."""
    for value in jax.tree.leaves(list(equation.params.values())):
        value = getattr(value, "jaxpr", value)
        if hasattr(value, "eqns"):
            yield value


def table(rows: list[dict], batch: int) -> str:
    """Format the rows of `summarize` as a text table."""
    lines = [("", "parameters", "GFLOPs", "activations"), ("", "", "one image", f"batch of {batch}")]
    for row in rows:
        name = f"  {row['part']}, one of {row['count']}" if "count" in row else row["part"]
        lines.append(
            (name, f"{row['parameters']:,}", f"{row['flops'] / 1e9:.4f}", f"{row['activations'] / 1e6:,.1f} MB")
        )
    first, *others = (max(map(len, column)) for column in zip(*lines))
    return "\n".join(
        "  ".join([line[0].ljust(first), *(text.rjust(width) for text, width in zip(line[1:], others))]).rstrip()
        for line in lines
    )


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    name = "jaxhand summary"
    found = argparse.ArgumentParser(prog=name, description=__doc__, epilog=NOTES, formatter_class=raw)
    found.add_argument("config", metavar="CONFIG", help="YAML file, such as configs/quickstart.yaml")
    found.add_argument("overrides", nargs="*", metavar="key=value", help="replaces a value, such as model.vit.size=B")
    found.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    found.add_argument("--no-time", action="store_true", help="do not time the forward pass")
    return found


def main(argv: typing.Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run(parser().parse_intermixed_args(argv))


def run(arguments: argparse.Namespace) -> int:
    """Print the cost of the model; returns the exit code."""
    show = (lambda text: None) if arguments.json else (lambda text: print(text, flush=True))
    try:
        config = configs.load(arguments.config, arguments.overrides)
        rows, batch = summarize(config), config.training.batch_size
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    facts = {"model": config.model.name, "image_size": config.data.image_size, "dtype": config.model.dtype}
    show(f"{arguments.config}: {config.model.name}, images of {config.data.image_size} px, {config.model.dtype}\n")
    show(f"{table(rows, batch)}\n\n{NOTES}\n")
    timed = []
    for found in () if arguments.no_time else measure(config, dict.fromkeys((1, batch))):
        timed.append(found)
        size, ms, memory = found.values()
        rate = f"{ms:.1f} ms, {1e3 * size / ms:,.1f} images/s, {memory / 1e6:,.0f} MB of working memory"
        show(f"Forward pass, batch of {size}, on {jax.devices()[0].device_kind}: {rate}")
    if arguments.json:
        print(json.dumps(facts | {"batch_size": batch, "parts": rows, "forward": timed}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
