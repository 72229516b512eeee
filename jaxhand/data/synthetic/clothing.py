"""Sleeves, watches and rings: they are painted on a hand, with their own colour and shine, and have no thickness."""

import typing

import numpy as np

from jaxhand.data.synthetic import backgrounds, skin_map
from jaxhand.data.synthetic.photo_hand import HandMap
from jaxhand.data.synthetic.surfaces import Surface

_METALS = np.array([[0.75, 0.55, 0.25], [0.7, 0.7, 0.72], [0.05, 0.05, 0.06]])  # linear light


class _Paint(typing.NamedTuple):
    """Images that are painted on, flattened: (S * S, 3), (S * S,), (S * S,)."""

    color: np.ndarray
    gloss: np.ndarray
    flesh: np.ndarray

    def put(self, rows: np.ndarray, color: np.ndarray, gloss: float) -> None:
        """Paint the pixels with the indices `rows`."""
        self.color[rows], self.gloss[rows], self.flesh[rows] = color, gloss, 0


def dress(rng: np.random.Generator, surface: Surface, found: HandMap) -> Surface:
    """Return the surface of a hand with a sleeve, a watch or rings, or none of them."""
    paint = _Paint(surface.color.reshape(-1, 3).copy(), surface.gloss.ravel().copy(), surface.flesh.ravel().copy())
    for probability, put in ((0.45, _sleeve), (0.2, _watch), (0.3, _rings)):
        if rng.uniform() < probability:
            put(rng, paint, found)
    return surface._replace(
        **{key: value.reshape(getattr(surface, key).shape) for key, value in paint._asdict().items()}
    )


def _sleeve(rng: np.random.Generator, paint: _Paint, found: HandMap) -> None:
    hem = -np.exp(rng.uniform(np.log(6), np.log(110)))  # end of the sleeve, mm from the wrist along the forearm
    y = found.place[:, 1]
    covered = (y < hem) & (found.arm > 0.35)
    cloth = backgrounds.draw(rng, 96)
    at = np.mod(found.place[covered] * rng.uniform(0.4, 1.5), 95).astype(int)
    shade = np.where(y[covered] > hem - 3, 0.55, 1.0)  # the seam
    paint.put(found.rows[covered], cloth[at[:, 1], at[:, 0]] * shade[:, None], 0.05)


def _watch(rng: np.random.Generator, paint: _Paint, found: HandMap) -> None:
    x, y = found.place.T
    low, width, radius = rng.uniform((-38, 10, 14), (-14, 22, 21))
    paint.put(found.rows[(y > low) & (y < low + width)], backgrounds.color(rng), 0.6)
    dial = (np.hypot(x, y - low - width / 2) < radius) & (found.back > 0.6)
    paint.put(found.rows[dial], backgrounds.color(rng), 2.0)


def _rings(rng: np.random.Generator, paint: _Paint, found: HandMap) -> None:
    layout = skin_map.layout()
    for finger in rng.choice(5, rng.integers(1, 3), replace=False):
        direction = layout.directions[finger]
        offset = found.place - layout.knuckles[finger, 0] - direction * (28.0 if finger else 16.0)
        along, across = np.abs(offset @ direction), np.abs(offset @ (direction[1], -direction[0]))
        ring = (along < rng.uniform(1.2, 3.5)) & (across < 12)
        paint.put(found.rows[ring], _METALS[rng.integers(len(_METALS))], 3.0)
