"""Serve the page, the weights that ship with sfpose, and onnxruntime-web, on this machine.

    npm install --prefix examples/browser
    python examples/browser/serve.py

Any static file server does as well: the page wants the weights under /weights and
onnxruntime-web's files under /ort.
"""

from __future__ import annotations

import argparse
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import sfpose

HERE = Path(__file__).parent


class Handler(SimpleHTTPRequestHandler):
    """Files of three folders under three prefixes."""

    extensions_map = {  # noqa: RUF012
        **SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def __init__(self, *arguments, ort: Path, **options) -> None:
        self._folders = {"weights": Path(sfpose.__file__).parent / "weights", "ort": ort}
        super().__init__(*arguments, directory=str(HERE), **options)

    def translate_path(self, path: str) -> str:
        prefix, _, rest = unquote(urlsplit(path).path).lstrip("/").partition("/")
        if prefix not in self._folders:
            return super().translate_path(path)
        folder = self._folders[prefix].resolve()
        file = (folder / rest).resolve()
        return str(file if file.is_relative_to(folder) else folder / "not-there")

    def log_message(self, *arguments) -> None:
        pass


def make_server(port: int, ort: Path) -> ThreadingHTTPServer:
    """A server on the loopback; port 0 takes a free one."""
    return ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, ort=ort))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument(
        "--ort", type=Path, default=HERE / "node_modules" / "onnxruntime-web" / "dist"
    )
    options = parser.parse_args()
    if not (options.ort / "ort.wasm.min.mjs").is_file():
        parser.error(f"onnxruntime-web must be in {options.ort}: npm install --prefix {HERE}")
    with make_server(options.port, options.ort) as server:
        print(f"http://127.0.0.1:{server.server_port}/")
        server.serve_forever()


if __name__ == "__main__":
    main()
