"""Videos in, tracks out: sources, files, broken frames, recordings, and `jaxhand predict RUN clip.mp4`."""

import importlib.machinery
import json
import signal
import struct
import sys
import types
import zlib

import cv2
import numpy as np
import pytest

from jaxhand import predict
from jaxhand.config import UserError
from jaxhand.data.crop_rules import RULES
from jaxhand.hand.skeleton import BONES, FINGER_COLORS, WRIST_COLOR
from jaxhand.inference import loading, rerun_file
from jaxhand.inference.mediapipe_predictor import MediapipePredictor
from jaxhand.inference.video_files import open_source
from jaxhand.io import video_writer
from tests.support import mediapipe_files
from tests.support.moving_hands import SIZE, FakePipeline, crossing, frame_of, image_of

COUNT = 60


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A video of `COUNT` frames, by OpenCV alone."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    file = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, SIZE)
    for frame in range(COUNT):
        file.write(image_of(frame))
    file.release()
    return path


def large_png(side: int) -> bytes:
    """A PNG whose header says that it is a square of `side` px."""
    content = cv2.imencode(".png", image_of(0))[1].tobytes()
    header = b"IHDR" + struct.pack(">II", side, side) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


@pytest.fixture
def folder(tmp_path):
    """Ten frames, of which the fourth is broken and the sixth has too many pixels."""
    frames = tmp_path / "frames"
    frames.mkdir()
    for frame in range(10):
        (frames / f"{frame:03d}.png").write_bytes(cv2.imencode(".png", image_of(frame))[1].tobytes())
    (frames / "003.png").write_bytes(b"no image")
    (frames / "005.png").write_bytes(large_png(100_000))  # OpenCV would raise an error of its own
    return frames


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Call `predict` with a stand-in for the networks; the pipeline is its attribute."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["jaxhand predict", str(tmp_path / "run"), *map(str, words)])
        return predict.main()

    predictor = MediapipePredictor.__new__(MediapipePredictor)
    predictor.model, predictor.crop_rule = "mediapipe", RULES["square"]
    predictor.pipeline = call.pipeline = FakePipeline(crossing)
    monkeypatch.setattr(loading, "load", lambda workdir: predictor)
    return call


def test_sources(clip, folder):
    video = open_source(clip, None)
    frames = list(video)
    assert video.count == len(frames) == COUNT and video.fps == 25 and video.broken == 0
    assert [frame_of(frame.image) for frame in frames] == [frame.index for frame in frames]
    np.testing.assert_allclose([frame.seconds for frame in frames], np.arange(COUNT) / 25, atol=1e-3)
    images = open_source(folder, None, fps=10)
    assert [(frame.index, frame.seconds) for frame in images] == [(i, i / 10) for i in (0, 1, 2, 4, 6, 7, 8, 9)]
    assert images.count == 10 and images.broken == 2


def test_a_clip_that_is_cut_off(clip, tmp_path):
    """OpenCV does not open a file without its index; frames that are damaged inside the file are skipped."""
    cut, damaged = tmp_path / "cut.mp4", bytearray(clip.read_bytes())
    cut.write_bytes(damaged[: len(damaged) // 2])
    with pytest.raises(UserError, match="cut.mp4: not a video that OpenCV can read"):
        open_source(cut, None)
    start = damaged.index(b"mdat") + 400
    damaged[start : start + 3000] = bytes(3000)
    cut.write_bytes(damaged)
    source = open_source(cut, None)
    count = len(list(source))
    assert 0 < count <= COUNT and count + source.broken == COUNT


def test_tracks_of_a_clip(clip, run, tmp_path, capsys):
    assert run(clip, "--out", tmp_path / "out", "--focal", 300) == 0
    output = capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "out" / "tracks.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(COUNT))
    with np.load(tmp_path / "out" / "tracks.npz") as file:
        tracks = dict(file)
    rows = [(line["frame"], hand) for line in lines for hand in line["hands"]]
    assert f"{len(rows)} hands in {COUNT} frames, " in output and "; 2 tracks; " in output and "guess" not in output
    assert tracks["frame"].tolist() == [frame for frame, _ in rows] and len(rows) == 2 * COUNT
    assert tracks["track"].tolist() == [hand["track"] for _, hand in rows]
    assert tracks["bridged"].tolist() == [hand["bridged"] for _, hand in rows] and tracks["bridged"].any()
    assert tracks["is_right"].tolist() == [hand["hand"] == "right" for _, hand in rows]
    np.testing.assert_allclose(tracks["keypoints_3d"], [hand["joints_3d"] for _, hand in rows], atol=0.01)
    np.testing.assert_allclose(tracks["keypoints_2d"], [hand["joints_2d"] for _, hand in rows], atol=0.01)
    np.testing.assert_allclose(tracks["K"], [[300, 0, 159.5], [0, 300, 119.5], [0, 0, 1]])
    drawn = [frame.image for frame in open_source(tmp_path / "out" / "annotated.mp4", None)]
    assert len(drawn) == COUNT and drawn[0].shape == (SIZE[1], SIZE[0], 3)
    x, y = tracks["keypoints_2d"][0, 9].astype(int)
    assert drawn[0][y - 2 : y + 3, x - 2 : x + 3].max() > 100  # a joint on the dark image


def test_the_own_annotated_video_is_not_overwritten(clip, run, tmp_path):
    (tmp_path / "annotated.mp4").write_bytes(clip.read_bytes())
    with pytest.raises(UserError, match="annotated.mp4: would be overwritten"):
        run(tmp_path / "annotated.mp4", "--out", tmp_path)
    assert (tmp_path / "annotated.mp4").read_bytes() == clip.read_bytes()


def test_folder_of_frames_and_its_broken_ones(folder, run, tmp_path, capsys):
    assert run("--video", folder, "--out", tmp_path / "out", "--fps", 10, "--bridge", 0, "--min-cutoff", "inf") == 1
    output, errors = capsys.readouterr()
    assert "2 frames are broken and skipped" in errors and " in 8 frames; 2 tracks; " in output
    assert "the camera of the video is not known" in output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["annotated.mp4", "tracks.jsonl", "tracks.npz"]


def test_ctrl_c_leaves_complete_files(clip, run, tmp_path, monkeypatch, capsys):
    original = type(open_source(clip, None)).__iter__

    def until(self):
        for frame in original(self):
            if frame.index == 20:
                signal.raise_signal(signal.SIGINT)
            yield frame

    monkeypatch.setattr(type(open_source(clip, None)), "__iter__", until)
    assert run(clip, "--out", tmp_path) == 0
    with np.load(tmp_path / "tracks.npz") as file:
        assert set(file["frame"].tolist()) == set(range(21))
    assert " in 21 frames" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.mp4"], "nowhere.mp4: no such file"),
        (["{text}"], "text.mp4: not a video that OpenCV can read"),
        (["{clip}", "photo.jpg"], "one video at a time, and no images with it: also got photo.jpg"),
        (["{clip}", "{clip}"], "one video at a time"),
        (["{clip}", "--boxes", "boxes.json"], "--boxes is for images, not for a video"),
        (["{clip}", "--max-hands", "0"], "--max-hands must be 1 to 8, got 0"),
        (["{clip}", "--beta", "-1"], "--beta must be at least 0"),
        (["photo.jpg", "--bridge", "3"], "--bridge is for videos"),
        (["photo.jpg", "--rerun", "a.rrd"], "--rerun is for videos"),
        (["{clip}", "--rerun", "a.rdd"], "--rerun must end in .rrd, got a.rdd"),
        (["--camera", "97"], "camera 97: no such camera"),
        (["{clip}", "--fps", "inf"], "--fps must be between 0.01 and 1000, got inf"),  # OpenCV's writer would hang
    ],
)
def test_errors(words, message, clip, run, tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("not a video")
    with pytest.raises(UserError, match=message):
        run(*(word.format(clip=clip, text=text) for word in words))


def test_other_models_need_a_detector(clip, run, tmp_path, monkeypatch):
    class Other:
        model, crop_rule = "hamer", RULES["square"]

        def predict(self, photographs):
            center = photographs[0].boxes.reshape(2, 2).mean(0)
            joints = np.tile(np.append(center, 500), (1, 21, 1)) + np.arange(21)[:, None]
            return {"keypoints_2d": joints[..., :2], "keypoints_3d": joints, "is_right": np.array([False])}

    monkeypatch.setattr(loading, "load", lambda workdir: Other())
    with pytest.raises(UserError, match="the model hamer does not find hands in a video: add --detector mediapipe"):
        run(clip)
    assert run(clip, "--bbox", 20, 20, 120, 120, "--hand", "left", "--out", tmp_path) == 0
    with np.load(tmp_path / "tracks.npz") as file:
        assert len(file["frame"]) == COUNT and set(file["track"]) == {1} and not file["is_right"].any()


def test_meshes_of_a_model_that_has_them(clip, run, tmp_path, monkeypatch):
    """They are drawn into the video, and are in the recording of every frame, with the faces of the side."""
    corners, faces = 60 * np.eye(3) - 30, np.array([[[0, 1, 2]]])
    read = []

    class WithMesh:
        model, crop_rule = "hamer", RULES["square"]

        def predict(self, photographs):
            depth = 400 + 3 * len(read)
            joints = np.tile((0.0, 0.0, depth), (1, 21, 1)) + np.arange(21)[:, None]
            read.append(corners + (0, 0, depth))
            hands = {"keypoints_2d": joints[..., :2] + (160, 120), "keypoints_3d": joints, "is_right": np.array([True])}
            return hands | {"vertices": np.array([read[-1]]), "faces": faces}

    monkeypatch.setattr(loading, "load", lambda workdir: WithMesh())
    monkeypatch.setitem(sys.modules, "rerun", stub := StubRerun())
    words = ("--bbox", 20, 20, 120, 120, "--focal", 300, "--out", tmp_path, "--rerun", tmp_path / "a.rrd")
    assert run(clip, *words, "--min-cutoff", "inf") == 0
    meshes = [(frame, each) for frame, name, each in stub.logged if name == "hands/track_1/mesh"]
    assert [frame for frame, _ in meshes] == list(range(COUNT))
    np.testing.assert_allclose([mesh.vertex_positions for _, mesh in meshes], read)
    assert all((mesh.triangle_indices == faces[0]).all() for _, mesh in meshes)
    np.testing.assert_allclose(meshes[0][1].vertex_normals, np.full((3, 3), 3**-0.5))
    drawn = [frame.image for frame in open_source(tmp_path / "annotated.mp4", None)]
    assert len(drawn) == COUNT and (drawn[0][90:150, 130:190].max(-1) > 25).mean() > 0.1
    assert run(clip, *words) == 0
    smoothed = [each.vertex_positions for _, name, each in stub.logged if name == "hands/track_1/mesh"][COUNT:]
    lag = np.array(read[COUNT:]) - smoothed
    assert (lag[0] == 0).all() and 0 < lag[5:, :, 2].min() and lag[..., 2].max() < 15 and (lag[..., :2] == 0).all()


def test_without_pyav_a_line_says_so(clip, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(video_writer.importlib.util, "find_spec", lambda name: None)
    assert run(clip, "--out", tmp_path) == 0
    assert f"annotated.mp4 ({video_writer.NO_PYAV})" in capsys.readouterr().out
    assert len(list(open_source(tmp_path / "annotated.mp4", None))) == COUNT


def test_without_rerun_a_line_says_so(clip, run, tmp_path, monkeypatch):
    monkeypatch.setattr(rerun_file.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'--rerun needs rerun-sdk: pip install "jaxhand\[rerun\]"$'):
        run(clip, "--rerun", tmp_path / "a.rrd")
    assert not (tmp_path / "run").exists() and not (tmp_path / "a.rrd").exists()


class StubRerun(types.ModuleType):
    """A stand-in for rerun: a call of anything returns it as an object; the one recording keeps what is logged."""

    def __init__(self):
        super().__init__("rerun")
        self.__spec__ = importlib.machinery.ModuleSpec("rerun", None)
        self.RecordingStream = lambda name: self
        self.blueprint = self.ViewCoordinates = types.SimpleNamespace(
            **dict.fromkeys(("Horizontal", "Spatial2DView", "Spatial3DView", "Blueprint"), lambda *_, **__: None), RDF=0
        )
        self.logged, self.now, self.closed = [], {}, False

    def __getattr__(self, name):
        return lambda *words, **options: types.SimpleNamespace(kind=name, words=words, **options)

    def Image(self, image):
        return types.SimpleNamespace(compress=lambda jpeg_quality: types.SimpleNamespace(kind="Image", words=[image]))

    def save(self, path, blueprint):
        self.path = path

    def set_time(self, timeline, **value):
        self.now[timeline] = value

    def log(self, entity, content, static=False):
        self.logged.append((None if static else self.now["frame"]["sequence"], entity, content))

    def disconnect(self):
        self.closed = True


def test_what_a_recording_holds(clip, run, tmp_path, monkeypatch, capsys):
    """The same joints as tracks.npz; a hand whose track has ended is cleared."""
    stub = StubRerun()
    monkeypatch.setitem(sys.modules, "rerun", stub)
    run.pipeline.hands = lambda frame: crossing(frame)[: 2 if frame < 30 else 1]
    words = ("--focal", 300, "--bridge", 0)
    assert run(clip, "--out", tmp_path / "out", "--rerun", tmp_path / "new" / "a.rrd", *words) == 0
    assert capsys.readouterr().out.endswith(f"  -> {tmp_path / 'new' / 'a.rrd'}\n")
    assert stub.closed and stub.path == tmp_path / "new" / "a.rrd"
    logged = {(frame, entity, content.kind): content for frame, entity, content in stub.logged if content}
    camera = logged[None, "camera", "Pinhole"]
    assert camera.resolution == SIZE
    np.testing.assert_array_equal(camera.image_from_camera, [[300, 0, 160], [0, 300, 120], [0, 0, 1]])
    (hands,) = logged[None, "/", "AnnotationContext"].words
    assert [hand.info.words[1] for hand in hands] == ["right", "left"]
    assert all(hand.keypoint_connections == BONES for hand in hands)
    assert hands[1].keypoint_annotations[8].words == (8, "index4", FINGER_COLORS[1])
    assert hands[0].keypoint_annotations[0].words == (0, "wrist", WRIST_COLOR)
    assert [frame_of(logged[i, "camera/image", "Image"].words[0]) for i in range(COUNT)] == list(range(COUNT))
    with np.load(tmp_path / "out" / "tracks.npz") as file:
        tracks = dict(file)
    for row, (frame, track) in enumerate(zip(tracks["frame"], tracks["track"])):
        flat, solid = (
            logged.pop((frame, f"{folder}/track_{track}", kind))
            for folder, kind in (("camera/hands", "Points2D"), ("hands", "Points3D"))
        )
        np.testing.assert_allclose(flat.words[0], tracks["keypoints_2d"][row] + 0.5, rtol=1e-6)
        np.testing.assert_allclose(solid.words[0], tracks["keypoints_3d"][row], rtol=1e-6)
        assert flat.class_ids == solid.class_ids == (0 if tracks["is_right"][row] else 1)
        assert list(flat.keypoint_ids) == list(solid.keypoint_ids) == list(range(21))
    assert not any(kind.startswith("Points") for _, _, kind in logged)
    ended = max(tracks["track"], key=lambda track: -tracks["frame"][tracks["track"] == track].max())
    last = tracks["frame"][tracks["track"] == ended].max()
    assert last < COUNT - 1 and all(
        (last + 1, f"{name}/track_{ended}", "Clear") in logged for name in ("camera/hands", "hands")
    )


def test_a_recording_of_rerun_itself(clip, run, tmp_path):
    """Read back: Rerun reports most errors as warnings only."""
    pytest.importorskip("rerun", reason="needs requirements-rerun.txt")
    chunks = pytest.importorskip("rerun.chunk", reason="needs a version that reads recordings")
    path = tmp_path / "a.rrd"
    assert run(clip, "--out", tmp_path / "out", "--rerun", path, "--focal", 300) == 0
    columns = {}
    for chunk in chunks.RrdReader(path).stream().to_chunks():
        batch = chunk.to_record_batch()
        for name, column in zip(batch.schema.names, batch.columns):
            values = column.to_numpy(zero_copy_only=False) if "time" in name else column.to_pylist()  # times are in ns
            columns.setdefault((chunk.entity_path, name), []).extend(values)
    assert sorted(columns["/camera/image", "frame"]) == list(range(COUNT))
    times = np.array(columns["/camera/image", "time"]) / np.timedelta64(1, "s")
    np.testing.assert_allclose(times, np.array(columns["/camera/image", "frame"]) / 25, atol=1e-3)
    jpeg = np.array(columns["/camera/image", "EncodedImage:blob"][0][0], np.uint8)
    assert frame_of(cv2.imdecode(jpeg, cv2.IMREAD_COLOR_RGB)) == columns["/camera/image", "frame"][0]
    assert ("/", "AnnotationContext:context") in columns and ("/camera", "Pinhole:image_from_camera") in columns
    with np.load(tmp_path / "out" / "tracks.npz") as file:
        first = file["track"] == 1
        frames, joints, pixels = file["frame"][first], file["keypoints_3d"][first], file["keypoints_2d"][first]
    for entity, name, expected in (("/hands", "Points3D", joints), ("/camera/hands", "Points2D", pixels + 0.5)):
        rows = dict(zip(columns[f"{entity}/track_1", "frame"], columns[f"{entity}/track_1", f"{name}:positions"]))
        np.testing.assert_allclose([rows[frame] for frame in frames], expected, rtol=1e-5)
    (tmp_path / "b.rrd").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*\.rrd: Is a directory"):
        rerun_file.RerunFile(tmp_path / "b.rrd", SIZE, np.eye(3))


def test_mediapipe_follows_a_hand(tmp_path_factory, shared, tmp_path, monkeypatch):
    """The converted networks on a photograph that moves: one detection, one track."""
    workdir = mediapipe_files.convert_run(tmp_path_factory.mktemp("converted") / "run")
    label = json.loads((shared / "real" / "hand_photos" / "test.jsonl").read_text().splitlines()[0])
    photograph = cv2.imread(str(shared / "real" / "hand_photos" / label["image"]))
    frames = tmp_path / "frames"
    frames.mkdir()
    for frame in range(8):
        cv2.imwrite(str(frames / f"{frame}.png"), np.roll(photograph, 2 * frame, axis=1))
    monkeypatch.setattr(sys, "argv", ["predict", str(workdir), "--video", str(frames), "--out", str(tmp_path / "out")])
    assert predict.main() == 0
    with np.load(tmp_path / "out" / "tracks.npz") as file:
        assert len(file["frame"]) == 8 and set(file["track"]) == {1} and len(set(file["is_right"])) == 1
        moved = file["raw_2d"][-1].mean(0) - file["raw_2d"][0].mean(0)
    np.testing.assert_allclose(moved, [14, 0], atol=2.5)
