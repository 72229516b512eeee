"""How the parameters of our models are called and shaped in checkpoints of HaMeR, WiLoR and ViTPose."""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from jaxhand.models.refine import SCALES

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _linear(x: np.ndarray) -> np.ndarray:
    """(out, in) → (in, out)."""
    return x.T


def _conv(x: np.ndarray) -> np.ndarray:
    """A convolution whose patches do not overlap, (out, in, h, w) → a product, (h * w * in, out)."""
    return x.transpose(2, 3, 1, 0).reshape(-1, len(x))


def _deconv(x: np.ndarray) -> np.ndarray:
    """A transposed convolution, (in, out, h, w) → (h, w, in, out) turned by half a turn."""
    return x.transpose(2, 3, 0, 1)[::-1, ::-1]


def _one_output(x: np.ndarray) -> np.ndarray:
    """A layer's (1, in) → (in,), or (1,) → ()."""
    return x[0]


def _positions(x: np.ndarray) -> np.ndarray:
    """(1, 1 + T, width) → (T, width): each position has that of a class token added, which is not there itself."""
    return x[0, 1:] + x[0, :1]


# Ours: theirs, and what becomes of a layer's `weight`, or of a parameter that is no layer's. {} counts what is stacked.
BACKBONE = {
    "positions": ("pos_embed", _positions),
    "patch_embed/proj": ("patch_embed.proj", _conv),
    **{
        f"encoder/blocks/{name}": (f"blocks.{{}}.{name.replace('/', '.')}", change)
        for names, change in ((("norm1", "norm2"), _same), (("attn/qkv", "attn/proj", "mlp/fc1", "mlp/fc2"), _linear))
        for name in names
    },
    "encoder/norm": ("last_norm", _same),
}
_MEAN = {name: (name, _same) for name in ("init_hand_pose", "init_betas", "init_cam")}
_READOUT = {name: (name, _linear) for name in ("decpose", "decshape", "deccam")}
_DECODER = {
    "to_token_embedding": ("to_token_embedding", _linear),
    "pos_embedding": ("pos_embedding", _same),
    **{
        f"layers/{ours}": (f"transformer.layers.{{}}.{theirs}", _same if ours.endswith("norm") else _linear)
        for ours, theirs in {
            "self_attention/norm": "0.norm",
            "self_attention/to_qkv": "0.fn.to_qkv",
            "self_attention/to_out": "0.fn.to_out.0",
            "cross_attention/norm": "1.norm",
            "cross_attention/to_q": "1.fn.to_q",
            "cross_attention/to_kv": "1.fn.to_kv",
            "cross_attention/to_out": "1.fn.to_out.0",
            "feed_forward/norm": "2.norm",
            "feed_forward/fc1": "2.fn.net.0",
            "feed_forward/fc2": "2.fn.net.3",
        }.items()
    },
}
_REFINE = {
    "deconv/first": ("deconv.first_conv.0", _conv),
    **{
        f"deconv/chains/{chain}/{step}/{ours}": (f"deconv.deconv.{chain}.{3 * step + place}", change)
        for chain in range(SCALES - 1)
        for step in range(chain + 1)
        for place, (ours, change) in enumerate((("conv", _deconv), ("norm", _same)))
    },
    **{name: (name, _linear) for name in ("dec_pose", "dec_shape", "dec_cam")},
}
_DISCRIMINATOR = {
    **{name: (name, _conv) for name in ("D_conv1", "D_conv2")},
    "pose_out": ("pose_out.{}", _one_output),
    **{name: (name, _linear) for name in ("betas_fc1", "betas_fc2", "betas_out")},
    **{f"D_alljoints_{name}": (f"D_alljoints_{name}", _linear) for name in ("fc1", "fc2", "out")},
}


def _within(ours: str, theirs: str, table: dict) -> dict:
    return {f"{ours}/{key}": (f"{theirs}.{name}", change) for key, (name, change) in table.items()}


TABLES = {
    "hamer": {
        **_within("backbone", "backbone", BACKBONE),
        **_within("mano_head", "mano_head", _MEAN | _READOUT),
        **_within("mano_head/transformer", "mano_head.transformer", _DECODER),
        **_within("discriminator", "discriminator", _DISCRIMINATOR),
    },
    "wilor": {
        **_within("backbone", "backbone", BACKBONE | _MEAN | _READOUT),
        **{f"backbone/{name}": (f"backbone.{name}", _linear) for name in ("pose_emb", "shape_emb", "cam_emb")},
        **_within("refine_net", "refine_net", _REFINE),
        **_within("discriminator", "discriminator", _DISCRIMINATOR),
    },
    "vitpose": _within("backbone", "backbone", BACKBONE),
}
_UNUSED = {
    r"mano\..*": "MANO's own numbers: yours come from the file of --mano",
    r"discriminator\..*": "only training looks at it; model.hamer.discriminator=true takes it along",
    r".*\.num_batches_tracked": "a counter",
    r"initialized": "a mark of its training",
    r"(keypoint_head|head|associate_keypoint_heads)\..*": "finds joints of bodies",
    r"backbone\.cls_token": "its model does not use it either",
    r"(mano_head|refine_net)\..*|backbone\.(init_|\w+_emb\.|dec).*": "only the transformer is taken",
}


class Source(NamedTuple):
    """Where an array of a model comes from: a tensor of the checkpoint, or one for each of its rows."""

    keys: list[str]
    stacked: bool
    change: Callable[[np.ndarray], np.ndarray]  # of a tensor's axes, towards ours


def sources(kind: str, path: str, shape: tuple[int, ...]) -> Source:
    """The tensors that make up the array of our model at a path such as "backbone/encoder/norm/scale".

    Args:
        kind: "hamer", "wilor" or "vitpose".
        path: of a parameter or a statistic.
        shape: of the whole array, whose first axis may count layers.
    """
    layer, _, leaf = path.rpartition("/")
    table = TABLES[kind]
    key, change = table[path] if path in table else table[layer]
    if path not in table:
        key = f"{key}.{LEAVES[leaf]}"
        change = change if leaf == "kernel" or change is _one_output else _same
    rows = range(shape[0]) if "{}" in key else [0]
    return Source([key.format(row) for row in rows], "{}" in key, change)


def knows(kind: str, path: str) -> bool:
    """Whether checkpoints of a kind have an array of our model."""
    return path in TABLES[kind] or path.rpartition("/")[0] in TABLES[kind]


def why_unused(key: str) -> str:
    """Why a tensor of a checkpoint has no place in our model."""
    return next((why for pattern, why in _UNUSED.items() if re.fullmatch(pattern, key)), "not known here")


def count(keys: Iterable[str], pattern: str) -> int:
    """How many layers there are of which `pattern`, with {} for the number, is a key."""
    keys, number = set(keys), 0
    while pattern.format(number) in keys:
        number += 1
    return number
