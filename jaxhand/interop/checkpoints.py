"""Converts checkpoints of HaMeR, WiLoR and ViTPose into configs and arrays of our models.

Only one tensor of the checkpoint is in memory at a time.
"""

import collections
import dataclasses
import functools
import math
import typing
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from jaxhand import config as configs
from jaxhand import models
from jaxhand.config import Config, UserError, limits, yaml_text
from jaxhand.interop import names, safetensors, torch_file
from jaxhand.interop.tensor import Tensor
from jaxhand.io.files import MALFORMED, one_line
from jaxhand.models.hamer import CAMERA_PX

VIT_HEADS = {
    384: 12,
    768: 12,
    1024: 16,
    1280: 16,
}  # width of ViTPose → number of attention heads, which no tensor's shape shows
DECODER_HEAD_WIDTH = 64  # channels of an attention head of HaMeR's decoder
TREES = ("params", "non_trainable")
ALIGNMENT = 64  # bytes; JAX on a CPU uses arrays with this alignment without a copy


@dataclasses.dataclass(frozen=True)
class Converted:
    """Arrays of a converted model (float32 NumPy), and for every tensor of the file whether it is used."""

    config: Config
    params: dict
    non_trainable: dict  # batch statistics, mean MANO parameters
    used: dict[str, str]  # key in the file → path in the model
    unused: dict[str, str]  # key in the file → reason
    partial: bool  # whether only a backbone was converted

    def summary(self) -> list[str]:
        """Text lines: size of the model, number of used tensors, and for each reason the number of unused tensors."""
        vit = self.config.model.vit
        count = sum(leaf.size for leaf in jax.tree.leaves((self.params, self.non_trainable)))
        name = "backbone" if self.partial else self.config.model.name
        size = f"{name}, {vit.depth} blocks, {vit.width} wide with {vit.heads} heads, {count / 1e6:.1f} M values"
        reasons = collections.Counter(self.unused.values())
        unused = [f"{count} not used: {reason}" for reason, count in reasons.items()]
        return [size, f"{len(self.used)} tensors used, no tensor is missing", *unused]

    def report(self) -> list[str]:
        """One line for every key of the file."""
        used = [f"  {key} -> {path}" for key, path in self.used.items()]
        unused = [f"  {key}: {reason}" for key, reason in self.unused.items()]
        return [f"used: {len(used)}", *used, f"unused: {len(unused)}", *unused, "missing: 0"]


def convert(
    kind: str, path: str | Path, *, model_config: str | Path | None = None, overrides: Sequence[str] = ()
) -> Converted:
    """Convert a checkpoint.

    The model's sizes follow from the shapes of the tensors. Numbers of attention heads are those of the released
    models.

    Args:
        kind: "hamer" or "wilor"; or "vitpose" for only the backbone, from a file of ViTPose, HaMeR or WiLoR.
        path: the file, of torch.save or .safetensors.
        model_config: HaMeR's or WiLoR's model_config.yaml; needed only if the decoder has another number of heads.
        overrides: `key.sub=value` of our config, such as model.vit.heads=16; they replace sizes from the file.

    Returns:
        The arrays and a report on every tensor.

    Raises:
        UserError: the file cannot be read; or a tensor is missing, has another shape than in the model, or has a value
            that is not finite. The message contains the name of the tensor.
    """
    path = Path(path)
    tensors, unused = _tensors(kind, path)
    config = configs.load(None, [*_sizes(kind, tensors, path, overrides), *_decoder(model_config), *overrides])
    wanted = _abstract(config)
    if kind == "vitpose":
        wanted = {name: leaves for name, leaves in wanted.items() if names.is_mapped(kind, name[1])}
    plan = {name: names.source_of(kind, name[1], leaf.shape) for name, leaf in wanted.items()}
    _check(path, kind, tensors, plan, wanted)
    arrays = {name: _read(path, tensors, source, wanted[name].shape) for name, source in plan.items()}
    paths = {key: name for (_, name), source in plan.items() for key in source.keys}
    used = {key: paths[key] for key in tensors if key in paths}
    unused |= {key: names.why_unused(key) for key in tensors if key not in used}
    params, non_trainable = (
        _nested({name[1]: array for name, array in arrays.items() if name[0] == tree}) for tree in TREES
    )
    return Converted(config, params, non_trainable, used, unused, partial=kind == "vitpose")


def _tensors(kind: str, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a checkpoint: name → weight, and name of any other entry → reason why it is not used."""
    saved: typing.Any = safetensors.read(path) if path.suffix == ".safetensors" else torch_file.read(path)
    unused = {}
    if isinstance(saved, dict):
        inner = next((name for name in ("state_dict", "model") if isinstance(saved.get(name), dict)), None)
        if inner is not None:
            unused = {str(name): "not a weight of the model" for name in saved if name != inner}
            saved = saved[inner]
        saved = {_plain_name(key): value for key, value in saved.items() if isinstance(value, Tensor)}
    if not isinstance(saved, dict) or not saved:
        raise UserError(f"{path}: contains no weights; expected a dict of tensors, or such a dict under state_dict")
    if kind == "vitpose" and "pos_embed" in saved:
        saved = {f"backbone.{key}": value for key, value in saved.items()}
    return saved, unused


def _plain_name(key: object) -> str:
    """Remove what wrappers of PyTorch add to the name of a weight: DataParallel and torch.compile."""
    return str(key).replace("_orig_mod.", "").removeprefix("module.")


def _sizes(kind: str, tensors: dict[str, Tensor], path: Path, overrides: Sequence[str]) -> list[str]:
    """Overrides of the config with the sizes of the model, which follow from the shapes of the tensors."""

    def shape(key: str, axes: int) -> tuple[int, ...]:
        if key not in tensors:
            found = ascii(list(tensors)[:3])[:150]
            raise UserError(f"{path}: not a checkpoint of {kind}: the tensor {key} is missing; the file has {found}, …")
        if len(tensors[key].shape) != axes:
            raise UserError(f"{path}: {key} has shape {tensors[key].shape}, but {kind} needs {axes} axes")
        if 0 in tensors[key].shape:
            raise UserError(f"{path}: {key} has shape {tensors[key].shape}, which is empty; download the file again")
        return tensors[key].shape

    width, _, patch, _ = shape("backbone.patch_embed.proj.weight", 4)
    rows = math.isqrt((shape("backbone.pos_embed", 3)[1] - 1) * 4 // 3)  # width of the grid = 3/4 of its height
    vit = {
        "width": width,
        "depth": names.count_layers(tensors, "backbone.blocks.{}.norm1.weight"),
        "mlp_ratio": shape("backbone.blocks.0.mlp.fc1.weight", 2)[0] / width,
        "patch": patch,
    }
    if vit["depth"] > limits.LAYERS:
        raise UserError(f"{path}: has {vit['depth']} layers, but at most {limits.LAYERS} are read")
    given = {override.partition("=")[0] for override in overrides}
    if width in VIT_HEADS:
        vit["heads"] = VIT_HEADS[width]
    elif "model.vit.heads" not in given:
        raise UserError(f"{path}: unknown number of attention heads for width {width}: set model.vit.heads=NUMBER")
    sizes = [f"model.vit.{key}={value}" for key, value in vit.items()]
    if kind == "hamer":
        decoder = "mano_head.transformer.transformer.layers"
        inner, width = shape(f"{decoder}.0.1.fn.to_q.weight", 2)
        head = {
            "width": width,
            "depth": names.count_layers(tensors, decoder + ".{}.1.fn.to_q.weight"),
            "head_width": DECODER_HEAD_WIDTH,
            "heads": max(inner // DECODER_HEAD_WIDTH, 1),
            "mlp": shape(f"{decoder}.0.2.fn.net.0.weight", 2)[0],
        }
        sizes += [f"model.hamer.{key}={value}" for key, value in head.items()]
    crops = [f"data.image_size={rows * patch}", "data.crop_rule=hamer", "data.crop_scale=2.0"]
    return [f"model.name={'hamer' if kind == 'vitpose' else kind}", *sizes, *crops]


def _decoder(path: str | Path | None) -> list[str]:
    """Read the decoder's heads from a model_config.yaml, as overrides of the config. The focal length is checked."""
    if path is None:
        return []
    try:
        tree = yaml_text.typed(yaml_text.parse(Path(path).read_text(), str(path)))
        focal, size = tree["EXTRA"]["FOCAL_LENGTH"], tree["MODEL"]["IMAGE_SIZE"]
        decoder = tree["MODEL"]["MANO_HEAD"].get("TRANSFORMER_DECODER") or {}
        found = {"heads": decoder.get("heads"), "head_width": decoder.get("dim_head")}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except MALFORMED as error:
        raise UserError(f"{path}: not a model_config.yaml of HaMeR or WiLoR ({one_line(error)})") from None
    if not all(isinstance(number, (int, float)) for number in (focal, size)) or focal * 256 != CAMERA_PX * size:
        supported = f"{CAMERA_PX:.0f} for crops of 256 px"
        raise UserError(f"{path}: EXTRA.FOCAL_LENGTH is {focal} for crops of {size} px; only {supported} is supported")
    return [f"model.hamer.{key}={value}" for key, value in found.items() if value is not None]


def _abstract(config: Config) -> dict:
    """Shapes and dtypes of a model's arrays; a key is (tree, path), such as ("params", "backbone/positions")."""
    _, params, non_trainable = nnx.split(nnx.eval_shape(functools.partial(models.build, config)), nnx.Param, ...)
    flat = {}
    for tree, state in zip(TREES, (params, non_trainable)):
        for path, leaf in jax.tree.leaves_with_path(nnx.to_pure_dict(state)):
            flat[tree, jax.tree_util.keystr(path, simple=True, separator="/")] = leaf
    return flat


def _check(path: Path, kind: str, tensors: dict, plan: dict, wanted: dict) -> None:
    """Check that the file has all tensors of a model, in the right shapes, before any tensor is read."""
    missing = [key for source in plan.values() for key in source.keys if key not in tensors]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(f"{path}: not a complete checkpoint of {kind}: {', '.join(missing[:3])}{more} missing")
    for name, source in plan.items():
        shape = wanted[name].shape[source.stacked :]
        for key in source.keys:
            try:
                fits = source.transform(np.broadcast_to(np.float32(0), tensors[key].shape)).shape == shape
            except (ValueError, IndexError):  # another number of axes
                fits = False
            if not fits:
                raise UserError(
                    f"{path}: {key} of shape {tensors[key].shape} does not fit the model's {name[1]} of shape {shape}"
                )


def _read(path: Path, tensors: dict[str, Tensor], source: names.Source, shape: tuple[int, ...]) -> np.ndarray:
    """Read the tensors that make up one array of our model; returns the array, float32."""
    array = _empty(shape)
    for row, key in enumerate(source.keys):
        tensor = tensors[key].read()
        if not np.isfinite(tensor).all():
            raise UserError(
                f"{path}: {key} has values that are not finite: the file is damaged, or its training diverged"
            )
        array[row if source.stacked else ...] = source.transform(tensor)
    return array


def _empty(shape: tuple[int, ...]) -> np.ndarray:
    """An uninitialised float32 array, aligned to `ALIGNMENT`."""
    raw = np.empty(4 * math.prod(shape) + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + 4 * math.prod(shape)].view(np.float32).reshape(shape)


def _nested(flat: dict[str, np.ndarray]) -> dict:
    """Nest a dict: {"a/0/b": x} → {"a": {0: {"b": x}}}. A list of nnx is a dict with integer keys."""
    tree = {}
    for path, array in flat.items():
        *parents, last = [int(part) if part.isdecimal() else part for part in path.split("/")]
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = array
    return tree
