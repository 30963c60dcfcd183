"""How much the browsers of all people may leave in the memory of this process.

Streamlit keeps every uploaded file in memory, of any number of people, and bounds each one alone.
"""

from __future__ import annotations

from collections import deque

from starlette.exceptions import HTTPException
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.uploaded_file_manager import UploadedFileRec

# Of one person at once; the page says so, and the command line has no such bound.
MAX_UPLOAD_BYTES = 192 * 1024 * 1024
# Of everybody, with what is on its way to the gateway; deploy/k8s gives the app 1 GiB.
MOST_HELD_BYTES = 2 * MAX_UPLOAD_BYTES
# Files, (name, bytes) each, that left an uploader and are on their way to the gateway.
Files = deque[tuple[str, bytes]]
under_way: list[Files] = []


class BoundedUploads(MemoryUploadedFileManager):
    """Streamlit's store of uploaded files, with a bound over all of them."""

    def add_file(self, session_id: str, file: UploadedFileRec) -> None:
        """Keep a file.

        Raises:
            HTTPException: 413, which the uploader shows beside the file's name.
        """
        stored = [one for files in list(self.file_storage.values()) for one in list(files.values())]
        leaving = [data for files in list(under_way) for _, data in list(files)]
        total = sum(len(one.data) for one in stored) + sum(map(len, leaving))
        if total + len(file.data) > MOST_HELD_BYTES:
            raise HTTPException(413, "the page holds too many uploads just now; try again later")
        super().add_file(session_id, file)


def install() -> None:
    """Make the server that Streamlit starts in this process keep uploads so."""
    from streamlit.web.server import server  # noqa: PLC0415 - starts half of Streamlit

    # It has no setting for it.
    setattr(server, "MemoryUploadedFileManager", BoundedUploads)  # noqa: B010 - mypy forbids it
