"""A page of its own around parts that are safe to embed: self-contained, without scripts, and it makes no request."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from djinn_checks.report.style import read_style

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def render_page(title: str, parts: Iterable[str]) -> str:
    """Return a whole HTML document with one heading.

    Args:
        title: plain text.
        parts: markup, in which everything that came from outside was escaped.
    """
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(title)} – djinn-checks</title>\n<style>{read_style()}</style>\n</head>\n"
        f'<body class="djinn-checks page">\n<main>\n<h1>{escape(title)}</h1>\n{"".join(parts)}\n</main>\n'
        "<footer>Written by djinn-checks from outcomes on disk. This page loads nothing and runs nothing.</footer>\n"
        "</body>\n</html>\n"
    )
