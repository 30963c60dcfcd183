"""TLS from files, for our ports and for the servers that we call.

Whoever rotates certificates replaces the files. New connections use the new ones within a second,
without a restart. Open connections stay. Files that do not fit together change nothing: the log
says so, and the old certificates go on.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path

import grpc

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files.

    Attributes:
        cert: Our certificate, followed by those between it and its CA; None: we show none.
        key: The private key of `cert`.
        ca: The CAs that sign the certificates of the other side; None: a server asks for no
            certificate, and a client trusts what gRPC trusts.
    """

    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    def read(self) -> TlsBytes:
        """Return what the files hold; raise OSError if one cannot be read."""
        files = (self.cert, self.key, self.ca)
        return TlsBytes(*(file.read_bytes() if file else None for file in files))


@dataclass(frozen=True, slots=True)
class TlsBytes:
    """The contents of `TlsFiles` at one moment."""

    cert: bytes | None
    key: bytes | None = field(repr=False)
    ca: bytes | None


class FileTls:
    """Credentials from files, made anew when the files change. `changes` notices it.

    Raises ValueError if the files cannot be read or do not fit together.

    Attributes:
        version: Grows with each change.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self.version = 0
        try:
            self._bytes = files.read()
            self._context = _server_context(files)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(_problem(files, error)) from error

    async def changes(self) -> AsyncGenerator[int, None]:
        """Look for changed files every second, for ever; yield the version of each change."""
        bad: TlsBytes | None = None
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                found = self._files.read()
                if found in (self._bytes, bad):
                    continue
                context = _server_context(self._files)
                if self._files.read() != found:
                    continue  # they are being replaced: the next look finds all of them
            except (OSError, ssl.SSLError) as error:
                bad = found if isinstance(error, ssl.SSLError) else None
                logger.warning(
                    "certificates not replaced", extra={"why": _problem(self._files, error)}
                )
                continue
            self._bytes, self._context = found, context
            self.version += 1
            logger.info("certificates replaced", extra={"cert": str(self._files.cert or "")})
            yield self.version

    def server_credentials(self) -> grpc.ServerCredentials:
        """Return credentials for a gRPC port, which follow the files."""
        used = self.version

        def newer() -> grpc.ServerCertificateConfiguration | None:
            nonlocal used
            if used == self.version:
                return None
            used = self.version
            return self._server_configuration()

        return grpc.dynamic_ssl_server_credentials(
            self._server_configuration(),
            newer,  # type: ignore[arg-type] # the stubs know no None
            require_client_authentication=self._files.ca is not None,
        )

    def server_context(self) -> ssl.SSLContext:
        """Return the present context for a port of another protocol.

        If there is a CA, clients may show a certificate, and must show a valid one if they do.
        """
        return self._context

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Return the present credentials for a channel; see `version`."""
        now = self._bytes
        return grpc.ssl_channel_credentials(now.ca, now.key, now.cert)

    def _server_configuration(self) -> grpc.ServerCertificateConfiguration:
        now = self._bytes
        assert now.cert is not None and now.key is not None  # a server's files name both
        return grpc.ssl_server_certificate_configuration([(now.key, now.cert)], now.ca)


def _server_context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if files.cert is not None:
        # Else OpenSSL would ask for the password of an encrypted key on the terminal.
        context.load_cert_chain(files.cert, files.key, password=lambda: "")
    if files.ca is not None:
        context.load_verify_locations(files.ca)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _problem(files: TlsFiles, error: OSError | ssl.SSLError) -> str:
    names = ", ".join(str(one) for one in (files.cert, files.key, files.ca) if one)
    if isinstance(error, ssl.SSLError):
        return f"{names}: not PEM files that belong together ({error.reason or error})"
    return f"{names}: {error.strerror or error} ({error.filename})"
