"""Take the preview out of RAW files, in a process of its own that can be killed.

RAW files are large, and each camera has its own format. Every RAW holds a JPEG that the camera
made. LibRaw finds it. A damaged file must neither hang nor end our process.
"""

from __future__ import annotations

import importlib.util
import os
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

_TIMEOUT_S = 30.0
_MAX_PREVIEW_BYTES = 64 * 1024 * 1024
# How LibRaw says to turn a picture, as an EXIF orientation.
_ORIENTATION_OF_FLIP = {3: 3, 5: 8, 6: 6}
_EXIF_HEAD_BYTES = 64 * 1024
# Answers each path with the length of the preview, how LibRaw turns it, and its bytes. Length
# 0: there is none. A preview that is no JPEG becomes one.
_PROGRAM = """
import io, os, struct, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
except (ImportError, ValueError, OSError):
    pass
import rawpy

def preview(path):
    with rawpy.imread(path) as raw:
        found, flip = raw.extract_thumb(), raw.sizes.flip
    if found.format == rawpy.ThumbFormat.JPEG:
        return found.data, flip
    from PIL import Image
    file = io.BytesIO()
    Image.fromarray(found.data).save(file, "JPEG", quality=92)
    return file.getvalue(), flip

while size := sys.stdin.buffer.read(4):
    path = os.fsdecode(sys.stdin.buffer.read(int.from_bytes(size, "big")))
    try:
        data, flip = preview(path)
    except Exception:
        data, flip = b"", 0
    sys.stdout.buffer.write(struct.pack(">QB", len(data), flip) + data)
    sys.stdout.buffer.flush()
"""


def can_read_previews() -> bool:
    """Tell whether the package that reads RAW files is installed."""
    return importlib.util.find_spec("rawpy") is not None


class PreviewReader:
    """Reads previews one after the other, in a process that starts on first use. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, path: Path) -> bytes:
        """Return the JPEG inside a RAW file; raise OSError if there is none. Blocking."""
        with self._lock:
            if self._process is not None and self._process.poll() is not None:
                self._stop()  # it ended after its last answer
            process = self._process or self._start()
            timer = threading.Timer(_TIMEOUT_S, process.kill)
            timer.start()
            try:
                data = _ask(process, os.fsencode(path))
            except (OSError, struct.error):  # it was killed, or a damaged file ended it
                self._stop()
                data = b""
            finally:
                timer.cancel()
        if not data:
            raise OSError(None, "no preview could be read from this RAW file", str(path))
        return data

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._stop()

    def _start(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us; it ends with its input
        )
        return self._process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with suppress(OSError):
                process.communicate()


def _ask(process: subprocess.Popen[bytes], path: bytes) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(len(path).to_bytes(4, "big") + path)
    process.stdin.flush()
    size, flip = struct.unpack(">QB", process.stdout.read(9))
    if size > _MAX_PREVIEW_BYTES:
        raise OSError(None, "the preview is too large")
    data = process.stdout.read(size)
    if len(data) < size:
        raise OSError(None, "the preview is cut off")
    return _turned(data, _ORIENTATION_OF_FLIP.get(flip, 1))


def _turned(jpeg: bytes, orientation: int) -> bytes:
    """Return a JPEG with this orientation in its EXIF, if it has no EXIF of its own."""
    if orientation == 1 or not jpeg or b"Exif\0\0" in jpeg[:_EXIF_HEAD_BYTES]:
        return jpeg
    entry = struct.pack("<HHHIHH", 1, 0x0112, 3, 1, orientation, 0)
    body = b"Exif\0\0II*\0\x08\0\0\0" + entry + bytes(4)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]
