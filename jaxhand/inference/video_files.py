"""Videos, folders of frames and cameras as a stream of frames."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from jaxhand.config import UserError
from jaxhand.data.images.encoded import EncodedImage
from jaxhand.inference.image_files import image_paths

FPS = 30.0  # of a folder of frames, or where a file or a camera does not state it
PATIENCE = 100  # broken frames in a row after which a file without a known length has ended


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
            try:
                image = EncodedImage.read(path).pixels
            except UserError:
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


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
