"""What is said of a folder that holds no finished suite."""

from __future__ import annotations

from pathlib import Path


def say_no_suite(folder: Path) -> str:
    """Return what was expected there, what is there, and what helps."""
    said = f"{folder}: expected the folder of a finished suite, with <check>.outcome.json files"
    if folder.is_file():
        return f"{said}, got a file; give its folder, {folder.parent}"
    if not folder.is_dir():
        return f"{said}, and there is no such folder; is the path right?"
    within = sorted(file.parent.name for file in folder.glob("*/*.outcome.json"))
    return f"{said}, found none" + (f"; there are some in {folder / within[0]}" if within else "")
