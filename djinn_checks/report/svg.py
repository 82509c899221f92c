"""SVG that is short, and as the address of an image within a page.

Matplotlib writes every point of a line with six decimals and every style in full, three times what a picture needs.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any
from urllib.parse import quote, unquote

from scour import scour

_DIGITS = re.compile(r"(\.\d\d)\d+")
"""A hundredth of a point cannot be seen."""
_PATH = re.compile(r' d="[^"]*"')
_DOCTYPE = re.compile(r"<!DOCTYPE[^>]*>")
_START = "data:image/svg+xml,"
_PLAIN = "/=;,.-'+"
"""Stands for itself in an address within quotes, and within a `srcset`, which ends at a space. No colon and no bracket:
a page has no `http:` and no `url(`, so anyone can see that it loads nothing."""
_ADDRESS = re.compile(re.escape(_START) + r"([A-Za-z0-9%_~" + re.escape(_PLAIN) + "]+)")


def shorten(svg: str) -> str:
    """Return the same picture in fewer letters, one element a line, without what is no part of it."""
    rounded = _PATH.sub(lambda path: _DIGITS.sub(r"\1", path[0]), _DOCTYPE.sub("", svg))
    short: str = scour.scourString(rounded, _options())
    return short


@cache
def _options() -> Any:
    left_out = ("--strip-xml-prolog", "--enable-id-stripping", "--enable-comment-stripping", "--remove-metadata")
    return scour.parse_args([*left_out, "--indent=none", "--quiet"])


def to_address(svg: str) -> str:
    """Return a `data:` address of a picture, for an attribute in double quotes. Percent signs take less room than
    base64 does, and leave the words of a picture to be read in its page."""
    if "'" not in svg:
        svg = svg.replace('"', "'")
    return _START + quote(svg, safe=_PLAIN)


def replace_addresses(page: str, word: str) -> tuple[str, list[str]]:
    """Return a page with a word in place of each picture that `to_address` put there, and those pictures."""
    return _ADDRESS.sub(word, page), [unquote(address) for address in _ADDRESS.findall(page)]
