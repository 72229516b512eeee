"""What stands behind a hand in a photograph: drawn textures and clutter, or pieces of own photographs."""

import functools
from pathlib import Path

import cv2
import numpy as np

from jaxhand.config import UserError
from jaxhand.data.synthetic.skin_map import noise

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_LARGEST = 640  # px, longer side of an own photograph in memory


def draw(rng: np.random.Generator, size: int, folder: str = "") -> np.ndarray:
    """Return a background (size, size, 3) float32, linear light.

    Args:
        rng: random numbers.
        size: side, px.
        folder: own photographs, of which each background is a random piece; "": drawn ones.
    """
    if folder:
        picture = _piece(rng, size, folder)
    else:
        picture = _texture(rng, size)
        for _ in range(int(rng.choice([0, 4, 12, 30], p=[0.2, 0.25, 0.3, 0.25]))):
            _put_thing(rng, picture)
        if rng.uniform() < 0.3:
            picture = _shelf(rng, picture)
    blur = rng.choice([0.0, 0.7, 2.0, 5.0], p=[0.25, 0.3, 0.3, 0.15]) * size / 224
    if blur:
        picture = cv2.GaussianBlur(picture, (0, 0), blur)
    light = rng.uniform(0.45, 1.25) * (1 + 0.45 * rng.uniform() * noise(rng, (size, size), size, 2))
    return np.clip(picture * light[..., None], 0, None).astype(np.float32)


def photographs_of(folder: str) -> list[Path]:
    """Return the image files in a folder and its subfolders, sorted by name.

    Raises:
        UserError: the folder does not exist or contains no image.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise UserError(f"data.photo.backgrounds: no folder {folder}")
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise UserError(f"data.photo.backgrounds: no image in {folder}; known are {', '.join(IMAGE_SUFFIXES)}")
    return found


def _piece(rng: np.random.Generator, size: int, folder: str) -> np.ndarray:
    """Return a random square of a random photograph, linear light, half of them mirrored."""
    files = _photographs(folder)
    picture = _read(str(files[rng.integers(len(files))]))
    height, width = picture.shape[:2]
    side = int(rng.uniform(0.35, 1.0) * min(height, width))
    row, column = rng.integers(height - side + 1), rng.integers(width - side + 1)
    square = picture[row : row + side, column : column + side, :: -1 if rng.uniform() < 0.5 else 1]
    square = square[:, :: rng.choice([-1, 1])]
    resized = cv2.resize(np.ascontiguousarray(square), (size, size), interpolation=cv2.INTER_AREA)
    return (resized.astype(np.float32) / 255) ** 2.2


_photographs = functools.cache(photographs_of)


@functools.lru_cache(256)
def _read(path: str) -> np.ndarray:
    picture = cv2.imread(path)
    if picture is None:
        raise UserError(f"data.photo.backgrounds: cannot read {path}")
    shrink = min(1.0, _LARGEST / max(picture.shape[:2]))
    picture = cv2.resize(picture, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA) if shrink < 1 else picture
    return np.ascontiguousarray(picture[..., ::-1])


def color(rng: np.random.Generator, saturation: float = 1.0) -> np.ndarray:
    """Return a colour (3,), linear light: mostly grey, brown and pale, sometimes bright."""
    value = rng.uniform(0.04, 1.0)
    hue, strength = rng.uniform(0, 2 * np.pi), saturation * rng.uniform() ** 2.5
    tint = np.cos(hue + np.array([0, 2.1, 4.2]))
    if rng.uniform() < 0.4:
        tint, strength = np.array([0.4, 0.05, -0.45]), saturation * rng.uniform(0.1, 0.9)
    return np.clip(value * (1 + strength * tint), 0.01, 1.0) ** 1.8


def _plane(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rotated coordinates (2, size, size), in units of the side."""
    angle = rng.uniform(0, np.pi)
    columns = np.arange(size, dtype=np.float32) / size - 0.5
    rows = columns[:, None]
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return c * columns + s * rows, c * rows - s * columns


def _plain(rng, size):
    x, _ = _plane(rng, size)
    return 0.5 + rng.uniform(-0.8, 0.8) * x + 0.12 * rng.uniform() * noise(rng, (size, size), size / 3, 5)


def _clouds(rng, size):
    return 0.5 + 0.6 * noise(rng, (size, size), size * rng.uniform(0.08, 0.8), 6)


def _wood(rng, size):
    x, y = _plane(rng, size)
    grain = cv2.resize(noise(rng, (size, max(4, size // 16)), size / 14, 4), (size, size))
    rings = np.sin((x * rng.uniform(6, 30) + 1.2 * noise(rng, (size, size), size * 0.8, 2)) * 6)
    boards = (np.mod(y * rng.uniform(2, 6) + 0.5, 1) < 0.03) * (rng.uniform() < 0.5)
    return 0.5 + 0.22 * grain + 0.12 * rings - 0.5 * boards


def _cloth(rng, size):
    x, y = _plane(rng, size)
    rate = size / rng.uniform(2.5, 5.0) * 2 * np.pi
    weave = np.sin(x * rate) * np.sin(y * rate)
    folds = noise(rng, (size, size), size * rng.uniform(0.2, 0.6), 3)
    return 0.5 + 0.1 * weave + 0.35 * np.sin(3 * folds + 5 * x)


def _stripes(rng, size):
    x, y = _plane(rng, size)
    wave = np.sin(x * rng.uniform(8, 70) + 0.6 * rng.uniform() * noise(rng, (size, size), size / 2, 2))
    if rng.uniform() < 0.4:  # checks
        wave = (wave + np.sin(y * rng.uniform(8, 70))) / 2
    return 0.5 + 0.5 * np.clip(wave * rng.uniform(1, 6), -1, 1)


def _tiles(rng, size):
    x, y = _plane(rng, size)
    width, height = rng.uniform(0.08, 0.4, 2)
    row = np.floor(y / height)
    shift = x / width + 0.5 * np.mod(row, 2) * (rng.uniform() < 0.5)
    cell = rng.uniform(0.25, 0.8, 997)[((np.floor(shift) * 31 + row * 57).astype(int)) % 997]
    joint = np.minimum(np.mod(shift, 1) * width, np.mod(y / height, 1) * height) < rng.uniform(0.003, 0.02)
    return np.where(joint, rng.choice([0.05, 0.95]), cell) + 0.1 * noise(rng, (size, size), size / 6, 4)


def _dots(rng, size):
    picture = np.full((size, size), rng.uniform(), np.float32)
    for _ in range(rng.integers(20, 140)):
        center = rng.integers(0, size, 2).tolist()
        radius = int(size * rng.uniform(0.005, 0.09))
        cv2.circle(picture, center, radius, float(rng.uniform()), -1, cv2.LINE_AA)
    return picture


_TEXTURES = (_plain, _clouds, _wood, _cloth, _stripes, _tiles, _dots)
_WEIGHTS = np.array([0.25, 0.17, 0.14, 0.14, 0.1, 0.1, 0.1])


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return one of the textures (size, size, 3), between two or three colours."""
    value = _TEXTURES[rng.choice(len(_TEXTURES), p=_WEIGHTS)](rng, size)
    dark, bright = color(rng), color(rng)
    value = np.clip(value, 0, 1).astype(np.float32)[..., None]
    picture = dark * (1 - value) + bright * value
    tint = noise(rng, (size, size), size / 2, 3)[..., None] * rng.normal(0, 0.12, 3)
    return (picture * (1 + tint)).astype(np.float32)


def _put_thing(rng: np.random.Generator, picture: np.ndarray) -> None:
    """Draw one thing into the picture: a box, a disc, a bar or an odd shape, shaded and with an outline of shadow."""
    size = len(picture)
    center, extent = rng.uniform(0, size, 2), size * rng.uniform(0.03, 0.42) * rng.uniform(0.25, 1, 2)
    kind, angle = rng.integers(4), rng.choice([0.0, rng.uniform(0, np.pi)])
    count = (4, 24, 4, int(rng.integers(3, 9)))[kind]
    turn = np.linspace(0, 2 * np.pi, count, endpoint=False) + (np.pi / 4 if count == 4 else 0)
    radius = 1.0 if kind < 3 else rng.uniform(0.4, 1.2, count)
    outline = np.stack([np.cos(turn), np.sin(turn)], 1) * np.reshape(radius, (-1, 1)) * extent
    if kind == 2:
        outline[:, 1] *= 0.15
    c, s = np.cos(angle), np.sin(angle)
    outline = outline @ np.array([[c, s], [-s, c]]) + center
    soft = size * rng.uniform(0.01, 0.05)
    low = np.maximum(np.floor(outline.min(0) - 2 * soft), 0).astype(int)
    high = np.minimum(np.ceil(outline.max(0) + 2 * soft) + 1, size).astype(int)
    darkness, slope, stripes = 0.5 * rng.uniform(), rng.uniform(-1.2, 1.2), rng.uniform(-0.5, 0.5)
    rate, has_shadow, has_stripes = rng.uniform(10, 90), rng.uniform() < 0.5, rng.uniform() < 0.4
    fill = color(rng, 1.3)
    if (high - low).min() < 1:
        return
    patch = picture[low[1] : high[1], low[0] : high[0]]
    mask = np.zeros(patch.shape[:2], np.float32)
    cv2.fillPoly(mask, [np.round((outline - low) * 16).astype(np.int32)], 1.0, cv2.LINE_AA, 4)
    if has_shadow:
        patch *= 1 - darkness * cv2.GaussianBlur(mask, (0, 0), soft)[..., None]
    rows, columns = np.ogrid[: len(patch), : patch.shape[1]]
    x, y = (c * columns + s * rows) / size, (c * rows - s * columns) / size
    face = 1 + slope * x + (stripes * np.sin(y * rate) if has_stripes else 0)
    patch += mask[..., None] * (fill * np.clip(face, 0.1, 2)[..., None] - patch)


def _shelf(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Return the picture with rows of similar things: bottles, books, windows."""
    size = len(picture)
    height = int(size * rng.uniform(0.1, 0.35))
    top = int(rng.uniform(0, size - height))
    base = color(rng, 1.3)
    for row in range(int(rng.integers(1, 4))):
        y = top + row * int(1.15 * height)
        x = -int(rng.uniform(0, 0.02) * size)
        while x < size and y < size:
            width = int(size * rng.uniform(0.02, 0.09)) + 2
            left = max(x, 0)
            fill = base * rng.uniform(0.5, 1.5) if rng.uniform() < 0.6 else color(rng, 1.5)
            low = y + int(height * rng.uniform(0, 0.25))
            strip = 1 - 0.5 * np.linspace(-1, 1, width) ** 2
            patch = picture[low : y + height, left : x + width]
            if patch.size:
                patch[:] = fill * strip[None, left - x : left - x + patch.shape[1], None]
                label = patch[patch.shape[0] // 3 : patch.shape[0] // 2]
                label[:] = label * 0.3 + 0.7 * color(rng, 1.5)
            x += width + int(rng.integers(0, 4))
    return picture


def occlude(rng: np.random.Generator, light: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put something in front of a sixth of the images.

    Returns:
        The image (S, S, 3) and the covered pixels (S, S) bool, at most about a fifth of the image.
    """
    size = len(light)
    covered = np.zeros((size, size), np.uint8)
    if rng.uniform() < 0.16:
        front = draw(rng, size)
        for _ in range(rng.integers(1, 3)):
            center, angle = rng.uniform(0.05, 0.95, 2) * size, rng.uniform(0, 180)
            extent = size * rng.uniform((0.05, 0.02), (0.5, 0.10))
            if rng.uniform() < 0.5:
                corners = cv2.boxPoints((center.tolist(), (2 * extent).tolist(), angle))
                cv2.fillPoly(covered, [np.round(corners).astype(np.int32)], 1)
            else:
                axes = (int(extent[0] * 0.5) + 1, int(extent[1]) + 1)
                cv2.ellipse(covered, center.astype(int).tolist(), axes, angle, 0, 360, 1, -1)
        light = np.where(covered[..., None] > 0, front, light)
    return light, covered > 0
