"""How a client proves itself and whom it trusts: TLS and the API key or token.

What the configuration leaves open comes from the environment, so that programs and commands need
no change: SENTINEL_TLS (1: with the system's CAs), SENTINEL_TLS_CA, SENTINEL_TLS_CERT,
SENTINEL_TLS_KEY, SENTINEL_TLS_SERVER_NAME, SENTINEL_API_KEY, SENTINEL_API_KEY_FILE,
SENTINEL_INSECURE (1: send the key without TLS, too).
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from sentinel_client._names import suggest_for_fields
from sentinel_client._proxy import stays_on_machine

Stamp = tuple[tuple[int, int], ...]
_KEY_PREFIX = "sen_"


@suggest_for_fields
@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """The PEM files of TLS. New connections use them as they are by then.

    Attributes:
        ca: CAs that may have signed the server's certificate; None: those that gRPC knows.
        cert: The client's certificate, for servers that ask for one.
        key: The private key of `cert`.
        server_name: The name in the server's certificate, if it is not the address's.
    """

    ca: Path | str | None = None
    cert: Path | str | None = None
    key: Path | str | None = None
    server_name: str = ""

    def __post_init__(self) -> None:
        if bool(self.cert) != bool(self.key):
            raise ValueError("a client certificate and its key belong together; give both")

    @classmethod
    def from_environment(cls) -> Tls | None:
        """Return what the environment says; None if it says nothing of TLS."""
        read = os.environ.get
        ca, cert, key = (read(f"SENTINEL_TLS_{name}") or None for name in ("CA", "CERT", "KEY"))
        if not (ca or cert or read("SENTINEL_TLS", "") in ("1", "true")):
            return None
        return cls(ca=ca, cert=cert, key=key, server_name=read("SENTINEL_TLS_SERVER_NAME", ""))

    def credentials(self) -> grpc.ChannelCredentials:
        """Return the credentials that the files hold now.

        Raises ValueError if a file is missing, or if they do not belong together.
        """
        try:
            ca, cert, key = (
                Path(file).read_bytes() if file else None for file in (self.ca, self.cert, self.key)
            )
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            if self.ca:
                context.load_verify_locations(self.ca)
            if self.cert and self.key:
                context.load_cert_chain(self.cert, self.key, password=lambda: "")
        except ssl.SSLError as error:
            names = ", ".join(str(file) for file in (self.ca, self.cert, self.key) if file)
            raise ValueError(f"{names}: not PEM files that belong together") from error
        except OSError as error:
            raise ValueError(f"{error.filename}: {error.strerror}") from error
        return grpc.ssl_channel_credentials(ca, key, cert)

    def stamp(self) -> Stamp:
        """Return what changes with the files; empty if one of them cannot be seen."""
        try:
            found = [os.stat(file) for file in (self.ca, self.cert, self.key) if file]
        except OSError:
            return ()
        return tuple((one.st_mtime_ns, one.st_ino) for one in found)


class Credential:
    """The API key or token of each call."""

    def __init__(self, given: str | Callable[[], str] | None) -> None:
        """Take what was given: a key, or a function that returns the present one.

        Else the environment names a key, or a file of one, which is read again when it changes.
        Raises ValueError if that file cannot be read, or if the key cannot be sent.
        """
        self._given = given or os.environ.get("SENTINEL_API_KEY", "").strip() or None
        self._file = "" if self._given else os.environ.get("SENTINEL_API_KEY_FILE", "")
        self._read: tuple[int, str] = (-1, "")
        if not callable(self._given):
            self.metadata()  # to tell at once what is wrong

    @property
    def is_set(self) -> bool:
        return bool(self._given or self._file)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the metadata of the next call.

        Raises ValueError if the file cannot be read, or if the key cannot be sent.
        """
        value = self._given() if callable(self._given) else self._given or self._from_file()
        if not value:
            return ()
        # gRPC would fail the call and not say why.
        if not (value.isascii() and value.isprintable()):
            raise ValueError(
                "the API key has a line break or another character that no key has; copy it again"
            )
        return (("authorization", f"Bearer {value}"),)

    def _from_file(self) -> str:
        if not self._file:
            return ""
        if self._file.startswith(_KEY_PREFIX):
            raise ValueError(
                "SENTINEL_API_KEY_FILE holds a key itself; it names a file: use SENTINEL_API_KEY"
            )
        try:
            stamp = os.stat(self._file).st_mtime_ns
            if stamp != self._read[0]:
                self._read = stamp, Path(self._file).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"the API key in {self._file} cannot be read: {error}") from error
        return self._read[1]


def resolve_tls(given: Tls | bool | None) -> Tls | None:
    """Return the TLS to use for what a configuration says."""
    if given is None:
        return Tls.from_environment()
    return (Tls() if given else None) if isinstance(given, bool) else given


def check_safe(address: str, tls: Tls | None, credential: Credential) -> None:
    """Raise ValueError if a key would travel to another machine for all to read."""
    safe = tls is not None or not credential.is_set or stays_on_machine(address)
    if not safe and os.environ.get("SENTINEL_INSECURE", "") not in ("1", "true"):
        raise ValueError(
            f"{address} is another machine, and without TLS everybody on the way can read the API "
            "key: set SENTINEL_TLS_CA to the server's CA, or SENTINEL_TLS=1; set "
            "SENTINEL_INSECURE=1 only if something else encrypts the connection"
        )
