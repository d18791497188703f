"""Bytes as people write and read them: 60GB, 1.5 TB."""

import re

from srl_swe.errors import ConfigError

_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", re.IGNORECASE)


def parse_bytes(text: str, *, what: str) -> int:
    """Return the bytes that a text such as 60GB (10^9), 55GiB (2^30) or 123456 means; `what` opens the message.

    Raises:
        ConfigError: it means none.

    >>> parse_bytes("1.5 kB", what="size")
    1500
    """
    found = _SIZE.fullmatch(text.strip())
    if not found or not (count := round(float(found[1]) * (_DECIMAL | _BINARY)[(found[2] or "").lower()])):
        raise ConfigError(f"{what} {text!r}: expected a size above 0 such as 60GB, 1.5TB or 55GiB")
    return count


def shown_bytes(count: int) -> str:
    """Return bytes for people, in powers of ten as disks are sold.

    >>> shown_bytes(1_234_000_000)
    '1.2 GB'
    """
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
