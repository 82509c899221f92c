"""How long a server is waited for that does not answer now and says so: HTTP 429 or 503, with Retry-After or without.

That is no fault of a server's, which may take no more requests than it has room for. One that has run out of memory
says the same and is not asked again: that is what it is asked about.
"""

from __future__ import annotations

import asyncio
import re
import time

from djinn_checks.errors import InstrumentError

_LATER = (429, 503)
TURN_TRIES = 60
"""Of a turn, which may have to wait for those of other agents."""
OTHER_TRIES = 6
"""Of any other request."""
_MOST_S = 300.0
"""From its first try to its last: as long as an answer is waited for."""
_PAUSE_S = 0.5
"""Where the server does not say how long to wait, or says it as a date."""
_LEAST_PAUSE_S = 0.05
_NO_MEMORY = re.compile("out.of.memory", re.IGNORECASE)


class LaterError(InstrumentError):
    """The server does not answer now."""

    def __init__(self, message: str, pause_s: float) -> None:
        """Take what to say, and the seconds after which the server may be asked again."""
        super().__init__(message)
        self.pause_s = pause_s


def is_later(status: int, text: str) -> bool:
    """Return whether a server says that the same request may be answered later."""
    return status in _LATER and not _NO_MEMORY.search(text)


def read_pause_s(retry_after: str | None) -> float:
    """Return the seconds that a Retry-After header says."""
    said = (retry_after or "").strip()
    return max(float(said), _LEAST_PAUSE_S) if re.fullmatch(r"\d{1,9}(\.\d+)?", said) else _PAUSE_S


class Patience:
    """What is left of it for one request."""

    def __init__(self, *, tries: int) -> None:
        self.tries, self.refusals = tries, 0
        self.first_s = time.monotonic()

    async def wait(self, error: LaterError) -> float:
        """Wait until the request may be sent again, and return the seconds.

        Raises:
            InstrumentError: it was refused too often, or would be too late.
        """
        self.refusals += 1
        spent_s = time.monotonic() - self.first_s
        if self.refusals >= self.tries or spent_s + error.pause_s > _MOST_S:
            raise InstrumentError(
                f"{error}; refused {self.refusals} times within {spent_s:.1f} s, and then not asked again"
            ) from error
        await asyncio.sleep(error.pause_s)
        return error.pause_s
