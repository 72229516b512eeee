"""Hands by name: whatever they are read from, a source of records."""

import difflib
import importlib
from inspect import signature
from pathlib import Path

from jaxhand.config import DataConfig, HandConfig, UserError
from jaxhand.data import mix
from jaxhand.data.datasets import packed
from jaxhand.data.synthetic import dataset
from jaxhand.hand import mano

READERS = {  # name → module of data/datasets/ with `load`
    "freihand": "freihand",
    "ho3d": "ho3d",
    "dexycb": "dexycb",
    "interhand": "interhand",
    "rhd": "rhd",
    "hamer": "hamer_tars",
    "hint": "hint",
    "folder": "folder",
}


def load(name: str | dict[str, float], split: str, config: DataConfig, seed: int, hand: HandConfig | None = None):
    """The source called `name`: "synthetic", "NAME:PATH" or "NAME-VARIANT:PATH"; of names with weights a `mix.Mix`.

    Args:
        name: as in `data.train` and `data.test`.
        split: "train", or `config.test_split` for the set that is tested on.
        config: sizes of the built-in sets. With `test_split` "val" the training split leaves val out.
        seed: of the built-in world.
        hand: whose mesh the records shall be labelled with, where a set can; None: joints are all that is wanted.

    Raises:
        UserError: the name is unknown, or what is at the path holds a mistake.
    """
    if isinstance(name, dict):
        return mix.Mix({each: load(each, split, config, seed, hand) for each in name}, name)
    if name == "synthetic":
        return dataset.load(
            split,
            config.train_samples if split == "train" else config.test_samples,
            size=config.image_size,
            view=config.view,
            seed=seed,
            cache=config.cache or None,
            crop_scale=config.crop_scale,
            mesh=hand is not None and not hand.mano_path,
        )
    kind, colon, path = name.partition(":")
    if not colon or not path:
        hint = f"give its path, {kind}:PATH" if kind.partition("-")[0] in READERS else _known(kind)
        raise UserError(f"unknown data set {name!r}; {hint}")
    return read(kind, path, split, without_val=config.test_split == "val", mano_path=hand.mano_path if hand else "")


def read(kind: str, path: str | Path, split: str, *, without_val: bool = False, mano_path: str | Path = ""):
    """A set on disk, as its authors lay it out or packed by `python -m jaxhand.convert data`.

    Args:
        kind: NAME or NAME-VARIANT, such as "dexycb-s1".
        path: its folder or file.
        split: "train", "val" or "test".
        without_val: leave the records of "val" out of "train" where they are held out of it.
        mano_path: MANO's file, for the labels that need it, and vertices; a packed set has what it was packed with.

    Raises:
        UserError: the name is unknown, or what is at the path holds a mistake.
    """
    reader, _, variant = kind.partition("-")
    if reader not in READERS:
        raise UserError(f"unknown data set {kind!r}; {_known(reader)}")
    if (Path(path).expanduser() / "packed.json").is_file():
        return packed.load(path, split, kind=kind, without_val=without_val)
    options = {"variant": variant} if variant else {}
    open_set = importlib.import_module(f"jaxhand.data.datasets.{READERS[reader]}").load
    if mano_path:
        mean, components = mano.read_pose_space(mano_path)
        labels = {"vertices": True, "mano_mean": mean, "mano_components": components}
        options |= {key: value for key, value in labels.items() if key in signature(open_set).parameters}
    return open_set(path, split, without_val=without_val, **options)


def _known(name: str) -> str:
    near = difflib.get_close_matches(name, (*READERS, "synthetic"), n=1)
    nearest = f"did you mean {near[0]!r}? " if near else ""
    return f"{nearest}known: synthetic, {', '.join(f'{reader}:PATH' for reader in READERS)}"
