"""Write the web page: one HTML file with everything inside, or a folder for a static server."""

import base64
import gzip
import html
import json
from collections.abc import Mapping
from pathlib import Path

from jaxhand.config import UserError
from jaxhand.io import output_files

BUILD = Path(__file__).parent / "web" / "dist"  # `make web` makes it from web/src
MARK = " · jaxhand</title>".encode()  # in every page
RUNTIMES = ("ort.wasm.gz", "ort-webgpu.wasm.gz")  # ONNX Runtime, without and with WebGPU
# No request leaves the page: its files are inside it, or next to it on its server
_POLICY = (
    "default-src 'none'; script-src {scripts} 'wasm-unsafe-eval' blob:; style-src {scripts}; img-src data: blob:; "
    "media-src blob:; connect-src {files}"
)


def write_file(path: Path, settings: Mapping, networks: Mapping[str, bytes]) -> None:
    """Write the page as one HTML file, which opens from a disk and from any server.

    Args:
        path: the file.
        settings: what web/src/settings.ts describes.
        networks: name of a network → its ONNX model.

    Raises:
        UserError: the page is not built, or the file cannot be written.
    """
    embedded = [
        f'<script id="{name}" type="application/octet-stream">{base64.b64encode(content).decode()}</script>'
        for name, content in _packed(networks).items()
    ]
    code = _read("main.js").decode().replace("</script", "<\\/script").replace("<!--", "<\\!--")
    page = _page(
        settings,
        policy=_POLICY.format(scripts="'unsafe-inline'", files="'none'"),
        style=f"<style>{_read('style.css').decode()}</style>",
        scripts="\n".join([*embedded, f'<script type="module">{code}</script>']),
    )
    _write(path, page.encode())


def write_folder(folder: Path, settings: Mapping, networks: Mapping[str, bytes]) -> None:
    """Write the page as a folder for a static server. The arguments are those of `write_file`."""
    page = _page(
        settings,
        policy=_POLICY.format(scripts="'self'", files="'self'"),
        style='<link rel="stylesheet" href="style.css">',
        scripts='<script type="module" src="main.js"></script>',
    )
    files = {"index.html": page.encode(), "main.js": _read("main.js"), "style.css": _read("style.css")}
    for name, content in {**files, **_packed(networks)}.items():
        _write(folder / name, content)


def check_built() -> None:
    """Check that the page is built.

    Raises:
        UserError: it is not.
    """
    libraries()


def check_own(out: Path, *, folder: bool) -> None:
    """Check that no file of another program is replaced.

    Args:
        out: the file of `write_file`, or the folder of `write_folder`.
        folder: whether `out` is a folder.

    Raises:
        UserError: there is a file of another program.
    """
    if folder:
        networks = (f"{name}.onnx.gz" for name in ("palm", "hand", "own"))
        others = ("main.js", "style.css", *networks, *RUNTIMES)
        output_files.check_own(out / "index.html", MARK, *(out / name for name in others))
    else:
        output_files.check_own(out, MARK)


def libraries() -> str:
    """The names, versions and licences of the libraries inside the page."""
    return _read("libraries.txt").decode().strip()


def _page(settings: Mapping, **parts: str) -> str:
    """The HTML with its parts in place; `{{title}}` and the like mark them."""
    page = _read("index.html").decode()
    parts |= {"title": html.escape(settings["title"]), "settings": json.dumps(settings).replace("<", "\\u003c")}
    for name, text in parts.items():
        page = page.replace(f"{{{{{name}}}}}", text)
    return page


def _packed(networks: Mapping[str, bytes]) -> dict[str, bytes]:
    """Networks and runtimes, compressed. Name of a file → its bytes."""
    models = {f"{name}.onnx.gz": gzip.compress(model, mtime=0) for name, model in networks.items()}
    return models | {name: _read(name) for name in RUNTIMES}


def _read(name: str) -> bytes:
    """A file of the built page."""
    try:
        return (BUILD / name).read_bytes()
    except OSError:
        raise UserError("the web page is not built: run `make web` in the source folder (needs Node 18+)") from None


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
