"""Where a system first leaves the reference: pass, prompt, phase, position and layer.

Layers are seen from outside: hooks on the decoder blocks (`djinn_checks.layers`) take a digest of each
block's whole output and keep its last position. Points are "embeddings" (what goes into the first block),
the blocks, and "logits" (what the final norm and the head make of the last block's output).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from djinn_checks.checks.logits.distances import bit_view
from djinn_checks.checks.logits.prompt_run import PHASES, Prompt, PromptLogits, run_prompt
from djinn_checks.checks.logits.spool import BlockTrace, LogitSpool
from djinn_checks.digest import digest
from djinn_checks.layers import decoder_blocks
from djinn_checks.measurements.logits import FirstDifferenceFacts, LocalisationFacts


@dataclass(frozen=True, kw_only=True)
class FirstDifference:
    """The first logits that differ, in the order they were computed."""

    pass_number: int
    """From 1."""
    prompt: int
    phase: str
    """"prefill" or "decode"."""
    position: int
    """Prompt token or decode step, from 0."""
    layer: str | None = None
    """The first point whose output differs there; None if it was not seen to differ again."""

    def to_dict(self) -> FirstDifferenceFacts:
        return {
            "pass": self.pass_number,
            "prompt": self.prompt,
            "phase": self.phase,
            "position": self.position,
            "layer": self.layer,
        }

    def __str__(self) -> str:
        layer = self.layer or "unknown: the difference did not come back when looked for"
        place = f"pass {self.pass_number}, prompt {self.prompt}, {self.phase} position {self.position}"
        return f"first in {place}, layer {layer}"


@dataclass(frozen=True, kw_only=True)
class Localisation:
    """What a run of all prompts, made to look for the difference, found."""

    first: FirstDifference | None
    """The first difference of the passes, with its layer; None if only weights differed."""
    layers: tuple[str, ...]
    """Names of the points, in the order they run."""
    relative_l2: tuple[tuple[float, ...], ...]
    """A row per prompt, a column per point: the L2 norm of the difference over the reference's, at the last
    position, in the worst forward; 0 where the whole output is equal bit for bit."""
    weights: tuple[str, ...]
    """Weights whose bytes differed at the point of use."""
    reproduced: bool
    """Whether anything differed again."""

    def to_dict(self) -> LocalisationFacts:
        return {
            "first": self.first.to_dict() if self.first else None,
            "layers": list(self.layers),
            "relative_l2": [list(row) for row in self.relative_l2],
            "weights": list(self.weights),
            "reproduced": self.reproduced,
        }


class BlockCapture:
    """Takes block outputs while it is entered.

    >>> with BlockCapture(model) as capture:
    ...     run_prompt(model, ids, 8)
    ...     trace = capture.take()
    """

    def __init__(self, model: Any) -> None:
        """Prepare for `model`; something that is no module has no points."""
        blocks = decoder_blocks(model) if isinstance(model, nn.Module) else []
        self.points = ["embeddings", *(name for name, _ in blocks)] if blocks else []
        self._blocks = [block for _, block in blocks]
        self._digests: list[Tensor] = []
        self._last: list[Tensor] = []

    def __enter__(self) -> Self:
        self._handles = [block.register_forward_hook(self._after_block) for block in self._blocks]
        for block in self._blocks[:1]:
            self._handles.append(block.register_forward_pre_hook(self._before_first_block, with_kwargs=True))
        return self

    def __exit__(self, *exc: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _before_first_block(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._keep([*args, kwargs.get("hidden_states")])

    def _after_block(self, module: nn.Module, args: Any, output: Any) -> None:
        self._keep(output if isinstance(output, tuple | list) else [output])

    def _keep(self, values: Iterable[Any]) -> None:
        hidden = next((value for value in values if isinstance(value, Tensor) and value.is_floating_point()), None)
        if hidden is not None:
            self._digests.append(digest(hidden))
            self._last.append(hidden.reshape(-1, hidden.shape[-1])[-1].clone())

    def take(self) -> BlockTrace:
        """Return what was captured since the last take, and start anew; empty if forwards were irregular."""
        digests, last = self._digests, self._last
        self._digests, self._last = [], []
        if not digests or len(digests) % len(self.points):
            return BlockTrace(torch.zeros(0, 0, dtype=torch.int64), torch.zeros(0, 0, 0))
        shape = (-1, len(self.points))
        return BlockTrace(torch.stack(digests).view(shape).cpu(), torch.stack(last).view(*shape, last[0].numel()).cpu())


def localise(
    model: Any,
    prompts: Iterable[Prompt],
    spool: LogitSpool,
    decode_tokens: int,
    *,
    first: FirstDifference | None,
    weights: tuple[str, ...],
) -> Localisation:
    """Run all prompts once more through the system and hold every block's output against the reference's.

    Args:
        model: the system's model, open.
        first: the first difference that the passes found; its layer is looked for.
        weights: names of weights that were found to differ.
    """
    layers: list[str] = []
    rows: list[tuple[float, ...]] = []
    reproduced = False
    with BlockCapture(model) as capture:
        for prompt in prompts:
            expected, expected_trace = spool.read(prompt.index)
            found = run_prompt(model, prompt.token_ids, decode_tokens, forced=expected.tokens)
            trace = capture.take()
            comparable = trace.digests.shape == expected_trace.digests.shape
            layers = [*(capture.points if comparable else []), "logits"]
            differs, relative_l2 = _compare(expected, found, expected_trace, trace, comparable)
            reproduced |= bool(differs.any())
            rows.append(tuple(relative_l2.amax(0).tolist()))
            if first is not None and first.prompt == prompt.index:
                first = _find_layer(first, layers, differs)
    return Localisation(
        first=first, layers=tuple(layers), relative_l2=tuple(rows), weights=weights, reproduced=reproduced
    )


def _find_layer(first: FirstDifference, layers: list[str], differs: Tensor) -> FirstDifference:
    forward = 0 if first.phase == "prefill" else 1 + first.position
    places = differs[forward].nonzero().flatten().tolist()
    return replace(first, layer=layers[places[0]]) if places else first


def _compare(
    expected: PromptLogits, found: PromptLogits, expected_trace: BlockTrace, trace: BlockTrace, comparable: bool
) -> tuple[Tensor, Tensor]:
    """Return [F, P + 1] whether outputs differ (bool), and by how much at the last position (float64)."""
    pairs = [(expected.phase(phase), found.phase(phase).cpu()) for phase in PHASES]
    unequal = [(bit_view(a) != bit_view(b)).any(1) for a, b in pairs]
    differs = torch.cat([unequal[0].any()[None], unequal[1]])[:, None]
    ends = [torch.cat([logits[0][-1:], logits[1]]) for logits in zip(*pairs, strict=True)]
    relative = _relative_l2(ends[0], ends[1])[:, None]
    if comparable:
        differs = torch.cat([expected_trace.digests != trace.digests, differs], dim=1)
        relative = torch.cat([_relative_l2(expected_trace.last, trace.last), relative], dim=1)
    return differs, torch.where(differs, relative, 0.0)


def _relative_l2(reference: Tensor, system: Tensor) -> Tensor:
    """Return |system - reference| / |reference| over the last dimension, float64; NaN becomes infinite."""
    norm = torch.linalg.vector_norm
    ratio: Tensor = norm(system.double() - reference.double(), dim=-1) / norm(reference.double(), dim=-1)
    return ratio.nan_to_num(nan=torch.inf, posinf=torch.inf)
