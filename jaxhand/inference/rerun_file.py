"""The frames and hands of a video as a recording for the Rerun viewer (rerun.io): `jaxhand predict … --rerun FILE`."""

import importlib.util
from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.hand.draw import MESH_COLOR, vertex_normals
from jaxhand.hand.skeleton import BONES, FINGER_COLORS, FINGER_OF_JOINT, JOINT_NAMES, SIDES, WRIST_COLOR
from jaxhand.inference.smoothing import TrackedHand
from jaxhand.inference.video_files import VideoFrame
from jaxhand.io import output_files

JPEG_QUALITY = 85
_COLORS = [WRIST_COLOR if finger < 0 else FINGER_COLORS[finger] for finger in FINGER_OF_JOINT]  # of the 21 joints


def check_installed() -> None:
    """Check that recordings can be written.

    Raises:
        UserError: rerun-sdk is not installed.
    """
    if importlib.util.find_spec("rerun") is None:
        raise UserError('--rerun needs rerun-sdk: pip install "jaxhand[rerun]"')


class RerunFile:
    """Writes a recording, frame by frame. Use it as a context manager.

    The recording has the timelines `frame` and `time`, and these entities:
        camera: the pinhole camera, at the origin; x right, y down, z forward, mm.
        camera/image: the frame, as JPEG.
        camera/hands/track_1, ...: the 21 joints of a hand, px.
        hands/track_1, ...: the 21 joints of a hand, mm in the camera's frame.
        hands/track_1/mesh, ...: its mesh, where the model has one.

    Args:
        path: the file; its folder is created if it does not exist.
        size: (width, height) px of the frames.
        K: (3, 3) px.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, path: Path, size: tuple[int, int], K: np.ndarray):
        import rerun  # pyright: ignore[reportMissingImports]  # optional

        self._rerun, self._shown = rerun, set[int]()  # the tracks of the frame before
        views = rerun.blueprint.Horizontal(
            rerun.blueprint.Spatial2DView(origin="camera", name="2D"),
            rerun.blueprint.Spatial3DView(origin="/", contents=["+ /**", "- /camera/hands/**"], name="3D"),
        )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if kept := output_files.keep_aside(path):
                print(f"{path} exists: it is now {kept}")
            with open(path, "wb"):  # Rerun's own error does not name the reason
                self._recording = rerun.RecordingStream("jaxhand")
            self._recording.save(path, rerun.blueprint.Blueprint(views))
        except (OSError, RuntimeError) as error:
            raise UserError(f"cannot write {path}: {getattr(error, 'strerror', error)}") from error
        camera = np.array(K, np.float64)
        camera[:2, 2] += 0.5  # Rerun counts px from the corner of the image, K from the centre of its first pixel
        self._recording.log("/", rerun.ViewCoordinates.RDF, static=True)
        self._recording.log(
            "/", rerun.AnnotationContext([self._hand(number) for number in range(len(SIDES))]), static=True
        )
        self._recording.log("camera", rerun.Pinhole(image_from_camera=camera, resolution=size), static=True)

    def __enter__(self) -> "RerunFile":
        return self

    def __exit__(self, *_) -> None:
        self._recording.disconnect()  # completes the file

    def add(self, frame: VideoFrame, hands: list[TrackedHand]) -> None:
        """Write one frame."""
        self._recording.set_time("frame", sequence=frame.index)
        self._recording.set_time("time", duration=frame.seconds)
        self._recording.log("camera/image", self._rerun.Image(frame.image).compress(jpeg_quality=JPEG_QUALITY))
        for hand in hands:
            ids = {"class_ids": SIDES.index("right" if hand.is_right else "left"), "keypoint_ids": range(21)}
            self._recording.log(
                f"camera/hands/track_{hand.track}", self._rerun.Points2D(hand.keypoints_2d + 0.5, **ids)
            )
            self._recording.log(f"hands/track_{hand.track}", self._rerun.Points3D(hand.keypoints_3d, **ids))
            if hand.vertices is not None and hand.faces is not None:
                mesh = self._rerun.Mesh3D(
                    vertex_positions=hand.vertices,
                    triangle_indices=hand.faces,
                    vertex_normals=vertex_normals(hand.vertices, hand.faces),
                    albedo_factor=MESH_COLOR,
                )
                self._recording.log(f"hands/track_{hand.track}/mesh", mesh)
        shown = {hand.track for hand in hands}
        for track in self._shown - shown:  # the viewer would show its last joints in all later frames
            self._recording.log(f"camera/hands/track_{track}", self._rerun.Clear(recursive=False))
            self._recording.log(f"hands/track_{track}", self._rerun.Clear(recursive=True))
        self._shown = shown

    def _hand(self, number: int) -> object:
        """The names and colours of the joints, and the bones, of hands of side `number`."""
        info = self._rerun.AnnotationInfo
        return self._rerun.ClassDescription(
            info=info(number, SIDES[number], WRIST_COLOR),
            keypoint_annotations=[info(i, name, color) for i, (name, color) in enumerate(zip(JOINT_NAMES, _COLORS))],
            keypoint_connections=BONES,
        )
