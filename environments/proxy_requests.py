"""The request that opens a connection to an HTTP proxy: what it asks for, and what the host is sent in its place.

Left out: whether it is allowed (`allow_list.py`), and the connection (`egress.py`).
"""

import re
from dataclasses import dataclass

from srl_swe.environments.allow_list import canonical_host

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rf"({_TOKEN}) ([!-~]+) (HTTP/1\.[01])")
_FIELD = re.compile(rf"({_TOKEN}):([^\0\r\n]*)")
_URI = re.compile(r"http://([^/?#]*)(?:(/|(?=\?))([^#]*))?", re.IGNORECASE)
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^][:/?#@%]+)(?::(\d{1,5}))?")
_OWN_FIELDS = {"host", "connection", "keep-alive", "te", "trailer", "upgrade", "http2-settings"}


class RefusalError(Exception):
    """A request that is not carried out; answered with its status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """The first request of a connection."""

    host: str
    """As `canonical_host` returns it."""
    port: int
    head: bytes | None
    """What the host gets in the place of the head; None = the request opens a tunnel."""
    body_bytes: int = 0
    """How many bytes follow the head; of a tunnel all do."""


def parse_request(head: bytes) -> Request:
    """Parse a request head without its empty line, and write the head that its host gets.

    `b"GET http://pypi.org/simple HTTP/1.1\\r\\nHost: x"` becomes `GET /simple HTTP/1.1` with `Host: pypi.org` and
    `Connection: close`. RFC 9112, sections 3.2 and 6.3; what it leaves to the reader is refused.

    Raises:
        RefusalError: it is not a request that is carried out.
    """
    line, *lines = head.decode("latin-1").split("\r\n")
    parts = _REQUEST_LINE.fullmatch(line)
    if not parts:
        raise RefusalError(400, "the request line is malformed")
    method, target, version = parts.groups()
    if method == "CONNECT":
        host, port = _split_authority(target, default_port=None)
        return Request(host=host, port=port, head=None)
    uri = _URI.fullmatch(target)
    if not uri:
        raise RefusalError(400, "this is a proxy: expected CONNECT host:port, or an http:// URI in the request line")
    host, port = _split_authority(uri[1], default_port=80)
    authority = in_brackets(host) + (f":{port}" if port != 80 else "")
    kept, lengths = [f"{method} /{uri[3] or ''} {version}", f"Host: {authority}"], set()
    for text in lines:
        field = _FIELD.fullmatch(text)
        if not field:
            raise RefusalError(400, "a header field is malformed")
        name = field[1].lower()
        if name == "transfer-encoding":
            raise RefusalError(411, "a request of plain HTTP needs a Content-Length here")
        if name == "content-length":
            lengths.add(field[2].strip(" \t"))
        elif name not in _OWN_FIELDS and not name.startswith("proxy-"):
            kept.append(text)
    if len(lengths) > 1 or not all(re.fullmatch(r"[0-9]{1,15}", length) for length in lengths):
        raise RefusalError(400, "the Content-Length is malformed")
    kept += [f"Content-Length: {length}" for length in lengths]
    new_head = "\r\n".join([*kept, "Connection: close", "", ""]).encode("latin-1")
    return Request(host=host, port=port, head=new_head, body_bytes=int(lengths.pop()) if lengths else 0)


def _split_authority(text: str, *, default_port: int | None) -> tuple[str, int]:
    parts = _AUTHORITY.fullmatch(text)
    port = int(parts[2]) if parts and parts[2] else default_port
    if not parts or port is None or not 0 < port < 65536:
        raise RefusalError(400, "the request names no host and port")
    try:
        return canonical_host(parts[1]), port
    except ValueError as error:
        raise RefusalError(400, "the request's host is neither a name nor an address") from error


def in_brackets(host: str) -> str:
    """Return a host as it stands before a port."""
    return f"[{host}]" if ":" in host else host
