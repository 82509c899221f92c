"""A conversion that writes no model, in processes that load nothing for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from djinn_checks.models import smollm2


def stub_files(gguf: Path, folder: Path) -> None:
    """Stand in for a conversion; leave a line beside the cache for each."""
    with (folder.parent.parent / "conversions").open("a") as log:
        log.write("one\n")
    for name in smollm2._FILES:
        (folder / name).write_text(name)


def open_in_a_process(cache: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DJINN_CHECKS_CACHE", cache)
        patch.setattr(smollm2, "_find_gguf", Path)
        patch.setattr(smollm2, "_write_files", stub_files)
        return smollm2.smollm2_folder().name
