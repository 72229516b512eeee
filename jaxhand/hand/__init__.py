"""The hand itself: joints, cameras, rotations, surfaces. Nothing here needs a network."""

from __future__ import annotations

import functools
import typing

from jaxhand.config import HandConfig

if typing.TYPE_CHECKING:
    from jaxhand.hand.skinned import SkinnedHand


@functools.lru_cache
def load(config: HandConfig) -> SkinnedHand:
    """Load the right hand that models pose; left hands are mirrored before a model and after it.

    Args:
        config: with a `mano_path`, the hand is MANO; without one, it is the built-in hand.

    Returns:
        The hand. The same config returns the same object.

    Raises:
        UserError: the file is missing, or not MANO's file of a right hand.
    """
    # Imported here: most users of this subpackage need neither them nor JAX.
    if config.mano_path:
        from jaxhand.hand import mano

        return mano.read(config.mano_path, side="right", fingertip_vertices=config.tips)
    from jaxhand.hand.builtin import surface

    return surface.builtin()
