"""Geometry of the hand: joints, cameras, rotations, surfaces. Nothing here needs a neural network."""

from __future__ import annotations

import functools
import typing

from jaxhand.config import HandConfig

if typing.TYPE_CHECKING:
    from jaxhand.hand.skinned import SkinnedHand


@functools.lru_cache
def load(config: HandConfig) -> SkinnedHand:
    """Load the right-hand surface that networks pose. Left hands are mirrored before a network, its output afterwards.

    Args:
        config: with a `mano_path`, the hand is MANO; without one, it is the built-in hand.

    Returns:
        The hand. The same config returns the same object.

    Raises:
        UserError: the file is missing, or is not MANO's file of a right hand.
    """
    # Imported here, because most users of this subpackage need neither these modules nor JAX.
    if config.mano_path:
        from jaxhand.hand import mano

        return mano.read(config.mano_path, side="right", fingertip_vertices=config.tips)
    from jaxhand.hand.builtin import surface

    return surface.builtin()
