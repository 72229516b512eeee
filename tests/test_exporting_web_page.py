"""The web page: its files, and in headless Chromium the same hands as `predict` finds."""

import functools
import http.server
import json
import os
import shutil
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from jaxhand import export, load, predict
from jaxhand.config import UserError
from jaxhand.data.images.encoded import read_image
from jaxhand.data.synthetic import dataset
from jaxhand.exporting import page_files, web_page
from tests.support import mediapipe_files, page

pytestmark = pytest.mark.timeout(900)
SETTINGS = {"title": "a <b> & c", "about": "</script>", "joint_names": ["wrist"]}
NETWORKS = {"palm": b"palm", "hand": b"hand"}


@pytest.fixture
def built(tmp_path, monkeypatch):
    """A built page, with the real HTML and little else."""
    folder = tmp_path / "dist"
    folder.mkdir()
    shutil.copy(page.WEB / "index.html", folder)
    files = {"main.js": "const a = '</script><!--';", "style.css": "p {}", "libraries.txt": "a 1.0 (MIT)\n"}
    for name, text in (files | dict.fromkeys(page_files.RUNTIMES, "wasm")).items():
        (folder / name).write_text(text)
    monkeypatch.setattr(page_files, "BUILD", folder)
    return folder


def test_one_file_holds_all(built, tmp_path):
    page_files.write_file(tmp_path / "new" / "page.html", SETTINGS, NETWORKS)
    text = (tmp_path / "new" / "page.html").read_text()
    assert "{{" not in text and "<title>a &lt;b&gt; &amp; c" in text
    assert text.count("</script>") == 2 + len(NETWORKS) + len(page_files.RUNTIMES)  # settings, code, embedded files
    assert "connect-src 'none'" in text and "src=" not in text and 'href="data:,' in text
    start = text.index('id="settings">') + len('id="settings">')
    assert json.loads(text[start : text.index("</script>", start)]) == SETTINGS


def test_a_folder_for_a_server(built, tmp_path):
    page_files.write_folder(tmp_path / "page", SETTINGS, NETWORKS)
    names = {"index.html", "main.js", "style.css", "palm.onnx.gz", "hand.onnx.gz", *page_files.RUNTIMES}
    assert {path.name for path in (tmp_path / "page").iterdir()} == names
    text = (tmp_path / "page" / "index.html").read_text()
    assert "{{" not in text and "connect-src 'self'" in text and "'unsafe-inline'" not in text


def test_only_own_pages_are_replaced(built, tmp_path):
    page_files.write_file(tmp_path / "page.html", SETTINGS, NETWORKS)
    page_files.write_folder(tmp_path / "page", SETTINGS, NETWORKS)
    page_files.check_own(tmp_path / "page.html", folder=False)
    page_files.check_own(tmp_path / "page", folder=True)
    for name in ("index.html", "main.js", "hand.onnx.gz"):
        (tmp_path / name).write_text("of the user")
        with pytest.raises(UserError, match=f"{name}: exists, was not written by this command"):
            web_page.export(tmp_path, tmp_path, folder=True)
        (tmp_path / name).unlink()
    (tmp_path / "page.html").write_text("of the user")
    with pytest.raises(UserError, match="page.html: exists, was not written by this command"):
        web_page.export(tmp_path, tmp_path / "page.html")


def test_errors_name_the_fix(built, tmp_path):
    with pytest.raises(UserError, match=r"name it .*page\.html, or add --folder"):
        web_page.export(tmp_path, tmp_path / "page")
    with pytest.raises(UserError, match="has no networks that find the hands .*--detector"):
        web_page.export(tmp_path, tmp_path / "page.html", detector=tmp_path / "nowhere")
    (built / "libraries.txt").unlink()
    with pytest.raises(UserError, match="not built: run `make web`"):
        web_page.export(tmp_path, tmp_path / "page.html")


def test_the_command_needs_web(call):
    code, _, errors = call(export.main, "run", "page", "--folder")
    assert code == 2 and "--folder and --detector need --web" in errors


@pytest.fixture(scope="module")
def packages():
    """Skips where the page or the packages of the ONNX export are missing."""
    pytest.importorskip("onnx", reason="needs onnx")
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    page.node()
    if not (page_files.BUILD / "main.js").is_file():
        pytest.skip("the page is not built: make web")


@pytest.fixture(scope="module")
def run(packages, tmp_path_factory):
    return mediapipe_files.convert_run(tmp_path_factory.mktemp("converted") / "run")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[Path]:
    """Real photographs of one hand, in several sizes, where they are; one with two hands; else rendered ones."""
    root = Path(os.environ.get("JAXHAND_SHARED") or Path(__file__).parents[2] / "shared") / "real"
    folder = tmp_path_factory.mktemp("images")
    paths = sorted(root.glob("hand_photos/images/0032[0-2].jpg")) + sorted(root.glob("freihand/*.jpg"))[::2]
    paths += sorted(root.glob("rhd/*.png"))[1:] + sorted(root.glob("interhand2.6m/*.jpg"))[1:3]
    if not paths:
        hands = dataset.load("test", 6, size=320, seed=0, progress=lambda line: None)
        for number in range(6):
            cv2.imwrite(str(folder / f"{number}.png"), hands[number].image[..., ::-1])
        paths = sorted(folder.iterdir())
    first = cv2.resize(cv2.imread(str(paths[0])), (512, 512), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(folder / "both.jpg"), np.hstack([first, first[:, ::-1]]))
    return [folder / "both.jpg", *paths]


@pytest.fixture(scope="module")
def one_file(run, tmp_path_factory) -> Path:
    """The page of MediaPipe's networks."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    web_page.export(run, path, say=lambda line: None)
    return path


@pytest.fixture(scope="module")
def predictor(run):
    return load(run)


@pytest.fixture
def served(tmp_path):
    """Serve a folder from a thread; returns its address."""
    servers = []

    def serve(folder: Path) -> str:
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/"

    yield serve
    for server in servers:
        server.shutdown()


def by_image(joints: dict) -> dict[str, list[dict]]:
    """The hands of a joints.json by the name of their image."""
    found = {}
    for hand in joints["hands"]:
        found.setdefault(Path(hand["image"]).name, []).append(hand)
    return found


@pytest.mark.slow
def test_one_file_finds_the_hands_that_predict_finds(run, one_file, images, tmp_path, call):
    code, _, errors = call(predict.main, run, *images, "--out", tmp_path / "out")
    assert code == 0, errors
    mine = json.loads((tmp_path / "out" / "joints.json").read_text())
    address = f"file://{one_file}"
    found = page.browse(url=address, photographs=images)
    assert found["errors"] == [] and found["requests"] == [address]
    theirs = found["joints"]
    assert {key: mine[key] for key in ("joint_names", "units")} == {
        key: theirs[key] for key in ("joint_names", "units")
    }
    mine, theirs = by_image(mine), by_image(theirs)
    assert mine.keys() == theirs.keys() and len(mine["both.jpg"]) == 2 and len(mine) > 0.8 * len(images)
    for name in mine:
        assert len(mine[name]) == len(theirs[name])
        for first, second in zip(mine[name], theirs[name]):
            assert first.keys() == second.keys()
            assert (first["hand"], first["K"], first["overlay"]) == (second["hand"], second["K"], second["overlay"])
            np.testing.assert_allclose(second["joints_2d"], first["joints_2d"], atol=0.5)
            np.testing.assert_allclose(second["joints_3d"], first["joints_3d"], atol=2)
            np.testing.assert_allclose(second["score"], first["score"], atol=0.01)


@pytest.mark.slow
def test_the_network_of_another_run_reads_the_hands(run, predictor, trained, images, tmp_path, served, call):
    """Boxes differ by some 0.01 px, at which an untrained network may jump: it is compared in equal boxes."""
    where = (trained.workdir, tmp_path / "page", "--web", "--folder", "--detector", run)
    code, output, errors = call(export.main, *where)
    assert code == 0 and "serve it" in output, errors
    address = served(tmp_path / "page")
    found = page.browse(url=address, photographs=images)
    assert found["errors"] == [] and all(request.startswith(address) for request in found["requests"])
    assert not any("ort-webgpu" in request for request in found["requests"])
    hands = found["joints"]["hands"]
    boxes = predictor(images, names=[path.name for path in images])
    assert len(hands) == len(boxes["boxes"]) and {"right", "left"} == {hand["hand"] for hand in hands}
    own, theirs = load(trained.workdir), by_image(found["joints"])
    for number, path in enumerate(images):
        hands = theirs.get(path.name, [])
        given = np.reshape([hand["bbox"] for hand in hands], (-1, 4))
        np.testing.assert_allclose(given, boxes["boxes"][boxes["image"] == number], atol=0.5)
        mine = own(read_image(path), given, [hand["hand"] for hand in hands])
        for row, hand in enumerate(hands):
            np.testing.assert_allclose(hand["joints_2d"], mine["keypoints_2d"][row], atol=0.5)
            np.testing.assert_allclose(hand["joints_3d"], mine["keypoints_3d"][row], atol=2)


@pytest.mark.slow
def test_hands_in_front_of_the_camera(one_file, predictor, images, tmp_path):
    """The camera's frames have less colour than the photograph, so joints move a little."""
    picture = cv2.imread(str(images[0]))
    height, width = picture.shape[:2]
    frame = cv2.cvtColor(picture, cv2.COLOR_BGR2YUV_I420)
    video = b"YUV4MPEG2 W%d H%d F15:1 Ip A1:1 C420jpeg\n" % (width, height) + 10 * (b"FRAME\n" + frame.tobytes())
    (tmp_path / "camera.y4m").write_bytes(video)
    found = page.browse(url=f"file://{one_file}", camera=tmp_path / "camera.y4m", frames=12)
    assert found["errors"] == [] and len(found["requests"]) == 1 and "frames/s" in found["rate"]
    mine = predictor(cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_YUV2BGR_I420), cv2.COLOR_BGR2RGB))
    assert len(mine["is_right"]) == 2
    for hand in found["camera"]["hands"]:
        assert hand["image"] == "camera"
        [row] = np.flatnonzero(mine["is_right"] == (hand["hand"] == "right"))
        side = np.ptp(mine["keypoints_2d"][row], axis=0).max()
        apart = np.linalg.norm(np.array(hand["joints_2d"]) - mine["keypoints_2d"][row], axis=1)
        assert apart.mean() < 0.03 * side
    assert len(found["camera"]["hands"]) == 2
