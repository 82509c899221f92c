"""What a server's refusal asks of whoever runs the check, by its HTTP status; and the key that some servers ask for.

The key comes from the environment and from nowhere else: parameters are kept in the outcome, and printed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from djinn_checks.errors import InstrumentError

KEY_VARIABLE = "DJINN_CHECKS_API_KEY"

_REDIRECTS = (301, 302, 303, 307, 308)
_NO_KEY = (401, 403)


class RefusedError(InstrumentError):
    """The server does not take a body of this form.

    Attributes:
        status: of HTTP.
    """

    status = 0


def key_header() -> dict[str, str]:
    """Return the header with the key of the environment; nothing if there is none."""
    key = os.environ.get(KEY_VARIABLE)
    return {"Authorization": f"Bearer {key}"} if key else {}


def without_key(told: str) -> str:
    """Return what a server said without the key, which some repeat."""
    key = os.environ.get(KEY_VARIABLE)
    return told.replace(key, f"[{KEY_VARIABLE}]") if key else told


def say_error(body: bytes) -> str:
    """Return what a JSON answer says of an error, as LM Studio's do under HTTP 200; empty if it says nothing of one."""
    try:
        told = json.loads(body)
    except ValueError:
        return ""
    return str(told["error"])[:500] if isinstance(told, dict) and told.get("error") else ""


def tell_remedy(path: str, status: int, headers: Mapping[str, str], text: str) -> str:
    """Return what helps against a refusal, as a clause; empty where nothing is known."""
    if status in _NO_KEY:
        given = "is another one than" if os.environ.get(KEY_VARIABLE) else "is not given:"
        return f"; a key that it takes {given} {KEY_VARIABLE}, in the environment of this check"
    if status in _REDIRECTS:
        return f"; it sends on to {headers.get('Location', 'nowhere')}: give that server as server_address"
    if status == 404 and "model" in text.lower():
        return "; if it has no model of that name, name one that it serves as server_model"
    if status in (404, 405) and path == "/v1/completions":
        return "; OpenAI's completions are asked for: a server with chat completions alone cannot be checked"
    return ""


def tell_models(asked: str, listed: Sequence[Any]) -> str:
    """Return which models a server lists beside the one that was asked, as a clause; empty if there are no others."""
    names = [str(entry.get("id")) for entry in listed if isinstance(entry, Mapping)]
    if len(names) < 2:
        return ""
    return f"; asked was {asked!r}, the first of its models: {', '.join(names[:8])}; name another one as server_model"
