"""What a server lists of its sessions, held against what such a list has to be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from djinn_checks.checks.agents.reply import SessionRecord
from djinn_checks.errors import InstrumentError

_EXPECTED = 'expected {"sessions": [{"id": "...", "state": "...", ...}, ...]}'
_TEXTS = ("state", "digest_out", "digest_in")
_NUMBERS = (
    "swaps", "restores", "swapped_bytes", "restored_bytes", "swap_s", "restore_s", "allocate_s", "digest_s",
)  # fmt: skip
"""What may be said of a session; null, or nothing, is unknown."""
STATES = ("IDLE", "ACTIVE", "SWAPPING_OUT", "SWAPPED", "SWAPPING_IN", "CLOSED")
"""Those that this check knows the meaning of."""
UNSAID = "none"
"""The state of a session of which the server gives none."""


def read_list(said: Any) -> dict[str, Mapping[str, Any]]:
    """Return what is listed of each session, by its id.

    Raises:
        InstrumentError: it is no such list.
    """
    listed = said.get("sessions") if isinstance(said, Mapping) else None
    if not isinstance(listed, list):
        raise InstrumentError(f"a list of sessions: {_EXPECTED}, got {str(said)[:200]}")
    for entry in listed:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("id"), str):
            raise InstrumentError(f"a list of sessions: {_EXPECTED}, got {str(entry)[:200]} in it")
        _see_kinds(entry)
    return {entry["id"]: entry for entry in listed}


def _see_kinds(entry: Mapping[str, Any]) -> None:
    for names, kinds, expected in ((_TEXTS, (str,), "a text"), (_NUMBERS, (int, float), "a number")):
        for name in names:
            value = entry.get(name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
                raise InstrumentError(f"session {entry['id']!r}: {name}: expected {expected} or null, got {value!r}")


def read_record(entry: Mapping[str, Any]) -> SessionRecord:
    """Return what is said of a session."""
    return SessionRecord(**{name: entry.get(name) for name in (*_TEXTS, *_NUMBERS)})


def why_unknown(states: Iterable[str]) -> str:
    """Return why it is not known where sessions of such states are; empty if it is."""
    odd = sorted(set(states) - set(STATES))
    if not odd:
        return ""
    told = "gives no state of a session" if odd == [UNSAID] else f"says of sessions that they are {', '.join(odd)}"
    return f"the server {told}: where they are is not known; expected one of {', '.join(STATES)}"
