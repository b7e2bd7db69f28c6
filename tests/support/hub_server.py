"""A Hugging Face hub on this machine: a folder of models and data sets, as far as downloads go."""

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
    """Serve what lies below ``folder``; yields the endpoint.

    Each folder ``org/name`` is a model, each ``datasets/org/name`` a data set.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.split("?")[0].strip("/").split("/")
            is_api = path[0] == "api"
            if is_api:
                path = path[2:] if path[1] == "models" else path[1:]
            depth = 3 if path[0] == "datasets" else 2
            name, rest = "/".join(path[:depth]), path[depth:]
            if name == GATED:
                self._answer(403, b"", {"X-Error-Code": "GatedRepo"})
            elif not (folder / name).is_dir():
                self._answer(401, b"", {"X-Error-Code": "RepoNotFound"})
            elif is_api:
                tree = rest[:1] == ["tree"]  # tree/REVISION/FOLDER
                found = folder.joinpath(name, *rest[2:]).glob(
                    "*" if "recursive=false" in self.path else "**/*"
                )
                entries = [self._describe(path, folder / name) for path in sorted(found)]
                files = [entry for entry in entries if entry["type"] == "file"]
                listing = {"id": name, "sha": COMMIT, "siblings": files}
                self._answer(200, json.dumps(entries if tree else listing).encode(), {})
            elif folder.joinpath(name, *rest[2:]).is_file():  # resolve/REVISION/FILE
                content = folder.joinpath(name, *rest[2:]).read_bytes()
                etag = hashlib.sha1(content).hexdigest()
                headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}
                self._answer_part(content, headers)
            else:
                self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})

        def _describe(self, path: Path, root: Path) -> dict[str, object]:
            name = str(path.relative_to(root))
            if path.is_dir():
                return {"type": "directory", "path": name, "oid": "", "size": 0}
            oid, size = hashlib.sha1(path.read_bytes()).hexdigest(), path.stat().st_size
            return {"type": "file", "path": name, "rfilename": name, "size": size, "oid": oid}

        def _answer_part(self, content: bytes, headers: dict[str, str]) -> None:
            wanted = self.headers.get("Range")
            if wanted is None:
                return self._answer(200, content, headers)
            first, last = (int(end) for end in wanted.removeprefix("bytes=").split("-"))
            part = content[first : last + 1]
            told = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
            return self._answer(206, part, {**headers, "Content-Range": told})

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
