"""Video files that frames are appended to: H.264 by PyAV, or without it MPEG-4 by OpenCV."""

import fractions
import importlib.util
import typing
from pathlib import Path

import cv2
import numpy as np

from jaxhand.config import UserError

TICKS = 90_000  # units of time per second in the file
NO_PYAV = 'browsers do not play this file; for H.264: pip install "jaxhand[video]"'


class Writer(typing.Protocol):
    """A video file that frames are appended to; `note` is what the user has to know about it, or ""."""

    note: str

    def add(self, image: np.ndarray, seconds: float) -> None:
        """Append an image (H, W, 3) uint8 RGB at a time later than that of the image before."""
        ...

    def close(self) -> None:
        """Complete the file."""
        ...


def open_writer(path: Path, size: tuple[int, int], fps: float) -> Writer:
    """A new video file of `size` = (width, height) px: H.264 by PyAV, or without it MPEG-4 by OpenCV.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        return (_CvWriter if importlib.util.find_spec("av") is None else _AvWriter)(path, size, fps)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


class _AvWriter:
    """H.264 in an MP4 file, which browsers play. Each frame keeps its time."""

    note = ""

    def __init__(self, path: Path, size: tuple[int, int], fps: float):
        import av  # pyright: ignore[reportMissingImports]  # optional

        self._av, self._file = av, av.open(str(path), "w", options={"movflags": "faststart"})
        rate = fractions.Fraction(fps).limit_denominator(1001)
        self._stream = self._file.add_stream("libx264", rate=rate, options={"preset": "veryfast", "crf": "21"})
        self._stream.width, self._stream.height = (side + side % 2 for side in size)  # 4:2:0 needs even sides
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = fractions.Fraction(1, TICKS)
        self._start = None

    def add(self, image: np.ndarray, seconds: float) -> None:
        self._start = seconds if self._start is None else self._start
        height, width = image.shape[:2]
        if height % 2 or width % 2:
            image = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        frame = self._av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = round((seconds - self._start) * TICKS), fractions.Fraction(1, TICKS)
        self._file.mux(self._stream.encode(frame))

    def close(self) -> None:
        self._file.mux(self._stream.encode(None))
        self._file.close()


class _CvWriter:
    """MPEG-4 in an MP4 file, at a constant rate."""

    note = NO_PYAV

    def __init__(self, path: Path, size: tuple[int, int], fps: float):
        self._file = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
        if not self._file.isOpened():
            raise UserError(f"cannot write {path}")

    def add(self, image: np.ndarray, seconds: float) -> None:
        self._file.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        self._file.release()
