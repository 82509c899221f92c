"""Markup that a notebook brings along, with everything taken out that is not text, a table or a picture.

What this package makes of an outcome is escaped where it is made. A reader's own cells, markdown, and notebooks
from elsewhere are not ours: they keep their words and tables, and lose scripts, styles, forms and foreign addresses.
The page's content policy would stop those as well; neither relies on the other. They lose their classes and ids, too:
whatever looks like a verdict on a page is one.

Markup of our own is of the type `Html`, which no notebook can hold: what is read from a file is text.
"""

from __future__ import annotations

import re

import bleach

from djinn_checks.report.tables import Html

_TAGS = {
    "a", "b", "blockquote", "br", "caption", "code", "dd", "del", "details", "div", "dl", "dt", "em", "figcaption",
    "figure", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "ins", "li", "mark", "ol", "p", "pre", "q", "s",
    "samp", "small", "span", "strong", "sub", "summary", "sup", "table", "tbody", "td", "tfoot", "th", "thead", "tr",
    "ul", "wbr",
}  # fmt: skip
_ATTRIBUTES = {"alt", "aria-hidden", "aria-label", "colspan", "rowspan", "scope", "start", "title"}
_FRAME = "dataframe"
"""The one class that foreign markup keeps, on tables: a frame of pandas is set in columns."""
_ANCHOR = re.compile(r'<a class="anchor-link" href="#[^"<>]*">[^<>]*</a>')
"""What nbconvert puts behind each heading; without its id the heading is no place to go to."""
_WITH_CONTENT = re.compile(r"<(script|style|template|noscript)\b.*?(</\1\s*>|\Z)", re.DOTALL | re.IGNORECASE)


def clean_html(markup: str) -> str:
    """Return markup as it may stand on a page: no script, style, class, form, or address that is loaded.

    Args:
        markup: from outside; or our own, which is returned as it is.
    """
    if isinstance(markup, Html):
        return markup
    words = _ANCHOR.sub("", _WITH_CONTENT.sub("", markup))
    return str(bleach.clean(words, tags=_TAGS, attributes=_is_allowed, protocols={"data", "http", "https"}, strip=True))


def _is_allowed(tag: str, name: str, value: str) -> bool:
    if tag == "img" and name == "src":
        return value.startswith("data:image/")
    if tag == "a" and name == "href":
        return value.startswith(("#", "https://", "http://", "./"))
    return name in _ATTRIBUTES or (tag == "table" and name == "class" and value.split() == [_FRAME])
