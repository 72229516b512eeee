"""jaxhand: train, evaluate and run networks for 3D hand pose from colour and depth images."""

__version__ = "0.1.0"
_ROOMS = (
    "config",
    "data",
    "evaluation",
    "exporting",
    "hand",
    "inference",
    "interop",
    "io",
    "metrics",
    "models",
    "training",
)


def __getattr__(name: str):
    """Import a subpackage when it is first used, so that `import jaxhand` is quick and does not import JAX."""
    if name in _ROOMS:
        import importlib

        return importlib.import_module(f"jaxhand.{name}")
    raise AttributeError(f"module 'jaxhand' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_ROOMS]


def load(path, *, batch_size: int = 32, fit_mesh=False):
    """Load the best model of a run folder, as a function: images and boxes → arrays of predictions.

    `jaxhand.load("runs/mediapipe")("photo.jpg")["keypoints_3d"]`
    `jaxhand.load("runs/quickstart")(image, boxes=[x0, y0, x1, y1], hands="left")["keypoints_3d"]`

    Args:
        path: run folder.
        batch_size: largest number of hands in one batch of the model; a power of two.
        fit_mesh: True: models without a mesh return `vertices` and `faces`, too: the surface of the built-in hand (or
            of MANO, where the run's config has it), fitted to the joints. The path of MANO's file: the same with MANO.

    Returns:
        A `jaxhand.inference.arguments.ImagePredictor`; its `__call__` lists the arguments and the returned arrays.

    Raises:
        UserError: the folder contains no run, its parameters do not fit the model of its config, or `batch_size` is not
            a power of two, or MANO's file cannot be read.
    """
    from jaxhand.inference import loading  # imported here, so that `import jaxhand` does not import JAX

    return loading.load(path, batch_size=batch_size, fit_mesh=fit_mesh)
