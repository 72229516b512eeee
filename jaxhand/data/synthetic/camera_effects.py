"""What a camera does to the light of a scene: blur, motion, exposure, colour cast, noise, sharpening, JPEG.

No effect moves the hand: blurs are symmetric, so the 2D labels stay right.
"""

import cv2
import numpy as np


def develop(rng: np.random.Generator, light: np.ndarray) -> np.ndarray:
    """Turn linear light (S, S, 3) float32 into a photograph (S, S, 3) uint8.

    Args:
        rng: random numbers; each photograph takes the same count of them.
        light: 1.0 is white.
    """
    size = len(light)
    amount = rng.uniform(size=16)
    light = cv2.GaussianBlur(light, (0, 0), 0.5 + 0.9 * amount[0] ** 4 * size / 224)
    if amount[1] < 0.15:
        light = _moved(light, amount[2] * np.pi, (2 + 9 * amount[3]) * size / 224)
    grey = light.mean()
    light = light * (np.exp(-1.5 + 0.9 * (amount[4] - 0.5)) / (grey + 0.05)) ** (0.55)  # automatic exposure, in part
    warm, green = 0.11 * rng.normal(), 0.035 * rng.normal()
    light = light * np.exp(np.array([warm, green, -warm], np.float32))
    if amount[5] < 0.3:
        light = light * _vignette(size, amount[6])
    if amount[7] < 0.25:  # small sensors, far hands: fewer pixels
        small = max(32, int(size * (0.35 + 0.5 * amount[8])))
        light = cv2.resize(cv2.resize(light, (small, small), interpolation=cv2.INTER_AREA), (size, size))
    light = _noisy(rng, light, amount[9] ** 2)
    shown = np.clip(light, 0, 1.6)
    shown = (shown / (1 + 0.18 * shown**2)) ** (1 / 2.2)  # highlights roll off
    contrast, saturation = 1 + 0.35 * (amount[10] - 0.4), 1 + 0.5 * (amount[11] - 0.5)
    luma = shown @ np.array([0.299, 0.587, 0.114], np.float32)
    shown = luma[..., None] + saturation * (shown - luma[..., None])
    shown = 0.45 + contrast * (shown - 0.45)
    if amount[12] < 0.45:  # sharpening, with its bright and dark seams
        shown = shown + (0.3 + 0.9 * amount[13]) * (shown - cv2.GaussianBlur(shown, (0, 0), 1.0))
    return compressed(quantised(shown), int(30 + 66 * amount[14] ** 0.6))


def perfect(rng: np.random.Generator, light: np.ndarray) -> np.ndarray:
    """As `develop`, by a camera without any fault; no random number is used."""
    return quantised(np.clip(light, 0, 1) ** (1 / 2.2))


def quantised(shown: np.ndarray) -> np.ndarray:
    """Return values of 0 to 1 as uint8."""
    return (np.clip(shown, 0, 1) * 255 + 0.5).astype(np.uint8)


def compressed(image: np.ndarray, quality: int) -> np.ndarray:
    """Return an image (H, W, 3) uint8 after JPEG of a quality of 1 to 100."""
    encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None  # it was just encoded
    return np.ascontiguousarray(decoded[..., ::-1])


def _moved(light: np.ndarray, angle: float, length: float) -> np.ndarray:
    """Blur along a line of `length` px."""
    reach = int(np.ceil(length / 2)) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    step = np.array([np.cos(angle), np.sin(angle)]) * length / 2
    start, end = (np.round((reach + sign * step) * 16).astype(int).tolist() for sign in (-1, 1))
    cv2.line(kernel, start, end, (1.0,), 1, cv2.LINE_AA, 4)
    kernel = kernel + kernel[::-1, ::-1]  # symmetric: the middle does not move
    return cv2.filter2D(light, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)


def _vignette(size: int, amount: float) -> np.ndarray:
    place = np.linspace(-1, 1, size, dtype=np.float32) ** 2
    return (1 - 0.35 * amount * (place[:, None] + place) / 2)[..., None]


def _noisy(rng: np.random.Generator, light: np.ndarray, amount: float) -> np.ndarray:
    """Add the noise of photons and electronics; a camera smooths a part of it, which leaves it blotchy."""
    grain = rng.standard_normal(light.shape, np.float32)
    grain = 0.5 * grain + cv2.GaussianBlur(grain, (0, 0), 1.1) * 1.6
    return light + amount * grain * np.sqrt(0.0012 * np.clip(light, 0, 1) + 0.0001)
