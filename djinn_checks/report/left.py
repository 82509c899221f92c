"""Figures that a suite's kernel leaves to the runner, which draws them for the page and puts them into the notebook.

Loading matplotlib takes a second and a figure half of one. Whoever runs a notebook without a suite has them drawn where
they are shown.
"""

from __future__ import annotations

from typing import Any

LEFT = "This figure is drawn on the page of this run."
"""What a notebook says in place of a figure, if no page could be made."""


def leave(*outcome: Any) -> tuple[None, str]:
    """Stand in for the function of any figure: nothing to show, and that in words."""
    return None, LEFT
