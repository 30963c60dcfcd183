"""Decide which URIs the gateway may fetch: those below a prefix that the operator lists.

Each URI is parsed once, here. The parts that are compared with the list are the parts that are
opened later: two parsers that read one URI in two ways are the usual way around such lists.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from yarl import URL

from sentinel_core.errors import InvalidArgument, PermissionDenied

HTTP_SCHEMES = ("http", "https")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_FORBIDDEN_CHARS = re.compile(r"[\x00-\x1f\x7f\\]")
# Presigned URLs with session tokens take some 2,000.
_MAX_URI_CHARS = 8_192


@dataclass(frozen=True, slots=True)
class ParsedUri:
    """A URI in parts.

    Attributes:
        scheme: In lower case.
        authority: http and https: host and port of the request; file: empty; otherwise the part
            after `://`, such as a bucket.
        path: Its segments, decoded where the scheme encodes them.
    """

    scheme: str
    authority: str
    path: tuple[str, ...]

    @property
    def printable(self) -> str:
        """The URI for messages and logs, without its query, which may hold a signature."""
        path = "/".join(self.path).encode(errors="backslashreplace").decode()
        return f"{self.scheme}://{self.authority}/{path}"[:200]


@dataclass(frozen=True, slots=True)
class HttpUri(ParsedUri):
    """An http or https URI; `url` is what the gateway requests."""

    url: URL


@dataclass(frozen=True, slots=True)
class AllowedPrefix(ParsedUri):
    """One entry of the list; URIs at or below its path may be fetched. `uri` is its own text."""

    uri: str

    def covers(self, uri: ParsedUri) -> bool:
        """Return whether `uri` is this prefix or below it, segment by segment."""
        return (self.scheme, self.authority) == (uri.scheme, uri.authority) and (
            uri.path[: len(self.path)] == self.path
        )


class Allowlist:
    """The operator's list of prefixes. Immutable."""

    def __init__(
        self,
        uris: Sequence[str],
        *,
        setting: str = "image_uri_places",
        schemes: Sequence[str] = (),
    ) -> None:
        """Parse the list; raise InvalidArgument for an entry that is not a valid prefix.

        `setting` is where the list comes from, for messages. `schemes` are those that its entries
        may have; empty: all.
        """
        self._flag = f"--{setting.replace('_', '-')}"
        self.prefixes = []
        for uri in uris:
            try:
                prefix = _parse_prefix(uri)
                if schemes and prefix.scheme not in schemes:
                    raise ValueError(f"it needs the scheme {' or '.join(schemes)}")
            except ValueError as error:
                raise _bad_prefix(self._flag, uri, str(error)) from error
            self.prefixes.append(prefix)

    def find(self, uri: ParsedUri) -> AllowedPrefix:
        """Return the prefix that covers `uri`; raise PermissionDenied if there is none."""
        for prefix in self.prefixes:
            if prefix.covers(uri):
                return prefix
        raise _forbidden(
            f"{uri.printable} is outside the places that this gateway fetches from; send "
            f"the bytes, or have the place added to {self._flag}"
        )


def parse_uri(uri: str) -> ParsedUri:
    """Parse a caller's URI; http and https give an `HttpUri`.

    Raises PermissionDenied if it is malformed or can be read in two ways.
    """
    if len(uri) > _MAX_URI_CHARS or _FORBIDDEN_CHARS.search(uri):
        raise _forbidden(
            f"a URI has at most {_MAX_URI_CHARS} characters, no backslash and no control character"
        )
    scheme, separator, rest = uri.partition("://")
    scheme = scheme.lower()
    if not separator or not _SCHEME.fullmatch(scheme):
        raise _forbidden(f"{uri[:50]!r} is not a URI with a scheme, such as https://")
    if scheme in HTTP_SCHEMES:
        try:
            return parse_http(to_url(uri))
        except ValueError as error:
            raise _forbidden(f"{uri[:50]!r} is not a URL: {error}") from error
    authority, _, raw_path = rest.partition("/")
    if scheme == "file":
        if authority not in ("", "localhost"):
            raise _forbidden("a file URI has three slashes: file:///folder/picture.jpg")
        return ParsedUri(scheme, "", _segments(raw_path, encoded=True))
    return ParsedUri(scheme, authority, _segments(raw_path, encoded=False))


def to_url(text: str) -> URL:
    """Return an http URL or a relative reference; raise ValueError if it is none.

    Keep its encoding if it has one: encoding it again could break a signature in its query.
    """
    return URL(text, encoded=text.isascii() and " " not in text)


def parse_http(url: URL) -> HttpUri:
    """Parse an http or https URL: a caller's, or the target of a redirect.

    Raises PermissionDenied if it has a user name or password, or no host.
    """
    if url.scheme not in HTTP_SCHEMES:
        raise _forbidden(f"a redirect leads to a URL of scheme {url.scheme[:20]!r}")
    if url.user is not None or url.password is not None:
        raise _forbidden("a URL must not hold a user name or a password")
    if not url.raw_host:
        raise _forbidden("the URL has no host")
    authority = f"{url.raw_host.lower()}:{url.port}"
    path = _segments(url.raw_path.removeprefix("/"), encoded=True)
    return HttpUri(url.scheme, authority, path, url.with_fragment(None))


def _segments(raw_path: str, *, encoded: bool) -> tuple[str, ...]:
    """Split a path; refuse one whose meaning changes if somebody decodes it again."""
    decoded = raw_path
    while (again := unquote(decoded)) != decoded:
        decoded = again
    if (
        decoded.count("/") != raw_path.count("/")
        or _FORBIDDEN_CHARS.search(decoded)
        or {".", ".."} & set(decoded.split("/"))
    ):
        raise _forbidden("a URI's path must not hold '.', '..', encoded slashes or backslashes")
    return tuple((unquote(raw_path) if encoded else raw_path).split("/"))


def _parse_prefix(uri: str) -> AllowedPrefix:
    """Parse an entry of the list; raise ValueError if it is no valid prefix."""
    try:
        parsed = parse_uri(uri)
    except PermissionDenied as error:
        raise ValueError(error.message) from error
    if isinstance(parsed, HttpUri) and (parsed.url.query_string or parsed.url.raw_fragment):
        raise ValueError("it has a query")
    if parsed.scheme != "file" and not parsed.authority:
        raise ValueError("it names no host or bucket")
    # `https://host/photos` and `https://host/photos/` are one prefix, `…/photos2` is another.
    path = parsed.path[:-1] if parsed.path[-1] == "" else parsed.path
    return AllowedPrefix(parsed.scheme, parsed.authority, path, uri)


def _bad_prefix(flag: str, uri: str, why: str) -> InvalidArgument:
    return InvalidArgument(
        "PARAMETER_OUT_OF_RANGE",
        f"{flag}: {uri[:100]!r} is not a valid place ({why}); write "
        "https://host/folder/, s3://bucket/prefix/ or file:///folder/",
        field=flag.strip("-").replace("-", "_"),
    )


def _forbidden(message: str) -> PermissionDenied:
    return PermissionDenied("URI_FORBIDDEN", message)
