"""The two measurements of the logits check: the resident reference, then the system, never both at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from djinn_checks.checks.logits.localise import BlockCapture, FirstDifference, Localisation, localise
from djinn_checks.checks.logits.prompt_run import PHASES, Prompt, PromptLogits, run_prompt
from djinn_checks.checks.logits.spool import LogitSpool
from djinn_checks.checks.logits.statistics import LogitStatistics, ReferencePositions, describe_reference
from djinn_checks.checks.run import Progress
from djinn_checks.instruments.memory import PeakMemory
from djinn_checks.instruments.weight_witness import WeightEvidence, WeightWitness
from djinn_checks.layers import decoder_blocks
from djinn_checks.measurements.logits import LogitsStatistics
from djinn_checks.params import LogitsParams
from djinn_checks.systems.base import System

_WARM_UP_TOKENS = 32

Statistics = dict[str, LogitsStatistics]
"""Phase ("prefill", "decode") to the summary of `LogitStatistics`."""

PromptPositions = dict[str, ReferencePositions]
"""Phase to what a comparison needs of the reference, for one prompt."""

Around = Callable[[], AbstractContextManager[Any]]
"""Makes the context that one forward runs in."""


@dataclass(frozen=True, kw_only=True)
class ReferenceRun:
    """What the resident model said, without its weights."""

    weight_bytes: int
    parameters: int
    layers: tuple[str, ...]
    positions: tuple[PromptPositions, ...]
    """One for each prompt."""
    floor: Statistics
    """The reference against itself, run a second time."""
    weights: WeightEvidence | None
    peak_bytes: int | None
    """Peak device memory of its forwards; None on a CPU."""

    @property
    def working_set_bytes(self) -> int | None:
        """Device memory beside the weights: activations, logits, KV cache, buffers."""
        return None if self.peak_bytes is None else self.peak_bytes - self.weight_bytes


@dataclass(frozen=True, kw_only=True)
class SystemPass:
    """All prompts once through the system."""

    number: int
    """From 1."""
    statistics: Statistics
    claims: tuple[int | None, ...]
    """Bytes that the system claims to have moved, for each forward."""
    first: FirstDifference | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class SystemRun:
    """What the system said and did."""

    passes: tuple[SystemPass, ...]
    predicted_bytes: int | None
    """Bytes per forward, by the system's plan."""
    encodes: bool
    """Plan and claim are bytes on the wire, of which the weights have more."""
    weights: WeightEvidence | None
    witnessed_claim: int | None
    """Bytes that the system claims for the forward that the witness watched."""
    peak_bytes: int | None
    """Peak device memory of its forwards; None on a CPU."""
    opening_peak_bytes: int | None
    """The same while it opened. Random weights that are made on the device are in it, one tensor at a time."""
    localisation: Localisation | None


@dataclass
class _Forwards:
    """Wraps each forward of a system: peak memory, and what it claims to have moved."""

    system: System
    memory: PeakMemory
    claims: list[int | None] = field(default_factory=list)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        before = self.system.claimed_bytes()
        with self.memory:
            yield
        after = self.system.claimed_bytes()
        self.claims.append(None if before is None or after is None else after - before)

    def take_claims(self) -> tuple[int | None, ...]:
        taken, self.claims = tuple(self.claims), []
        return taken


@dataclass(frozen=True, kw_only=True)
class LogitsBench:
    """Prompts, a spool and the two measurements made with them."""

    params: LogitsParams
    prompts: tuple[Prompt, ...]
    spool: LogitSpool
    clock: Callable[[], float]
    progress: Progress

    def measure_reference(self, load: Callable[[], nn.Module], device: torch.device) -> ReferenceRun:
        """Run the resident model over all prompts, twice, and let go of it.

        Args:
            load: gives the model with all weights on `device`; the caller keeps no reference to it.
        """
        model = load()
        self._warm_up(model)
        weights = {id(parameter): parameter for parameter in model.parameters()}.values()
        positions = []
        with BlockCapture(model) as capture:
            for done, prompt in enumerate(self.prompts):
                self.progress("reference", done, len(self.prompts))
                logits = run_prompt(model, prompt.token_ids, self.params.decode_tokens)
                self.spool.write(prompt.index, logits, capture.take())
                positions.append(_describe(prompt, logits, self.params.top_k))
                del logits
        memory = PeakMemory(device)
        floor, _ = self._compare(model, positions, "noise floor", lambda: memory)
        return ReferenceRun(
            weight_bytes=sum(parameter.numel() * parameter.element_size() for parameter in weights),
            parameters=sum(parameter.numel() for parameter in weights),
            layers=tuple(name for name, _ in decoder_blocks(model)),
            positions=tuple(positions),
            floor=floor,
            weights=self._watch_weights(model, None, nullcontext),
            peak_bytes=memory.peak_bytes,
        )

    def measure_system(self, system: System, reference: ReferenceRun) -> SystemRun:
        """Open the system, run its passes, watch its weights, look where it differs, and close it."""
        forwards, opening = _Forwards(system, PeakMemory(system.device)), PeakMemory(system.device)
        with system:
            with opening:
                model = system.open()
            passes = tuple(self._run_pass(model, reference, forwards, n + 1) for n in range(self.params.passes))
            watched = _Forwards(system, PeakMemory(system.device))  # the witness takes memory of its own
            weights = self._watch_weights(model, reference.weights, watched)
            first = next((run_pass.first for run_pass in passes if run_pass.first), None)
            different = weights.different if weights else ()
            localisation = None
            if first or different:
                self.progress("localisation", 0, len(self.prompts))
                localisation = localise(
                    model, self.prompts, self.spool, self.params.decode_tokens, first=first, weights=different
                )
            return SystemRun(
                passes=passes,
                predicted_bytes=system.predicted_bytes_per_pass(),
                encodes=system.encodes,
                weights=weights,
                witnessed_claim=watched.claims[0],
                peak_bytes=forwards.memory.peak_bytes,
                opening_peak_bytes=opening.peak_bytes,
                localisation=localisation,
            )

    def _warm_up(self, model: nn.Module) -> None:
        """Run the longest prompt and its arithmetic once, unrecorded.

        The first call into a vector library may round otherwise: in 1 of 100 processes, MKL computed one
        thread's share of the first `exp` to 5e-7 in float64. That is no property of a system.
        """
        longest = max(self.prompts, key=lambda prompt: prompt.token_ids.shape[1])
        some = replace(longest, token_ids=longest.token_ids[:, :_WARM_UP_TOKENS])
        logits = run_prompt(model, some.token_ids, 1)
        positions = _describe(some, logits, self.params.top_k)["prefill"]
        LogitStatistics(l2_threshold=self.params.l2_threshold).add(logits.prefill, logits.prefill + 1, positions)

    def _run_pass(self, model: Any, reference: ReferenceRun, forwards: _Forwards, number: int) -> SystemPass:
        started = self.clock()
        stage = f"pass {number} of {self.params.passes}"
        statistics, first = self._compare(model, reference.positions, stage, forwards)
        return SystemPass(
            number=number,
            statistics=statistics,
            claims=forwards.take_claims(),
            first=replace(first, pass_number=number) if first else None,
            seconds=self.clock() - started,
        )

    def _compare(
        self, model: Any, positions: Sequence[PromptPositions], stage: str, around: Around
    ) -> tuple[Statistics, FirstDifference | None]:
        """Hold one pass over all prompts against the spool, prompt by prompt."""
        statistics = {phase: LogitStatistics(l2_threshold=self.params.l2_threshold) for phase in PHASES}
        first: FirstDifference | None = None
        for done, prompt in enumerate(self.prompts):
            self.progress(stage, done, len(self.prompts))
            expected, _ = self.spool.read(prompt.index)
            found = run_prompt(
                model, prompt.token_ids, self.params.decode_tokens, forced=expected.tokens, around=around
            )
            for phase in PHASES:
                compared = statistics[phase].add(expected.phase(phase), found.phase(phase), positions[done][phase])
                position = compared.first_position
                if first is None and position is not None:
                    first = FirstDifference(pass_number=0, prompt=prompt.index, phase=phase, position=position)
            del found
        return {phase: statistics[phase].summary() for phase in PHASES}, first

    @torch.no_grad()
    def _watch_weights(self, model: Any, reference: WeightEvidence | None, around: Around) -> WeightEvidence | None:
        """Watch the prefill of the shortest prompt; the same one for the reference and the system."""
        self.progress("weight witness", 0, 1)
        shortest = min(self.prompts, key=lambda prompt: prompt.token_ids.shape[1])
        witness = WeightWitness(reference)
        with around(), witness:
            model(shortest.token_ids, use_cache=True)
        return witness.evidence()


def _describe(prompt: Prompt, logits: PromptLogits, top_k: int) -> PromptPositions:
    after_prompt = torch.cat([prompt.token_ids[0, 1:].cpu(), logits.tokens[:1]])
    return {
        "prefill": describe_reference(logits.prefill, after_prompt, top_k),
        "decode": describe_reference(logits.decode, logits.tokens[1:], top_k),
    }
