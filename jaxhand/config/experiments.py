"""Find an experiment by its name: a file in configs/, which is in an installed package, or next to it in a clone."""

import difflib
from pathlib import Path

from jaxhand.config.errors import ConfigError

_PACKAGE = Path(__file__).parents[1]


def folder() -> Path:
    """The folder of the experiments: jaxhand/configs/ of an installed package, or configs/ of a clone."""
    packaged = _PACKAGE / "configs"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "configs"


def find(name: str | Path) -> Path:
    """The file of an experiment.

    Args:
        name: path of a YAML file, or the name of an experiment such as "quickstart".

    Returns:
        Path of the file. A `name` that is a path is returned unchanged, even if there is no such file.

    Raises:
        ConfigError: no experiment has this name.
    """
    path = Path(name)
    if path.is_file() or path.suffix or path.parent != Path():
        return path
    known = sorted(each.stem for each in folder().glob("*.yaml"))
    if path.name not in known:
        nearest = difflib.get_close_matches(path.name, known, 1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"the experiments are {', '.join(known)}"
        raise ConfigError(f"no config {path.name!r}: it is neither a file nor an experiment; {hint}")
    return folder() / f"{path.name}.yaml"
