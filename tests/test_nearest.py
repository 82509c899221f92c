"""A name that nothing answers to is met with what it may have meant, or with all that there is."""

from __future__ import annotations

from djinn_checks.nearest import find_nearest, suggest


def test_the_nearest_name_is_asked_about_and_all_are_told_if_none_is_near() -> None:
    known = ("prompts", "passes", "device")
    assert suggest("pases", known) == "did you mean 'passes'?"
    assert suggest("budget", known) == "known: prompts, passes, device"
    assert suggest("budget", known, otherwise="see the docs") == "see the docs"
    assert suggest("budget", ()) == "known: none"
    assert find_nearest("promts", iter(known)) == "prompts"
    assert find_nearest("pases", known, near=0.99) is None
