"""Figures are short, and still the same figures."""

from __future__ import annotations

import itertools
import math
import random
import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from djinn_checks.report.plots import make_figure, to_svg
from djinn_checks.report.svg import replace_addresses, shorten, to_address

_STEP = re.compile(r"([a-zA-Z])|(-?(?:\d+\.?\d*|\.\d+))")


def ends(path: str) -> list[tuple[float, float]]:
    """Return the points of a path of straight lines, written as steps from each to the next."""
    x = y = 0.0
    found: list[tuple[float, float]] = []
    for letter, steps in itertools.groupby(_in_words(path), key=lambda word: word[0]):
        numbers = [number for _, number in steps]
        dx = numbers if letter == "h" else [0.0] * len(numbers) if letter == "v" else numbers[::2]
        dy = numbers if letter == "v" else [0.0] * len(numbers) if letter == "h" else numbers[1::2]
        for step_x, step_y in zip(dx, dy, strict=True):
            x, y = x + step_x, y + step_y
            found.append((x, y))
    return found


def _in_words(path: str) -> list[tuple[str, float]]:
    letter, words = "", []
    for command, number in _STEP.findall(path):
        letter = command or letter
        if number:
            words.append((letter, float(number)))
    return words


def test_a_long_line_ends_where_it_ended_before() -> None:
    draw = random.Random(0)
    points = [(draw.uniform(0, 720), draw.uniform(0, 240)) for _ in range(5000)]
    line = "L".join(f"{x:.6f} {y:.6f} \n" for x, y in points)
    svg = shorten(f'<svg xmlns="http://www.w3.org/2000/svg"><path d="M{line}" style="fill: none"/></svg>')
    found = ends(next(ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}path")).attrib["d"])
    assert len(found) == len(points)
    assert max(math.dist(one, other) for one, other in zip(found, points, strict=True)) < 0.02
    assert len(svg) < 0.7 * len(line)


def test_a_figure_has_one_element_a_line_and_is_half_as_long() -> None:
    figure, (axes,) = make_figure()
    axes.plot(range(100), [number % 7 for number in range(100)], label="a line")
    axes.legend()
    svg = to_svg(figure)
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert "'" not in svg, "its quotes can be told apart from those of a page"
    assert all(line.count("<") <= 2 for line in svg.splitlines())


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cc"])), st.booleans())
def test_a_picture_is_read_back_from_the_page_that_shows_it(text: str, in_a_set: bool) -> None:
    svg = f"<svg>{text}</svg>"
    address = to_address(svg)
    assert not set(address) & set(' \t\n"<>#&')
    page = f'<p>0%, "</p><img srcset="{address}"> and 0%' if in_a_set else f'<img src="{address}">'
    words, (found,) = replace_addresses(page, "here")
    assert found in (svg, svg.replace('"', "'"))
    assert words == page.replace(address, "here")
