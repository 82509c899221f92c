"""What a system has to give back, when it is built, from `open`, from a forward, and as a claim.

It is opened once, behind the reference. A second opening, to tell a mistake earlier, would leave its traces in the
process: what a system sets up once, replaces for all, or takes down when it is closed.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from djinn_checks.decode_cache import CACHE_NAMES, carried_over, read_part
from djinn_checks.errors import SystemContractError
from djinn_checks.plain_tensors import has_own_operators, without_class
from djinn_checks.systems.base import System


def vet_opened(opened: Any, name: str) -> Any:
    """Return what `open` gave if it can be called.

    Raises:
        SystemContractError: it cannot be.
    """
    said = f"system {name!r}: open() returned"
    if opened is None:
        raise SystemContractError(f"{said} None; expected the model to call; is a `return` missing at its end?")
    if isinstance(opened, Mapping):
        kind = "weights" if any(isinstance(value, Tensor) for value in opened.values()) else "entries"
        raise SystemContractError(
            f"{said} a {type(opened).__name__} of {len(opened)} {kind}; expected the model to call, with its weights "
            "in place"
        )
    if not callable(opened):
        raise SystemContractError(f"{said} {type(opened).__name__}, which cannot be called; expected the model to call")
    if isinstance(opened, nn.Module) and type(opened).forward is nn.Module.forward and "forward" not in vars(opened):
        raise SystemContractError(f"{said} a {type(opened).__name__} without a forward; expected the model to call")
    return opened


def vet_built(system: System) -> None:
    """Refuse a system that lacks what every one has.

    Raises:
        SystemContractError: it does.
    """
    kind = type(system).__name__
    if not hasattr(system, "name"):
        raise SystemContractError(f"system {kind}: it has no name; give its class one: name = {kind.lower()!r}")
    lacking = [attribute for attribute in ("model", "device", "budget_bytes") if not hasattr(system, attribute)]
    if lacking:
        raise SystemContractError(
            f"system {system.name!r}: it has no {', '.join(lacking)}; call "
            "super().__init__(model, device=device, budget_bytes=budget_bytes) first in its __init__"
        )


@dataclass(frozen=True)
class Answer:
    """What a forward gave."""

    logits: Tensor
    """[1, T, V], a plain tensor: what a class of its own adds to it has no say in a comparison."""
    carried: dict[str, Any]
    """What the next forward is given, by name; empty if there is no cache."""


def ask(model: Any, token_ids: Tensor, **carried: Any) -> Any:
    """Return what a forward gives.

    Raises:
        SystemContractError: it met weights that were never put in their places, or is not called as it has to be.
    """
    try:
        return model(token_ids, **carried, use_cache=True)
    except (RuntimeError, NotImplementedError) as error:  # as PyTorch's operators say it
        named = model.named_parameters() if isinstance(model, nn.Module) and "meta" in str(error) else ()
        left = [name for name, value in named if value.is_meta]
        if not left:
            raise
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise SystemContractError(
            f"a forward met weights on 'meta', where there are no bytes; there are still {', '.join(left[:3])}{more}: "
            "put each in its place before it is used, a tied one under each of its names"
        ) from error
    except TypeError as error:
        if "use_cache" not in str(error):
            raise
        raise SystemContractError(
            "a forward is called as model(ids, use_cache=True), and behind the first one with its cache, too; it said: "
            f"{error}; let what open() returns take them"
        ) from error


def read_answer(output: Any, *, needs_cache: bool) -> Answer:
    """Return the logits of a forward's output and its cache.

    Raises:
        SystemContractError: it lacks one of them, or its logits answer for PyTorch's operators themselves.
    """
    logits = read_part(output, "logits")
    expected = "expected an object with .logits, a tensor [1, T, V], and the cache, as causal LMs of transformers give"
    if not isinstance(logits, Tensor):
        found = "logits of type " + type(logits).__name__ if logits is not None else type(output).__name__
        raise SystemContractError(f"a forward returned {found}; {expected}")
    if has_own_operators(logits):
        raise SystemContractError(
            f"a forward returned logits of type {type(logits).__name__}, which compares and copies itself in its own "
            "way (__torch_dispatch__); expected a plain tensor: give what it holds"
        )
    plain = without_class(logits)
    if plain.is_meta:
        raise SystemContractError(
            "a forward returned logits on 'meta', which have no values; expected them on the device: were all weights "
            "put in their places?"
        )
    if plain.ndim != 3 or plain.shape[0] != 1:
        raise SystemContractError(f"a forward returned logits {list(plain.shape)}; {expected}")
    carried = carried_over(output)
    if needs_cache and not carried:
        raise SystemContractError(
            f"a forward returned no cache, so nothing can be decoded; expected one of {', '.join(CACHE_NAMES)}, as the "
            "resident model returns it"
        )
    return Answer(plain, carried)


def read_claim(system: System) -> int | None:
    """Return the bytes that a system claims to have moved since it was opened; None if it keeps no count.

    Raises:
        SystemContractError: it claims something else.
    """
    claim: Any = system.claimed_bytes()
    if claim is None:
        return None
    if not isinstance(claim, str):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            return _as_whole(claim)
    raise SystemContractError(
        f"system {system.name!r}: claimed_bytes() returned {str(claim)[:40]!r} ({type(claim).__name__}); expected "
        "bytes as an int, or None if it keeps no count"
    )


def _as_whole(number: Any) -> int:
    """Return a number of any kind as an int, exactly."""
    try:
        return operator.index(number)
    except TypeError:
        if not float(number).is_integer():
            raise
        return int(float(number))
