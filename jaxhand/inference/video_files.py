"""Videos, folders of frames and cameras as a stream of frames; and files for the annotated frames."""

import dataclasses
import fractions
import importlib.util
import typing
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from jaxhand.config import UserError
from jaxhand.inference.image_files import image_paths

FPS = 30.0  # of a folder of frames, or where a file or a camera does not state it
PATIENCE = 100  # broken frames in a row after which a file without a known length has ended
TICKS = 90_000  # units of time per second in the written file
NO_PYAV = 'browsers do not play this file; for H.264: pip install "jaxhand[video]"'


@dataclasses.dataclass(frozen=True)
class VideoFrame:
    """One frame.

    Attributes:
        index: its number in the video, from 0; broken frames count.
        seconds: its time.
        image: (H, W, 3) uint8 RGB.
    """

    index: int
    seconds: float
    image: np.ndarray


class Source:
    """A stream of frames. Iterate over it once.

    Attributes:
        count: number of frames, or None where it is not known.
        fps: frames per second.
        broken: number of frames so far that could not be read, and are skipped.
    """

    count: int | None = None
    fps: float = FPS
    broken: int = 0

    def __iter__(self) -> Iterator[VideoFrame]:
        raise NotImplementedError


def open_source(video: Path | None, camera: int | None, fps: float | None = None) -> Source:
    """Open a video.

    Args:
        video: a video file or a folder of frames.
        camera: number of a camera, where `video` is None.
        fps: frames per second of a folder; None: 30.

    Raises:
        UserError: there is no such file or camera, or it is not a video.
    """
    if video is None:
        return CaptureSource(camera or 0)
    if video.is_dir():
        return FolderSource(video, fps or FPS)
    if not video.exists():
        raise UserError(f"{video}: no such file")
    return CaptureSource(video)


class FolderSource(Source):
    """The images of a folder, sorted by name."""

    def __init__(self, folder: Path, fps: float):
        self._paths, self.fps = image_paths([folder]), fps
        self.count = len(self._paths)

    def __iter__(self) -> Iterator[VideoFrame]:
        size = None
        for index, path in enumerate(self._paths):
            image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB) if path.stat().st_size else None
            if image is None:
                self.broken += 1
                continue
            size = size or image.shape
            if image.shape != size:
                raise UserError(f"{path}: a frame of {_size(image.shape)} px in a video of {_size(size)} px")
            yield VideoFrame(index, index / self.fps, image)


class CaptureSource(Source):
    """A video file or a camera, read by OpenCV."""

    def __init__(self, what: Path | int):
        self._capture = cv2.VideoCapture(what if isinstance(what, int) else str(what))
        self._name = f"camera {what}" if isinstance(what, int) else str(what)
        if not self._capture.isOpened():
            reason = "no such camera, or it is in use" if isinstance(what, int) else "not a video that OpenCV can read"
            raise UserError(f"{self._name}: {reason}")
        fps, count = (self._capture.get(key) for key in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
        self.fps = fps if 0 < fps < 1000 else FPS
        self.count = int(count) if count > 0 and not isinstance(what, int) else None

    def __iter__(self) -> Iterator[VideoFrame]:
        index, seconds, failures = 0, -1.0, 0
        try:
            while failures < (PATIENCE if self.count else 1) and not (self.count and index >= self.count):
                ok, image = self._capture.read()
                if ok and image is not None:
                    self.broken += failures
                    failures = 0
                    stated = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                    seconds = stated if stated > seconds else seconds + 1 / self.fps
                    yield VideoFrame(index, seconds, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
                else:
                    failures += 1
                index += 1
            self.broken += failures if self.count else 0
        finally:
            self._capture.release()


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
        import av

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


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
