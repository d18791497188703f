"""What every page must be: closed tags, nothing that loads or runs, links that lead somewhere, hostile text as text."""

import re
from collections.abc import Collection
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "hr", "input"}
HOSTILE = "<script>alert(1)</script>\"' onload=x <img src=//e.org/x> {{ 7 * 7 }} </style> \u202e\x1b[31m"


class StrictPage(HTMLParser):
    """Fails on tags that do not nest, on ids given twice, and on whatever would load, link away or run something."""

    def __init__(self, links: Collection[str]) -> None:
        super().__init__(convert_charrefs=True)
        self.links = links
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in {"script", "img", "iframe", "object", "embed", "link", "form", "base"}, tag
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        for name, value in attrs:
            assert not name.startswith("on"), name
            # Addresses may stand in text, such as a test log, and nowhere else.
            assert "//" not in (value or ""), value
            assert name not in {"src", "srcset", "action", "data", "poster", "background"}, name
            if name == "id":
                self.ids.append(value or "")
            if name.endswith("href") and value not in self.links:
                assert (value or "").startswith("#"), value
                self.targets.append((value or "")[1:])
            if value and "url(" in value:
                self.targets += re.findall(r"url\(#([^)]*)\)", value)
                assert value.count("url(") == value.count("url(#")

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            assert "url(" not in data
            assert "@import" not in data
            assert "//" not in data
        self.text.append(data)


def checked(page: str, links: Collection[str] = ()) -> StrictPage:
    """Check a page; `links` are the other pages that it may lead to."""
    parser = StrictPage(links)
    parser.feed(page)
    parser.close()
    assert page.startswith("<!DOCTYPE html>")
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    assert set(parser.targets) <= set(parser.ids)
    return parser


def text_of(page: str, links: Collection[str] = ()) -> str:
    return " ".join(" ".join(checked(page, links).text).split())
