"""Whether a published figure of weight streaming can be: arithmetic over a link, with no GPU and no run.

Why this is valid. What is not kept on the device has to cross the link in every pass, M - C bytes of it, so no pass
is shorter than (M - C) / B. A pass gives as many tokens as its batch times what speculation has accepted in it.
The rate that a figure implies is held against two bounds. Above the first one nothing can be: the lanes'
rate after encoding, or a measured ceiling with what such measurements are known to differ by. Below the second
one everything can be as far as the link goes: the encoded rate less the heads of the packets, or the measured
ceiling. Between the two it is not decidable.

It judges the claim that these bytes crossed this link. A system that computes a part of the model on the
processor, or reads only some of its experts, moves less than M - C, and its figure then says impossible of a
claim that it does not make: give the bytes that cross.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from djinn_checks.bounded import MOST_BYTES_OF_PARAMS, read_text, refuse_bulk
from djinn_checks.errors import ParamsError
from djinn_checks.nearest import suggest
from djinn_checks.units import GB

_GT_PER_S = {1: 2.5, 2: 5.0, 3: 8.0, 4: 16.0, 5: 32.0, 6: 64.0}
_ENCODED = {1: 8 / 10, 2: 8 / 10, 3: 128 / 130, 4: 128 / 130, 5: 128 / 130, 6: 242 / 256}
"""Transfers a second of one lane, and the part of them that is data: PCI-SIG, PCI Express Base Specification, each
revision. 8b/10b to 2.0, 128b/130b to 5.0; in 6.0 flits of 256 bytes of which 14 are CRC and error correction."""
_PACKETS = 256 / (256 + 20)
"""A read of host memory comes in packets of 256 bytes with 20 around them; that is what RX was counted to be of
copies on an H200."""
_CEILING_DRIFT = 0.05
"""Two measurements of one ceiling differ by so much on a machine that is shared."""
_LANES = (1, 2, 4, 8, 16)
_LINK = re.compile(r"^\s*PCIe\s+(?:gen\s*)?([1-6])(?:\.0)?\s*[x×]\s*(\d+)\s*$", re.IGNORECASE)


class Answer(StrEnum):
    """What can be said of a figure."""

    POSSIBLE = "possible"
    IMPOSSIBLE = "impossible"
    NOT_DECIDABLE = "not decidable"


_Positive = Annotated[float, Field(ge=1e-12, le=1e18)]
"""Above 0, and of a size that such things can have."""


class Figure(BaseModel):
    """A published figure. All but one of two ways to say a thing may be left out; what is unknown stays unknown."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)

    claim: Annotated[str, Field(min_length=1)]
    """What is claimed, in a line."""
    weight_bytes: _Positive | None = None
    """Bytes of the weights that a pass uses."""
    parameters: _Positive | None = None
    """In place of `weight_bytes`: the number of parameters that a pass uses, with `bits` for each."""
    bits: Annotated[float, Field(gt=0, le=64)] | None = None
    """Bits of a parameter."""
    kept_bytes: Annotated[float, Field(ge=0, le=1e18)] | None = None
    """Bytes of them that stay on the device, at most. Empty: unknown."""
    link: str | None = None
    """For example "PCIe 4.0 x16"."""
    ceiling_gb_per_s: _Positive | None = None
    """In place of `link`: its measured payload ceiling, GB/s."""
    seconds_per_token: _Positive | None = None
    tokens_per_second: _Positive | None = None
    """In place of `seconds_per_token`."""
    batch: Annotated[int, Field(ge=1, le=10**6)] | None = None
    """Sequences that one pass serves, all of whose tokens the figure counts. Empty: unknown."""
    accepted_tokens: Annotated[float, Field(ge=1, le=1e6)] | None = None
    """Tokens of one sequence that a pass gives in the mean: 1, by speculation more. Empty: unknown."""
    compression: Annotated[float, Field(ge=1e-3, le=1)] = 1.0
    """What crosses the link, over the bytes of the weights that it stands for: 0.66 for bf16 coded losslessly."""

    @model_validator(mode="after")
    def _each_thing_is_said_once(self) -> Self:
        if (self.parameters is None) != (self.bits is None):
            raise ValueError("parameters, bits: expected both or neither; a number of parameters has no size alone")
        for names in (
            ("weight_bytes", "parameters"),
            ("link", "ceiling_gb_per_s"),
            ("seconds_per_token", "tokens_per_second"),
        ):
            given = [name for name in names if getattr(self, name) is not None]
            if len(given) > 1:
                raise ValueError(f"{' and '.join(names)} say the same thing: expected one of them, got both; drop one")
        if self.link is not None:
            parse_link(self.link)
        if self.kept_bytes is not None and self.needed is not None and self.kept_bytes > self.needed:
            raise ValueError(f"kept_bytes: expected at most the weights, {self.needed:g}, got {self.kept_bytes:g}")
        return self

    @property
    def needed(self) -> float | None:
        """M, the bytes of the weights."""
        if self.parameters is not None and self.bits is not None:
            return self.parameters * self.bits / 8
        return self.weight_bytes

    @property
    def seconds(self) -> float | None:
        """Seconds for each token that the figure counts."""
        return 1 / self.tokens_per_second if self.tokens_per_second is not None else self.seconds_per_token


@dataclass(frozen=True)
class Link:
    """One direction of a PCI Express link."""

    generation: int
    lanes: int

    @property
    def encoded_bytes_per_s(self) -> float:
        """Everything that its lanes carry, packets' heads included: no payload is faster."""
        return _GT_PER_S[self.generation] * 1e9 * _ENCODED[self.generation] * self.lanes / 8

    @property
    def payload_bytes_per_s(self) -> float:
        """What is left for data in packets of 256 bytes."""
        return self.encoded_bytes_per_s * _PACKETS


def parse_link(text: str) -> Link:
    """Return the link that a text like "PCIe 4.0 x16" names.

    Raises:
        ValueError: it names none.
    """
    found = _LINK.match(text)
    if found is None or int(found[2]) not in _LANES:
        raise ValueError(
            f'link: expected "PCIe <1.0 to 6.0> x<{", ".join(map(str, _LANES))}>", got {text!r}; '
            "for another link give ceiling_gb_per_s"
        )
    return Link(generation=int(found[1]), lanes=int(found[2]))


@dataclass(frozen=True)
class Judgement:
    """An answer, and the arithmetic that leads to it, line by line."""

    answer: Answer
    lines: tuple[str, ...]


def read_figure(path: Path) -> Figure:
    """Read a figure from YAML.

    Raises:
        ParamsError: the file cannot be read, or says what cannot be; every offence is listed.
    """
    try:
        values = yaml.safe_load(read_text(path, MOST_BYTES_OF_PARAMS))
        refuse_bulk(values)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ParamsError(f"{path}: cannot be read as YAML ({error}); give a file of names and values") from error
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: expected names and values (claim: ...), got {type(values).__name__}")
    try:
        return Figure(**{str(name): value for name, value in values.items()})
    except ValidationError as error:
        problems = "\n".join(f"  {_explain(problem)}" for problem in error.errors())
        raise ParamsError(f"{path}: {error.error_count()} problem(s)\n{problems}") from None


def _explain(problem: Any) -> str:
    name, message = ".".join(map(str, problem["loc"])), problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f"{name}: unknown name; {suggest(name, Figure.model_fields)}"
    if not name:
        return str(message)
    came = problem["input"]
    hint = "; YAML reads 1e9 as text, write 1.0e+9 or 1000000000" if isinstance(came, str) else ""
    return f"{name}: {message}, got {came!r}{hint}" if problem["type"] != "missing" else f"{name}: is missing"


def judge_figure(figure: Figure) -> Judgement:
    """Say whether a figure can be, with the arithmetic."""
    lines = [f"claim      {figure.claim}"]
    missing = [
        what
        for what, value in (
            ("the size of the weights (weight_bytes, or parameters and bits)", figure.needed),
            ("the link (link or ceiling_gb_per_s)", figure.link or figure.ceiling_gb_per_s),
            ("the time (seconds_per_token or tokens_per_second)", figure.seconds),
        )
        if value is None
    ]
    if figure.needed is None or figure.seconds is None or missing:
        return _conclude(lines, Answer.NOT_DECIDABLE, f"not said: {'; '.join(missing)}")
    needed, seconds = figure.needed, figure.seconds
    most, safe, bounds = _bounds(figure)
    per_pass = seconds * (figure.batch or 1) * (figure.accepted_tokens or 1)
    crossing = (needed - (figure.kept_bytes or 0.0)) * figure.compression
    lines += _say_bytes(figure, needed, crossing)
    lines += bounds
    limit = f"{_number(crossing)} / {_number(most)}/s = {_seconds(crossing / most)}"
    lines.append(f"limit      (M - C) / B = {limit} a pass at the least")
    tokens = f"{_say(figure.batch)} in the batch × {_say(figure.accepted_tokens)} accepted"
    lines.append(f"pass       {_seconds(seconds)} a token × {tokens} = {_seconds(per_pass)}")
    implied = crossing / per_pass
    share = f"{implied / most:.3g} of B"
    lines.append(f"implied    {_number(crossing)} / {_seconds(per_pass)} = {_number(implied)}/s, {share}")
    if implied > most:
        return _too_fast(lines, figure, implied / most)
    if implied > safe:
        return _conclude(lines, Answer.NOT_DECIDABLE, f"above {_number(safe)}/s it depends on packets and measurement")
    why = "the link carries it, which says nothing of the rest of the system"
    return _conclude(lines, Answer.POSSIBLE, why)


def _too_fast(lines: list[str], figure: Figure, factor: float) -> Judgement:
    """What is unknown may explain it, and then nothing is decided."""
    unknown = [name for name in ("kept_bytes", "batch", "accepted_tokens") if getattr(figure, name) is None]
    if unknown:
        why = f"{factor:.3g} times what the link carries, unless {' or '.join(unknown)}, not said, explains it"
        return _conclude(lines, Answer.NOT_DECIDABLE, why)
    return _conclude(lines, Answer.IMPOSSIBLE, f"{factor:.3g} times what the link can carry")


def _say_bytes(figure: Figure, needed: float, crossing: float) -> list[str]:
    size = f"weights    M = {_number(needed)}"
    if figure.parameters is not None:
        size = f"weights    M = {figure.parameters:,.0f} × {figure.bits:g} bits / 8 = {_number(needed)}"
    kept = "unknown, taken as 0" if figure.kept_bytes is None else _number(figure.kept_bytes)
    coded = f" × {figure.compression:g} compressed" if figure.compression < 1 else ""
    return [size, f"kept       C = {kept}", f"per pass   (M - C){coded} = {_number(crossing)} over the link"]


def _bounds(figure: Figure) -> tuple[float, float, list[str]]:
    """Return what can never be exceeded, what is certainly carried, and how they came about."""
    if figure.link is None:
        ceiling = (figure.ceiling_gb_per_s or math.inf) * GB
        most = ceiling * (1 + _CEILING_DRIFT)
        said = (
            f"link       measured {_number(ceiling)}/s; B = {_number(most)}/s, {_CEILING_DRIFT:.0%} for its measurement"
        )
        return most, ceiling, [said]
    link = parse_link(figure.link)
    most, safe = link.encoded_bytes_per_s, link.payload_bytes_per_s
    rate, part = _GT_PER_S[link.generation], _ENCODED[link.generation]
    return (
        most,
        safe,
        [
            f"link       PCIe {link.generation}.0 x{link.lanes}: {rate:g} GT/s × {link.lanes} lanes × {part:.4g} / 8 "
            f"= B = {_number(most)}/s",
            f"           of it payload in packets of 256 bytes: {_number(safe)}/s",
        ],
    )


def _conclude(lines: Sequence[str], answer: Answer, why: str) -> Judgement:
    return Judgement(answer=answer, lines=(*lines, f"{answer}: {why}"))


def _say(tokens: float | None) -> str:
    return "1 (not said)" if tokens is None else f"{tokens:g}"


def _number(nbytes: float) -> str:
    return f"{nbytes / GB:.4g} GB"


def _seconds(seconds: float) -> str:
    return f"{seconds:.4g} s" if seconds >= 1 else f"{seconds * 1e3:.4g} ms"
