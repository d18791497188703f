"""Text for pages, and the templates' environment.

Whatever stands on a page may be hostile: templates escape all text, and characters that would be invisible or turn the
text around are shown as what they are. Drawings are left to `drawing`.
"""

import importlib.resources
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from srl_swe.errors import MissingExtraError
from srl_swe.pages import drawing
from srl_swe.prompts import cut_middle

if TYPE_CHECKING:
    from jinja2 import Environment
    from rich.console import Console

MAX_SHOWN_CHARS = 12_000
"""Longer texts lose their middle on the page."""
_INVISIBLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def check_installed() -> None:
    """Raise MissingExtraError where a package that pages need is not installed."""
    drawing.check_installed()
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("pages need jinja2: pip install 'srl-swe[data]'") from error


def page_or_none(make: Callable[[], Path], console: "Console | None") -> Path | None:
    """Make a page after other work; None, and a line that says why, where the packages are not installed."""
    try:
        return make()
    except MissingExtraError as error:
        if console is not None:
            console.print(f"no page was written: {error}", markup=False, highlight=False)
        return None


def page_environment(package: str) -> "Environment":
    """Return the environment of a package's templates, which may import those of this package.

    Raises:
        MissingExtraError: a package that pages need is not installed.
    """
    check_installed()
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def load(name: str) -> str | None:
        for folder in (package, "srl_swe.pages"):
            file = importlib.resources.files(folder).joinpath(name)
            if file.is_file():
                return file.read_text("utf-8")
        return None

    environment = Environment(
        loader=FunctionLoader(load), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"visible": visible, "number": _number, "score": _score}
    return environment


def visible(text: object, max_chars: int = MAX_SHOWN_CHARS) -> str:
    """Show what would be invisible or would turn text around, and cut what is very long.

    >>> visible("a\\x1b[1m\\u202eb")
    'a\\u241b[1m\\\\u202eb'
    """
    return _INVISIBLE.sub(_named, cut_middle(str(text), max_chars))


def _named(found: re.Match[str]) -> str:
    code = ord(found.group())
    # Control characters have pictures of their names.
    return chr(0x2400 + code) if code < 0x20 else f"\\u{code:04x}"


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _score(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else f"{value:.2f}"
