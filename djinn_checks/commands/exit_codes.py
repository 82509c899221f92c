"""The exit codes, and what they stand for."""

from __future__ import annotations

from collections.abc import Sequence

from djinn_checks.outcome import Status

EXIT_CODES = """exit codes:
  0  nothing failed (INCONCLUSIVE counts as not failed, unless --strict)
  1  a check is FAIL
  2  the command line or a params file is wrong; nothing ran
  3  a check is INCONCLUSIVE, under --strict
  4  a check is ERROR: it crashed, timed out or was killed
  5  part of a folder, what is printed, or a file for a CI could not be read or written; all else is done
  6  djinn-checks itself crashed, which says nothing about any check
     Of a suite with a system under test and others beside it, these are about the one under test.
130  the suite was told to stop, by Ctrl-C or a signal; the check that this hit is ERROR, finished ones are kept
preflight: 0 if nothing is missing, 1 otherwise
faults: 1 if one escapes, or a clean run raises an alarm; 3 if a clean run has no verdict
verify: 1 if something in a folder disagrees, 5 if nothing does and something could not be read
bundle: 1 if something names a host or a user; nothing is written then
compare: 1 if a status differs or a suite lacks one
plausible: 0 if the figure is possible, 1 if it is impossible, 3 if that is not decidable
"""


def exit_code(statuses: Sequence[Status], *, strict: bool, is_whole: bool = True) -> int:
    """Return the exit code for the statuses of a suite; see EXIT_CODES.

    Args:
        is_whole: whether every page and table was written.
    """
    if Status.ERROR in statuses:
        return 4
    if Status.FAIL in statuses:
        return 1
    if strict and Status.INCONCLUSIVE in statuses:
        return 3
    return 0 if is_whole else 5
