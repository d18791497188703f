"""What an allow-list allows, which addresses are public, and what a proxy request asks for."""

import contextlib
import ipaddress
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srl_swe.environments.allow_list import AllowList, canonical_host, is_global
from srl_swe.environments.proxy_requests import RefusalError, Request, in_brackets, parse_request
from srl_swe.errors import ConfigError

NAMES = st.from_regex(r"[a-z0-9]{1,8}(\.[a-z0-9]{1,8}){1,3}", fullmatch=True).filter(lambda name: name[-1].isalpha())


@pytest.mark.parametrize(
    ("entry", "allowed", "refused"),
    [
        ("pypi.org", ["pypi.org:80", "pypi.org:443"], ["pypi.org:22", "x.pypi.org:443", "xpypi.org:443", "org:443"]),
        ("*.example.org", ["a.example.org:443", "a.b.example.org:80"], ["example.org:443", "aexample.org:443"]),
        ("PyPI.org.", ["pypi.org:443"], []),
        ("pypi.org:8080", ["pypi.org:8080"], ["pypi.org:443"]),
        ("*.example.org:22", ["a.example.org:22"], ["a.example.org:443"]),
        ("bücher.example", ["xn--bcher-kva.example:443"], []),
        ("127.0.0.1:8080", ["127.0.0.1:8080"], ["127.0.0.1:80", "localhost:8080", "127.0.0.2:8080"]),
        ("[::0001]:8080", ["::1:8080"], ["::2:8080"]),
        ("localhost:1", ["localhost:1"], ["x.localhost:1"]),
    ],
)
def test_what_entries_mean(entry: str, allowed: list[str], refused: list[str]) -> None:
    allow = AllowList([entry])
    for text in allowed + refused:
        host, _, port = text.rpartition(":")
        assert (allow.find(host, int(port)) is not None) == (text in allowed), text


def test_only_a_literal_with_a_port_leads_to_any_address() -> None:
    allow = AllowList(["localhost:1", "10.0.0.1:1", "[::1]:1", "intern.example:1", "*.localhost:1", "1.1.1.1"])
    for host in ("localhost", "10.0.0.1", "::1"):
        rule = allow.find(host, 1)
        assert rule and rule.any_address
    for host, port in (("intern.example", 1), ("a.localhost", 1), ("1.1.1.1", 443)):
        rule = allow.find(host, port)
        assert rule and not rule.any_address


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "*",
        "*.",
        "https://pypi.org",
        "pypi.org/simple",
        "pypi.org:",
        "pypi.org:0",
        "pypi.org:65536",
        "pypi.org:http",
        "user@pypi.org",
        "a b",
        "a..b",
        "pypi.org..",
        "pypi.org\n",
        "a*.org",
        "*.10.0.0.1",
        "10.0.0.1",
        "::1",
        "[::1]",
        "[1.2.3.4]:80",
        "[fe80::1%eth0]:80",
        "localhost",
        "faß.example",
        "x" * 64 + ".org",
    ],
)
def test_a_malformed_entry_is_named(entry: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(repr(entry))):
        AllowList(["pypi.org", entry])


def test_a_text_is_not_a_list() -> None:
    with pytest.raises(ConfigError, match="expected a list"):
        AllowList("pypi.org")


@given(st.text(max_size=30))
def test_any_text_is_an_entry_or_a_config_error(entry: str) -> None:
    with contextlib.suppress(ConfigError):
        assert all(host.isascii() and canonical_host(in_brackets(host)) == host for host in AllowList([entry]).hosts)


@given(NAMES, st.sampled_from(["", "."]), st.booleans())
def test_hosts_have_one_form(name: str, dot: str, upper: bool) -> None:
    text = (name.upper() if upper else name) + dot
    assert canonical_host(text) == name == canonical_host(canonical_host(text))


NOT_PUBLIC = """
0.0.0.0 10.1.2.3 100.64.0.1 127.0.0.1 169.254.169.254 172.16.0.1 192.168.1.1 198.18.0.1 203.0.113.1 224.0.0.1 239.1.1.1
240.0.0.1 255.255.255.255 :: ::1 fe80::1 fe80::1%2 fc00::1 fd00:ec2::254 fec0::1 ff02::1 ff0e::1 2001:db8::1
::ffff:127.0.0.1 ::ffff:10.0.0.1 ::127.0.0.1 64:ff9b::7f00:1 64:ff9b::a00:1 64:ff9b:1::1 2002:7f00:1::1 2001::1
"""


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_global(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "151.101.0.223", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_public_addresses(address: str) -> None:
    assert is_global(address)


@given(st.ip_addresses(v=4))
def test_an_embedded_address_is_public_where_it_is_public_itself(address: ipaddress.IPv4Address) -> None:
    assert is_global(f"::ffff:{address}") == is_global(str(address)) == is_global(f"64:ff9b::{address}")


def test_a_tunnel() -> None:
    assert parse_request(b"CONNECT PyPI.org.:443 HTTP/1.1\r\nHost: other") == Request(
        host="pypi.org", port=443, head=None
    )
    assert parse_request(b"CONNECT [::1]:8443 HTTP/1.0").host == "::1"


def test_a_plain_request_is_rewritten() -> None:
    request = parse_request(
        b"POST HTTP://PyPI.org:8080?q=1 HTTP/1.1\r\nhost: evil.example\r\nProxy-Authorization: Basic eDp5\r\n"
        b"Connection: keep-alive, X-Kept\r\nKeep-Alive: 5\r\nX-Kept: \xff\r\nUpgrade: h2c\r\nContent-Length: 3"
    )
    assert (request.host, request.port, request.body_bytes) == ("pypi.org", 8080, 3)
    assert request.head == (
        b"POST /?q=1 HTTP/1.1\r\nHost: pypi.org:8080\r\nX-Kept: \xff\r\nContent-Length: 3\r\nConnection: close\r\n\r\n"
    )
    assert parse_request(b"GET http://a.b HTTP/1.0").head == b"GET / HTTP/1.0\r\nHost: a.b\r\nConnection: close\r\n\r\n"
    assert parse_request(b"GET http://[::1]:81/x HTTP/1.1").head == (
        b"GET /x HTTP/1.1\r\nHost: [::1]:81\r\nConnection: close\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"", 400),
        (b"GET / HTTP/1.1\r\nHost: a.b", 400),
        (b"GET https://a.b/ HTTP/1.1", 400),
        (b"GET http://a.b/ HTTP/2.0", 400),
        (b"GET http://a.b/#x HTTP/1.1", 400),
        (b"GET http://good.example@evil.example/ HTTP/1.1", 400),
        (b"GET http://good.example\\@evil.example/ HTTP/1.1", 400),
        (b"GET http://ex%61mple.org/ HTTP/1.1", 400),
        (b"GET http://a.b:99999/ HTTP/1.1", 400),
        (b"GET  http://a.b/ HTTP/1.1", 400),
        (b"GET http://a.b/\tx HTTP/1.1", 400),
        (b"CONNECT a.b HTTP/1.1", 400),
        (b"CONNECT http://a.b:443 HTTP/1.1", 400),
        (b"GET http://a.b/ HTTP/1.1\r\n folded", 400),
        (b"GET http://a.b/ HTTP/1.1\r\nX : y", 400),
        (b"GET http://a.b/ HTTP/1.1\r\nX: y\nHost: c", 400),
        (b"GET http://a.b/ HTTP/1.1\r\nX: y\rHost: c", 400),
        (b"GET http://a.b/ HTTP/1.1\r\nX: \0", 400),
        (b"GET http://a.b/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2", 400),
        (b"GET http://a.b/ HTTP/1.1\r\nContent-Length: 1, 1", 400),
        (b"GET http://a.b/ HTTP/1.1\r\nContent-Length: +1", 400),
        (b"GET http://a.b/ HTTP/1.1\r\nTransfer-Encoding: chunked", 411),
        (b"GET http://a.b/ HTTP/1.1\r\nTransfer-Encoding: identity\r\nContent-Length: 1", 411),
    ],
)
def test_what_two_readers_may_read_in_two_ways_is_refused(head: bytes, status: int) -> None:
    with pytest.raises(RefusalError) as caught:
        parse_request(head)
    assert caught.value.status == status


@given(
    st.lists(
        st.sampled_from(
            ["\r", "\n", "\r\n", " ", ":", "Host", "Host: x", "Connection: x", "A", "\t", "Content-Length: 1"]
        ),
        max_size=12,
    )
)
def test_every_rewritten_head_has_one_host_and_closes(pieces: list[str]) -> None:
    try:
        request = parse_request(f"GET http://a.b/ HTTP/1.1\r\n{''.join(pieces)}".encode())
    except RefusalError:
        return
    assert request.head
    lines = request.head.decode().split("\r\n")
    assert lines[-2:] == ["", ""] and all(lines[:-2])
    assert not re.search(r"(?<!\r)\n|\r(?!\n)", request.head.decode())
    fields = [line.partition(":") for line in lines[1:-2]]
    for name, value in (("host", "a.b"), ("connection", "close")):
        assert [text.strip() for found, _, text in fields if found.strip().lower() == name] == [value]
