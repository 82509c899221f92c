"""What a server with a pool has counted, out of the text that it gives to Prometheus."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from djinn_checks.checks.agents.pool.adapters import Counter, Counters, Info, PoolAdapter
from djinn_checks.checks.agents.reply import Sources

_LINE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ONE_BYTE = ("fp8", "int8")
"""How the names of types begin whose numbers have one byte."""


@dataclass(frozen=True)
class Series:
    """A number with its name and labels."""

    name: str
    labels: Mapping[str, str]
    value: float


def parse_metrics(text: str) -> list[Series]:
    """Return all series of Prometheus' text format; lines that are none are left out."""
    found = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if match:
            try:
                found.append(Series(match[1], dict(_LABEL.findall(match[2] or "")), float(match[3])))
            except ValueError:
                continue
    return found


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What was counted so far, or between two readings; None where the server does not count it."""

    prompt: float | None = None
    device: float | None = None
    host: float | None = None
    compute: float | None = None
    untold: float | None = None
    load_bytes: float | None = None
    load_s: float | None = None
    store_bytes: float | None = None
    store_s: float | None = None

    def since(self, before: Counts) -> Counts:
        """Return what came since an earlier reading; a counter that was not there then began at nothing."""
        return Counts(
            **{
                part.name: None
                if (now := getattr(self, part.name)) is None
                else now - (getattr(before, part.name) or 0)
                for part in fields(Counts)
            }
        )

    @property
    def surplus(self) -> float | None:
        """By how many tokens the sources are more than the prompt; None if one of them has no counter of its own."""
        if self.prompt is None or self.device is None or self.host is None or self.compute is None:
            return None
        return self.device + self.host + self.compute - self.prompt

    @property
    def adds_up(self) -> bool:
        """Whether the sources are those of one prompt, as far as is known.

        vLLM counts the last token of a prompt that it has whole twice: as cached, and as computed.
        """
        return self.surplus is None or 0 <= self.surplus <= 1

    @property
    def sources(self) -> Sources:
        """Where the tokens of one prompt came from; unknown if they do not add up to it."""
        if self.untold or not self.adds_up:
            return Sources()
        parts = (self.prompt, self.device, self.host)
        computed = None if None in parts else int((self.prompt or 0) - (self.device or 0) - (self.host or 0))
        return Sources(
            device=None if self.device is None else int(self.device),
            host=None if self.host is None else int(self.host),
            computed=computed,
        )


def read_counts(adapter: PoolAdapter, series: Sequence[Series]) -> Counts:
    """Return what the server has counted so far."""
    named = [part.name for part in fields(Counts) if part.name != "untold"]
    counts = Counts(**{name: _read_counter(getattr(adapter, name), series) for name in named})
    return replace(counts, untold=_read_untold(adapter, series))


def _read_untold(adapter: PoolAdapter, series: Sequence[Series]) -> float | None:
    """Return what is counted under a source that is not known here; None if no source is told at all. One that is the
    sum of those that are known is their total, and none."""
    there = {entry.name for entry in series}
    read = [
        next((one for one in part if one.name in there), None)
        for part in (adapter.device, adapter.host, adapter.compute)
    ]
    labelled = [counter for counter in read if counter and counter.label]
    if not labelled:
        return None
    entries = [entry for entry in series if any(counter.name == entry.name for counter in labelled)]
    known = [entry for entry in entries if any(_is_meant(one, entry) for one in labelled if one.name == entry.name)]
    untold = sum(entry.value for entry in entries if entry not in known)
    return 0.0 if untold == sum(entry.value for entry in known) else untold


def find_missing(adapter: PoolAdapter, series: Sequence[Series]) -> dict[str, str]:
    """Return what the server does not count: the part of `Counts`, and the names under which it was looked for."""
    return {
        part.name: " or ".join(map(str, getattr(adapter, part.name)))
        for part in fields(Counts)
        if part.name != "untold"
        and getattr(adapter, part.name)
        and _read_counter(getattr(adapter, part.name), series) is None
    }


def why_untold(adapter: PoolAdapter, counted: Counts) -> str:
    """Return that the server does not say in words that are known which cache tokens came from; empty if it does."""
    if not counted.untold:
        return ""
    names = " or ".join(map(str, (*adapter.device, *adapter.host)))
    needs = f"; {adapter.name} has to be started with {adapter.needs}" if adapter.needs else ""
    return (
        f"it counted {counted.untold:,.0f} tokens under a source that is none of those that are known here ({names}), "
        f"so whether they came from the device or from outside it is open{needs}"
    )


def read_block_tokens(adapter: PoolAdapter, series: Sequence[Series]) -> int | None:
    """Return the tokens of a block; None if the server does not say."""
    return _read_info(adapter.block_tokens, series)


def read_kv_itemsize(adapter: PoolAdapter, series: Sequence[Series]) -> int | None:
    """Return the bytes of a number in the KV that is kept; None if they are those of the model's type, or unknown."""
    said = {entry.labels.get(info.label, "") for info in adapter.kv_type for entry in series if entry.name == info.name}
    is_short = bool(said) and all(name.startswith(_ONE_BYTE) for name in said)
    return 1 if is_short else None


def read_engines(adapter: PoolAdapter, series: Sequence[Series]) -> int:
    """Return how many engines the server has, each with a pool of its own."""
    names = {info.name for info in (*adapter.pool_tokens, *adapter.pool_blocks)}
    return len(_by_engine(adapter, [entry for entry in series if entry.name in names])) or 1


def read_pool_tokens(adapter: PoolAdapter, series: Sequence[Series]) -> int | None:
    """Return the tokens that the device's pools hold, all engines' together; None if the server does not say."""
    found = [_read_pool(adapter, own) for own in _by_engine(adapter, series).values()]
    known = [tokens for tokens in found if tokens is not None]
    return sum(known) if known else None


def _by_engine(adapter: PoolAdapter, series: Sequence[Series]) -> dict[str, list[Series]]:
    found: dict[str, list[Series]] = {}
    for entry in series:
        found.setdefault(entry.labels.get(adapter.engine, ""), []).append(entry)
    return found


def _read_pool(adapter: PoolAdapter, series: Sequence[Series]) -> int | None:
    said = _read_info(adapter.pool_tokens, series)
    blocks, block = _read_info(adapter.pool_blocks, series), read_block_tokens(adapter, series)
    return said or (blocks * block if blocks and block else None)


def _read_counter(alternatives: Counters, series: Sequence[Series]) -> float | None:
    for counter in alternatives:
        named = [entry for entry in series if entry.name == counter.name]
        if named:
            return sum(entry.value for entry in named if _is_meant(counter, entry))
    return None


def _is_meant(counter: Counter, entry: Series) -> bool:
    if not counter.label:
        return True
    value = entry.labels.get(counter.label, "")
    return any(value.startswith(one[:-1]) if one.endswith("*") else value == one for one in counter.values)


def _read_info(alternatives: Sequence[Info], series: Sequence[Series]) -> int | None:
    for info in alternatives:
        for entry in series:
            said = entry.labels.get(info.label, "") if info.label else f"{entry.value:.0f}"
            if entry.name == info.name and said.isdecimal() and int(said):
                return int(said)
    return None
