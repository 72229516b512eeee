"""Hands by name: whatever they are read from, a source of records."""

from jaxhand.config import DataConfig, UserError
from jaxhand.data import folder


def load(name: str, split: str, config: DataConfig, seed: int):
    """The source called `name`: "synthetic", or "folder:PATH".

    Args:
        name: as in `data.train` and `data.test`.
        split: "train", or `config.test_split` for the set that is tested on.
        config: sizes of the built-in sets. With `test_split` "val" the training split of a folder leaves val out.
        seed: of the built-in world.

    Raises:
        UserError: the name is unknown, or the folder holds a mistake.
    """
    kind, _, path = name.partition(":")
    if kind == "folder" and path:
        return folder.load(path, split, without_val=config.test_split == "val")
    if name == "synthetic":
        from jaxhand.data import synthetic  # not above: it is also a command, and Python warns of one imported before
        return synthetic.load(
            split,
            config.train_samples if split == "train" else config.test_samples,
            size=config.image_size,
            view=config.view,
            seed=seed,
            cache=config.cache or None,
            crop_scale=config.crop_scale,
        )
    raise UserError(f"unknown data set {name!r}; known: synthetic, folder:PATH")
