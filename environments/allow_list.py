"""Which hosts a container may reach: the entries of an allow-list, and which addresses are public.

Left out: who asks (`egress.py`).
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from srl_swe.errors import ConfigError

_DEFAULT_PORTS = (80, 443)
_ENTRY = re.compile(r"(\*\.)?(\[[^][%]*\]|[^][:/@\s]+)(?::(\d{1,5}))?")
_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
# Translated and tunnelled IPv4 (RFC 6052, RFC 3056, RFC 4380).
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_TUNNELS = (ipaddress.IPv6Network("2002::/16"), ipaddress.IPv6Network("2001::/32"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One entry of an allow-list."""

    host: str
    """As `canonical_host` returns it."""
    subdomains: bool
    """It stands for the names below `host`, and not for `host`."""
    ports: tuple[int, ...]
    any_address: bool
    """May lead to addresses that are not public."""

    def matches(self, host: str, port: int) -> bool:
        """Tell whether a host in canonical form, and a port, are meant."""
        same = host.endswith(f".{self.host}") if self.subdomains else host == self.host
        return same and port in self.ports


class AllowList:
    """The hosts that a container may reach."""

    def __init__(self, entries: Sequence[str]) -> None:
        """Parse entries such as "pypi.org", "*.example.org", "pypi.org:8080", "127.0.0.1:8080" or "[::1]:8080".

        Raises:
            ConfigError: an entry is malformed; the message names it.
        """
        if isinstance(entries, str):
            raise ConfigError(f"the allow-list is the text {entries!r}; expected a list of entries")
        self._entries = tuple(entries)
        self._rules = tuple(_parse(entry) for entry in entries)
        self.hosts = frozenset(rule.host for rule in self._rules if not rule.subdomains)
        """The hosts that are named in full."""

    def __str__(self) -> str:
        return ", ".join(self._entries) or "(nothing)"

    def find(self, host: str, port: int) -> Rule | None:
        """Return the rule that allows a host in canonical form, the most generous one; None where none does."""
        found = [rule for rule in self._rules if rule.matches(host, port)]
        return max(found, key=lambda rule: rule.any_address, default=None)


def canonical_host(text: str) -> str:
    """Return the form of a host in which equal ones are the same: lower case, ASCII, addresses as short as they can be.

    "PyPI.org." becomes "pypi.org", "bücher.example" "xn--bcher-kva.example", "[::0001]" "::1".

    Raises:
        ValueError: it is neither a name nor an address.
    """
    if text.startswith("["):
        return str(ipaddress.IPv6Address(text[1:-1]))
    host = text.removesuffix(".").lower()
    if not host.isascii():
        # Where the two standards on such names part, the older one changes the name: then neither is taken.
        encoded = host.encode("idna").decode("ascii")
        if encoded.encode("ascii").decode("idna") != host:
            raise ValueError(f"{text!r} is not a name that every program writes the same way in ASCII")
        host = encoded
    if not _NAME.fullmatch(host):
        raise ValueError(f"{text!r} is not a host name")
    return host


def is_global(address: str) -> bool:
    """Tell whether an address belongs to the public internet and to a single host there."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if any(ip in network for network in _TUNNELS):
            return False
        if ip in _NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        elif ip.ipv4_mapped:
            ip = ip.ipv4_mapped
        elif ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _parse(entry: str) -> Rule:
    what = f"the allow-list's entry {entry!r}"
    parts = _ENTRY.fullmatch(entry)
    port = int(parts[3]) if parts and parts[3] else None
    if not parts or (port is not None and not 0 < port < 65536):
        raise ConfigError(f'{what} is malformed; expected "pypi.org", "*.example.org" or either with a port, ":8080"')
    try:
        host = canonical_host(parts[2])
    except ValueError as error:
        raise ConfigError(f"{what} names no host: {error}") from error
    subdomains, literal = bool(parts[1]), _is_literal(host)
    if literal and subdomains:
        raise ConfigError(f"{what} has names below an address; expected a name after '*.'")
    if port is None and (host == "localhost" or (literal and not is_global(host))):
        raise ConfigError(f"{what} is not of the public internet; expected a port with it, like '{entry}:8080'")
    return Rule(
        host=host,
        subdomains=subdomains,
        ports=_DEFAULT_PORTS if port is None else (port,),
        any_address=port is not None and not subdomains and (literal or host == "localhost"),
    )
