"""Secrets that are found again in whatever form they appear, and the places to look for them."""

from __future__ import annotations

import base64
import logging
import re
import secrets
import ssl
import traceback
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import psutil

from tests.waiting import until

_SHORTEST_PIECE = 12


class Marks:
    """Secrets by their names. A half of one counts as the whole: logs cut long values."""

    def __init__(self) -> None:
        self._forms: dict[bytes, str] = {}

    def new(self, name: str) -> str:
        """Make up a secret; URLs change the characters in its middle, which do not count."""
        secret = f"{secrets.token_hex(10)}+/{secrets.token_hex(10)}"
        self.add(name, secret)
        return secret

    def add(self, name: str, secret: str) -> None:
        """Look for this secret, too: plainly, in base64 within other bytes, in hexadecimal."""
        size = len(secret) // 2 - 1
        assert size >= _SHORTEST_PIECE, name
        for piece in (secret[:size].encode(), secret[-size:].encode()):
            for form in (piece, piece.hex().encode(), *_in_base64(piece)):
                self._forms[form] = name

    def add_key(self, name: str, key: str) -> None:
        """Look for an API key; its id is public."""
        self.add(name, key.split("_", 2)[2])

    def add_token(self, name: str, token: str) -> None:
        """Look for the signature of a JSON Web Token; anybody may know the rest."""
        self.add(name, token.rpartition(".")[2])

    def add_pem(self, file: Path) -> None:
        """Look for the private number in a file of `sentinel certs`; its public part is behind."""
        body = re.sub(r"-----.*?-----|\s", "", file.read_text())
        self.add(file.name, body[48:88])

    def found_in(self, data: bytes) -> list[str]:
        """Return the names of the secrets in `data`."""
        return sorted({name for form, name in self._forms.items() if form in data})


def _in_base64(piece: bytes) -> Iterator[bytes]:
    """Yield what is the same in base64 whatever stands before and behind, in both alphabets."""
    for before in range(3):
        padded = b"\0" * before + piece
        # The first and the last group have bits of the neighbours.
        text = base64.b64encode(padded[: len(padded) // 3 * 3])[4 if before else 0 :]
        yield text
        yield text.translate(bytes.maketrans(b"+/", b"-_"))


@dataclass(slots=True)
class Evidence:
    """What a run left, by place. A place is `kind: details`."""

    marks: Marks = field(default_factory=Marks)
    places: dict[str, bytes] = field(default_factory=dict)

    def note(self, place: str, what: str | bytes) -> None:
        self.places[place] = what.encode() if isinstance(what, str) else what

    def note_error(self, place: str, error: BaseException) -> None:
        """Keep all that a program could print of an error."""
        shown = [repr(error), str(error), *traceback.format_exception(error)]
        for one in (error, error.__cause__):
            for name in ("details", "debug_error_string", "trailing_metadata", "code"):
                if callable(method := getattr(one, name, None)):
                    shown.append(repr(method()))
        self.note(f"error: {place}", "\n".join(shown))

    def note_command_lines(self, place: str, pid: int) -> None:
        """Keep the command lines of a process and of all below it."""
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                # While a program replaces another one, it has none.
                until(lambda one=one: one.cmdline() or one.status() == psutil.STATUS_ZOMBIE)
                self.note(f"argv: {place} {one.pid}", "\0".join(one.cmdline()))

    def note_metrics(self, place: str, address: str, ca: str) -> None:
        context = ssl.create_default_context(cafile=ca)
        url = f"https://{address}/metrics"
        with urllib.request.urlopen(url, timeout=20, context=context) as answer:
            self.note(f"metrics: {place}", answer.read())

    def note_files(self, folder: Path, *secret: Path) -> None:
        """Keep each file below a folder that is not one of the secret ones, or in one of them."""
        for file in folder.rglob("*"):
            if file.is_file() and not {file, *file.parents} & set(secret):
                kind = "log" if ".log" in file.name else "file"
                self.note(f"{kind}: {file.relative_to(folder)}", file.read_bytes())

    @contextmanager
    def noting_records(self, place: str) -> Iterator[None]:
        """Keep what this process logs meanwhile, at any level."""
        stream, root = StringIO(), logging.getLogger()
        handler, level = logging.StreamHandler(stream), root.level
        root.addHandler(handler)
        root.setLevel(logging.DEBUG)
        try:
            yield
        finally:
            root.removeHandler(handler)
            root.setLevel(level)
            self.note(f"log: {place}", stream.getvalue())

    def leaks(self, kind: str) -> dict[str, list[str]]:
        """Return the secrets by the places of a kind that have them."""
        places = {name: data for name, data in self.places.items() if name.startswith(kind)}
        assert any(places.values()), f"nothing was looked at: {kind}"
        found = {name: self.marks.found_in(data) for name, data in places.items()}
        return {name: secrets for name, secrets in found.items() if secrets}
