"""The hand itself: joints, cameras, rotations, surfaces. It knows nothing of learning."""

import functools

from jaxhand.config import HandConfig


@functools.lru_cache
def load(config: HandConfig):
    """The right hand that models pose, a `skinned.SkinnedHand`: MANO of `config.mano_path`, or else the built-in one.

    The same config gives the same object. All models see right hands: left ones are mirrored.

    Raises:
        UserError: the file is missing, or not MANO of a right hand.
    """
    # Imported here: most users of this room need neither, nor JAX.
    if config.mano_path:
        from jaxhand.hand import mano

        return mano.read(config.mano_path, side="right", tips=config.tips)
    from jaxhand.hand.builtin import surface

    return surface.builtin()
