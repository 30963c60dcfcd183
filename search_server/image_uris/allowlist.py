"""Which URIs may be fetched: those in a place that the operator lists.

A URI is taken apart once, here, and what is compared with the list is what is opened later: two
parsers that read one URI in two ways are how such lists are got round.
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
class Target:
    """A URI taken apart.

    Attributes:
        scheme: In lower case.
        authority: http and https: host and port as they will be asked; file: empty; otherwise
            what stands there, such as a bucket.
        path: Its segments, decoded where the scheme has them encoded.
        url: http and https: what will be asked for.
    """

    scheme: str
    authority: str
    path: tuple[str, ...]
    url: URL | None = None

    @property
    def printable(self) -> str:
        """The URI for messages and logs, without its query: that may hold a signature."""
        return f"{self.scheme}://{self.authority}/{'/'.join(self.path)}"[:200]


@dataclass(frozen=True, slots=True)
class Place:
    """A place of the list; whatever lies below its path may be fetched.

    Attributes:
        uri: As the operator wrote it.
    """

    uri: str
    scheme: str
    authority: str
    path: tuple[str, ...]

    def holds(self, target: Target) -> bool:
        """Return whether `target` is this place or below it, segment by segment."""
        return (self.scheme, self.authority) == (
            target.scheme,
            target.authority,
        ) and target.path[: len(self.path)] == self.path


class Places:
    """The operator's list. Immutable."""

    def __init__(self, uris: Sequence[str]) -> None:
        """Read the list.

        Raises:
            InvalidArgument: One of them is no place.
        """
        self.every = [_read_place(uri) for uri in uris]

    def find(self, target: Target) -> Place:
        """Return the place that `target` lies in.

        Raises:
            PermissionDenied: It lies in none.
        """
        for place in self.every:
            if place.holds(target):
                return place
        raise _forbidden(
            f"{target.printable} is in none of the places that this gateway fetches from; send "
            "the bytes, or have the place added to --image-uri-places"
        )


def read_target(uri: str) -> Target:
    """Take a caller's URI apart.

    Raises:
        PermissionDenied: It is malformed, or written so that it could be read in two ways.
    """
    if len(uri) > _MAX_URI_CHARS or _FORBIDDEN_CHARS.search(uri):
        raise _forbidden(
            f"a URI has at most {_MAX_URI_CHARS} characters, no backslash and no control character"
        )
    scheme, separator, rest = uri.partition("://")
    scheme = scheme.lower()
    if not separator or not _SCHEME.fullmatch(scheme):
        raise _forbidden(f"{uri[:50]!r} is no URI with a scheme, such as https://")
    if scheme in HTTP_SCHEMES:
        try:
            return http_target(read_url(uri))
        except ValueError as error:
            raise _forbidden(f"{uri[:50]!r} is no URL: {error}") from error
    authority, _, raw_path = rest.partition("/")
    if scheme == "file":
        if authority not in ("", "localhost"):
            raise _forbidden("a file URI has three slashes: file:///folder/picture.jpg")
        authority, path = "", _segments(raw_path, encoded=True)
    else:
        path = _segments(raw_path, encoded=False)
    return Target(scheme, authority, path)


def read_url(text: str) -> URL:
    """Return an http URL or a relative reference, encoded as it came if it is encoded at all.

    To encode it anew could break a signature in its query.

    Raises:
        ValueError: It is none.
    """
    return URL(text, encoded=text.isascii() and " " not in text)


def http_target(url: URL) -> Target:
    """Take an http or https URL apart, a caller's or one that a server redirects to.

    Raises:
        PermissionDenied: It holds a user name or password, or no host.
    """
    if url.scheme not in HTTP_SCHEMES:
        raise _forbidden(f"a redirect leads to a URL of scheme {url.scheme[:20]!r}")
    if url.user is not None or url.password is not None:
        raise _forbidden("a URL must not hold a user name or a password")
    if not url.raw_host:
        raise _forbidden("the URL has no host")
    host = url.raw_host.lower()
    path = _segments(url.raw_path.removeprefix("/"), encoded=True)
    return Target(url.scheme, f"{host}:{url.port}", path, url.with_fragment(None))


def _segments(raw_path: str, *, encoded: bool) -> tuple[str, ...]:
    """Split a path; refuse one whose meaning changes when it is decoded once more."""
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


def _read_place(uri: str) -> Place:
    try:
        target = read_target(uri)
    except PermissionDenied as error:
        raise _bad_place(uri, error.message) from error
    if target.url is not None and (target.url.query_string or target.url.raw_fragment):
        raise _bad_place(uri, "it has a query")
    if target.scheme != "file" and not target.authority:
        raise _bad_place(uri, "it names no host or bucket")
    # `https://host/photos` and `https://host/photos/` are one place, `…/photos2` is another.
    path = target.path[:-1] if target.path[-1] == "" else target.path
    return Place(uri, target.scheme, target.authority, path)


def _bad_place(uri: str, why: str) -> InvalidArgument:
    return InvalidArgument(
        "PARAMETER_OUT_OF_RANGE",
        f"--image-uri-places: {uri[:100]!r} is no place ({why}); write https://host/folder/, "
        "s3://bucket/prefix/ or file:///folder/",
        field="image_uri_places",
    )


def _forbidden(message: str) -> PermissionDenied:
    return PermissionDenied("URI_FORBIDDEN", message)
