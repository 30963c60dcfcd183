"""A stand-in for the model hub on this machine: serves folders as repositories at one commit.

Clients find it by `HF_ENDPOINT`. It can cut a download off after some bytes, once.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_TREE = re.compile(r"/api/models/(?P<id>[^/]+/[^/]+)/tree/(?P<revision>[^/?]+)")
_INFO = re.compile(r"/api/models/(?P<id>[^/]+/[^/]+)(?:/revision/(?P<revision>[^/?]+))?$")
_FILE = re.compile(r"/(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>[^?]+)")


@dataclass
class Hub:
    """The stand-in: repositories by hub id, each a folder and a commit.

    Attributes:
        url: For `HF_ENDPOINT`.
        repositories: The folder and the commit of each.
        cut_after: Bytes after which the next download of a file breaks off; None: never.
        sent: Names and first bytes (`Range`) of the files that were asked for.
    """

    url: str
    repositories: dict[str, tuple[Path, str]] = field(default_factory=dict)
    cut_after: int | None = None
    sent: list[tuple[str, int]] = field(default_factory=list)


@contextmanager
def serving() -> Iterator[Hub]:
    """Run the stand-in for the length of a block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    server.hub = hub  # type: ignore[attr-defined] # handlers know their server only
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if found := _TREE.match(self.path):
            self._json(lambda folder, _: [_entry(folder, file) for file in _files(folder)], found)
        elif found := _INFO.match(self.path):
            self._json(_info, found, str(found["id"]))
        elif found := _FILE.match(self.path):
            self._file(found, with_body=True)
        else:
            self._refuse("EntryNotFound")

    def do_HEAD(self) -> None:
        found = _FILE.match(self.path)
        if found:
            self._file(found, with_body=False)
        else:
            self._refuse("EntryNotFound")

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def _repository(self, found: re.Match[str]) -> tuple[Path, str] | None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        if found["id"] not in hub.repositories:
            self._refuse("RepoNotFound")
            return None
        folder, commit = hub.repositories[found["id"]]
        if found["revision"] not in (None, commit, "main"):
            self._refuse("RevisionNotFound")
            return None
        return folder, commit

    def _json(self, make: Any, found: re.Match[str], *more: str) -> None:
        repository = self._repository(found)
        if repository is not None:
            body = json.dumps(make(*repository, *more)).encode()
            self._head(200, len(body), {"Content-Type": "application/json"})
            self.wfile.write(body)

    def _file(self, found: re.Match[str], *, with_body: bool) -> None:
        repository = self._repository(found)
        if repository is None:
            return
        folder, commit = repository
        file = folder / found["name"]
        if not file.is_file():
            self._refuse("EntryNotFound")
            return
        body = file.read_bytes()
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        headers = {
            "ETag": f'"{hashlib.sha256(body).hexdigest()}"',
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
            "Content-Range": f"bytes {first}-{len(body) - 1}/{len(body)}",
        }
        self._head(206 if first else 200, len(body) - first, headers)
        if not with_body:
            return
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        hub.sent.append((found["name"], first))
        if hub.cut_after is not None and len(body) > hub.cut_after:
            self.wfile.write(body[first : first + hub.cut_after])
            hub.cut_after, self.close_connection = None, True
        else:
            self.wfile.write(body[first:])

    def _refuse(self, code: str) -> None:
        self._head(404, 0, {"X-Error-Code": code})

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _entry(folder: Path, file: Path) -> dict[str, Any]:
    name, size = file.relative_to(folder).as_posix(), file.stat().st_size
    return {"type": "file", "oid": "0" * 40, "size": size, "path": name}


def _info(folder: Path, commit: str, hub_id: str) -> dict[str, Any]:
    names = [file.relative_to(folder).as_posix() for file in _files(folder)]
    return {"id": hub_id, "sha": commit, "siblings": [{"rfilename": name} for name in names]}
