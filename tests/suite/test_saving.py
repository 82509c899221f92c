"""A notebook is written before a cell that takes its time has come to its end, and not for each cell that does not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from djinn_checks.suite.saving import saved_in_time


class Manager:
    """papermill's, as far as it is used: `nb` is what would be written."""

    def __init__(self) -> None:
        self.nb: list[str] = []
        self.written: list[list[str]] = []

    def save(self, **_: Any) -> None:
        self.written.append(list(self.nb))


def run_cell(manager: Manager, begin: Any, name: str, seconds: float = 0.0, outputs: int = 0) -> None:
    """Do what papermill does with a cell: save, run it in a loop, save with each output if it is time, save."""
    manager.save()

    async def work() -> None:
        begin(cell=None, cell_index=0)
        for _ in range(outputs + 1):
            await asyncio.sleep(seconds / (outputs + 1))
            if outputs:
                manager.save()

    asyncio.run(work())
    manager.nb.append(name)
    manager.save()


def test_cells_that_are_quick_are_written_at_the_end_alone() -> None:
    manager = Manager()
    with saved_in_time(manager, after_s=600) as begin:
        for name in "abc":
            run_cell(manager, begin, name)
        assert manager.written == []
    manager.save()
    assert manager.written == [["a", "b", "c"]]


def test_what_was_there_before_a_cell_that_takes_its_time_is_written_while_it_runs() -> None:
    manager = Manager()
    with saved_in_time(manager, after_s=0.01) as begin:
        manager.nb.append("before")
        run_cell(manager, begin, "slow", seconds=0.1)
        assert manager.written == [["before"]]


def test_a_cell_that_never_stops_talking_is_written_meanwhile() -> None:
    manager = Manager()
    with saved_in_time(manager, after_s=0.02) as begin:
        run_cell(manager, begin, "talks", seconds=0.3, outputs=30)
        assert len(manager.written) >= 2


def test_whatever_ends_a_run_saving_writes_at_once_afterwards() -> None:
    manager = Manager()
    with pytest.raises(ValueError, match="no kernel"), saved_in_time(manager):
        raise ValueError("no kernel")
    manager.save()
    assert manager.written == [[]]


def test_a_notebook_that_replaces_the_one_that_runs_is_the_one_that_is_written() -> None:
    manager = Manager()
    with saved_in_time(manager):
        manager.save(nb=["another"])
    manager.save()
    assert manager.written == [["another"]]
