"""A Hugging Face hub on this machine: a folder of models, served as far as downloads need it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GATED = "org/gated"


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve each folder ``org/name`` below ``folder`` as a model; yields the endpoint."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.split("?")[0].strip("/").split("/")
            is_api = path[:2] == ["api", "models"]
            path = path[2:] if is_api else path
            name, rest = "/".join(path[:2]), path[2:]
            if name == GATED:
                self._answer(403, b"", {"X-Error-Code": "GatedRepo"})
            elif not (folder / name).is_dir():
                self._answer(401, b"", {"X-Error-Code": "RepoNotFound"})
            elif is_api:
                files = [self._describe(file) for file in sorted((folder / name).iterdir())]
                listing = {"id": name, "sha": COMMIT, "siblings": files}
                tree = rest[:1] == ["tree"]
                self._answer(200, json.dumps(files if tree else listing).encode(), {})
            elif (folder / name / rest[-1]).is_file():
                content = (folder / name / rest[-1]).read_bytes()
                etag = hashlib.sha1(content).hexdigest()
                self._answer(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
            else:
                self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})

        def _describe(self, file: Path) -> dict[str, object]:
            oid = hashlib.sha1(file.read_bytes()).hexdigest()
            size = file.stat().st_size
            return {
                "type": "file",
                "path": file.name,
                "rfilename": file.name,
                "size": size,
                "oid": oid,
            }

        def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            for header, value in headers.items():
                self.send_header(header, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
