"""The files of a video's tracks: the annotated video, its labels, and what a writer may replace."""

import types

import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.inference.smoothing import TrackedHand
from jaxhand.inference.video import TrackWriter, annotated
from jaxhand.inference.video_files import VideoFrame
from jaxhand.io import video_writer
from tests.support.moving_hands import image_of


def test_h264(tmp_path):
    """Odd sides and times that are not regular."""
    av = pytest.importorskip("av", reason="needs requirements-video.txt")
    path, times = tmp_path / "clip.mp4", [0.0, 0.04, 0.1, 0.12]
    writer = video_writer.open_writer(path, (65, 63), 25)
    for seconds in times:
        writer.add(np.full((63, 65, 3), 90, np.uint8), seconds)
    writer.close()
    with av.open(str(path)) as file:
        assert file.streams.video[0].codec_context.name == "h264"
        frames = list(file.decode(video=0))
    assert [(frame.width, frame.height) for frame in frames] == [(66, 64)] * 4
    np.testing.assert_allclose([frame.time - frames[0].time for frame in frames], times, atol=1e-3)


def test_labels_of_hands_in_a_picture():
    """The number and the side stand below the wrist, white on black, and grey where the hand is not seen."""
    far = np.full((21, 2), np.nan)
    far[0] = 400, 700  # only the wrist
    found = {}
    for bridged in (False, True):
        hand = TrackedHand(12, not bridged, 0.9, bridged, far, np.zeros((21, 3)), far, np.zeros((21, 3)))
        drawn = annotated(np.full((900, 1200, 3), 60, np.uint8), [hand], np.eye(3))
        changed = (drawn != 60).any(-1)
        changed[690:711, 390:411] = False  # the wrist itself
        rows, columns = np.nonzero(changed)
        found[bridged] = drawn[changed]
        assert 710 <= rows.min() <= 720 and 735 <= rows.max() <= 747 and 375 <= columns.min() <= 385
        assert 465 <= columns.max() <= 495
    assert found[False].max() == 255 and found[True].max() == 160
    assert 0.2 < (found[False] < 30).all(-1).mean() < 0.8  # the dark edge
    unknown = np.full((21, 2), np.nan)
    hand = TrackedHand(1, True, 0.9, False, unknown, np.zeros((21, 3)), unknown, np.zeros((21, 3)))
    assert (annotated(np.zeros((90, 120, 3), np.uint8), [hand], np.eye(3))[:30, :40] > 0).any()  # at the corner


@pytest.mark.parametrize("name", ["annotated.mp4", "tracks.jsonl", "tracks.npz"])
def test_only_own_tracks_are_replaced(tmp_path, name):
    frame, source = VideoFrame(0, 0.0, image_of(0)), types.SimpleNamespace(fps=25.0)
    for _ in range(2):
        with TrackWriter(tmp_path / "own", source, np.eye(3)) as writer:
            writer.add(frame, [])
    (tmp_path / name).write_text("of the user")
    with pytest.raises(UserError, match=f"{name}: exists, was not written by this command"):
        TrackWriter(tmp_path, source, np.eye(3))
    assert (tmp_path / name).read_text() == "of the user"


def test_times_of_a_summary(tmp_path):
    source = types.SimpleNamespace(fps=25.0)
    with TrackWriter(tmp_path, source, np.eye(3)) as writer:
        assert writer.summary(2.0).startswith("0 hands in 0 frames; 0 tracks; 0.0 frames/s\n")
        writer.frames, writer.hands, writer.bridged = 50, 70, 3
        assert writer.summary(4.0).startswith("70 hands in 50 frames, 3 of them bridged; 0 tracks; 12.5 frames/s\n")
        assert "frames/s" in writer.summary(0.0)
        writer.frames = writer.hands = 0
