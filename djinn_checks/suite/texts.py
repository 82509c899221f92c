"""What an exception says, made fit for files and pages: nothing that UTF-8 cannot hold, and not megabytes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from djinn_checks.errors import OutcomeError
from djinn_checks.outcome import Outcome
from djinn_checks.outcome.fields import make_encodable

_LONGEST_SUMMARY, _LONGEST_MESSAGE, _LONGEST_TRACEBACK = 600, 4_000, 16_000
"""Characters; what is longer is cut, and stands in the log as a whole."""


def fit_outcome(outcome: Outcome) -> tuple[Outcome, str]:
    """Return an outcome whose texts any file and page can hold, and what was cut of them, as a whole; or nothing."""
    data = make_all_encodable(outcome.to_dict())
    whole = []
    texts = [(data, "summary", _LONGEST_SUMMARY), *((row, "reason", _LONGEST_MESSAGE) for row in data["criteria"])]
    if data["failure"]:
        texts += [(data["failure"], "message", _LONGEST_MESSAGE), (data["failure"], "traceback", _LONGEST_TRACEBACK)]
    for holder, name, longest in texts:
        text = holder[name]
        holder[name] = cut(text, longest)
        whole += [f"{name}: {text}"] if holder[name] != text else []
    return (outcome if data == outcome.to_dict() else Outcome.from_dict(data)), "\n".join(whole)


def fit_notebook(notebook: dict[str, Any], mime: str) -> dict[str, Any]:
    """Return an executed notebook in which exceptions are cut likewise; `mime` is what an outcome is shown under."""
    fit: dict[str, Any] = make_all_encodable(notebook)
    for output in (output for cell in fit["cells"] for output in cell.get("outputs", ())):
        if output.get("output_type") == "error":
            output["evalue"] = cut(output["evalue"], _LONGEST_MESSAGE)
            output["traceback"] = [cut(line, _LONGEST_TRACEBACK) for line in output["traceback"]]
        data = output.get("data", {})
        if isinstance(data.get(mime), Mapping) and data[mime].get("failure"):
            _fit_shown(data, mime)
    return fit


def _fit_shown(data: dict[str, Any], mime: str) -> None:
    """Cut what is too long in an output that shows an outcome; one that cannot be read is no outcome."""
    try:
        outcome, whole = fit_outcome(Outcome.from_dict(data[mime]))
    except OutcomeError:
        del data[mime]
        return
    if whole:
        data.pop("text/html", None)  # the page draws it anew
        data["text/plain"] = cut(_join(data.get("text/plain", "")), _LONGEST_MESSAGE)
        data[mime] = outcome.to_dict()


def cut(text: str, longest: int) -> str:
    """Return the begin and the end of a text that is too long, and how much is missing between them."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]} [... {len(text) - 2 * half:,} characters more, in the log ...] {text[-half:]}"


def make_all_encodable(value: Any) -> Any:
    """Return JSON data with every text in it encodable."""
    if isinstance(value, str):
        return make_encodable(value)
    if isinstance(value, Mapping):
        return {make_encodable(str(name)): make_all_encodable(item) for name, item in value.items()}
    return [make_all_encodable(item) for item in value] if isinstance(value, list | tuple) else value


def _join(text: Any) -> str:
    return "".join(text) if isinstance(text, list) else str(text)


def shorten(text: str, longest: int) -> str:
    """Return a text of so many characters at most, cut between two words and never within a number."""
    if len(text) <= longest:
        return text
    head, space, _ = text[: longest - 1].rpartition(" ")
    return f"{head if space else text[: longest - 1]}…"
