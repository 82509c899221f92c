"""The two measurements of the logits check: the resident reference, then the system, never both at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from djinn_checks.checks.logits.answers import compare_answers
from djinn_checks.checks.logits.localise import BlockCapture, FirstDifference, Localisation, localise
from djinn_checks.checks.logits.prompt_run import PHASES, Prompt, PromptLogits, run_prompt
from djinn_checks.checks.logits.spool import LogitSpool
from djinn_checks.checks.logits.statistics import LogitStatistics, ReferencePositions, describe_reference
from djinn_checks.checks.logits.watch import ReferenceWatch, Span, SystemWatch, Watched, WatchPlan
from djinn_checks.checks.refusals import open_system
from djinn_checks.checks.settle import Progress
from djinn_checks.instruments.entropy import add_up, measure_entropy
from djinn_checks.instruments.memory import PeakMemory
from djinn_checks.instruments.memory_place import PlaceOf, find_place_beside
from djinn_checks.instruments.weight_witness import WeightEvidence
from djinn_checks.layers import decoder_blocks
from djinn_checks.measurements.logits import LogitsStatistics
from djinn_checks.models.dry_run import marked_versions, refuse_written
from djinn_checks.models.experts import unrouted_bytes
from djinn_checks.models.own_code import refuse_foreign
from djinn_checks.params import LogitsParams
from djinn_checks.systems.base import System

_WARM_UP_TOKENS = 32

Statistics = dict[str, LogitsStatistics]
"""Phase ("prefill", "decode") to the summary of `LogitStatistics`."""

PromptPositions = dict[str, ReferencePositions]
"""Phase to what a comparison needs of the reference, for one prompt."""

Around = Callable[[int], Callable[[], AbstractContextManager[Any]]]
"""From a prompt's number to what makes the context that each of its forwards runs in."""


@dataclass(frozen=True, kw_only=True)
class ReferenceRun:
    """What the resident model said, without its weights."""

    weight_bytes: int
    parameters: int
    layers: tuple[str, ...]
    positions: Mapping[int, PromptPositions]
    """By prompt."""
    floor: Compared
    """The reference against itself, run a second time."""
    weights: Mapping[tuple[int, int], WeightEvidence]
    """By prompt and step: what it used in the forwards that are watched."""
    least_share: float
    """Of their bytes, what the weights can be put in at least; 1 for a system that does not say that it encodes."""
    peak_bytes: int | None
    """Peak device memory of its forwards; None on a CPU."""
    unrouted_bytes: int
    """Of the weights, experts that one token is not routed to."""
    keeps_cache: bool
    """Whether a decode step answers otherwise than the same token without the cache."""

    @property
    def working_set_bytes(self) -> int | None:
        """Device memory beside the weights: activations, logits, KV cache, buffers."""
        return None if self.peak_bytes is None else self.peak_bytes - self.weight_bytes


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A pass over all prompts, held against the reference."""

    statistics: Statistics
    """Of the prompts that every pass has."""
    unforeseen: Statistics
    """Of those that never came before; empty phases are left out."""
    first: FirstDifference | None
    missing: Mapping[str, int]
    """By phase: positions of the prompts that it gave no logits for."""
    rounded_from: str
    """The wider data type of its logits, which were rounded to the reference's for the comparison; empty: its own."""


@dataclass(frozen=True, kw_only=True)
class SystemPass:
    """All prompts once through the system."""

    number: int
    """From 1."""
    compared: Compared
    claims: tuple[int | None, ...]
    """Bytes that the system claims to have moved, for each forward."""
    seconds: float

    @property
    def statistics(self) -> Statistics:
        return self.compared.statistics

    @property
    def first(self) -> FirstDifference | None:
        return self.compared.first


@dataclass(frozen=True, kw_only=True)
class SystemRun:
    """What the system said and did."""

    passes: tuple[SystemPass, ...]
    predicted_bytes: int | None
    """Bytes per forward, by the system's plan."""
    encodes: bool
    """Plan and claim are bytes on the wire, of which the weights have more."""
    watched: tuple[Watched, ...]
    """What the witnesses saw, forward by forward."""
    spans: tuple[Span, ...]
    """When each forward ran."""
    peak_bytes: int | None
    """Peak device memory of the forwards that no witness watched; None on a CPU."""
    opening_peak_bytes: int | None
    """The same while it opened. Random weights that are made on the device are in it, one tensor at a time."""
    localisation: Localisation | None
    claimed_at_open: int | None = None
    """What it claimed to have moved before the first forward."""


@dataclass(frozen=True, kw_only=True)
class LogitsBench:
    """Prompts, a spool and the two measurements made with them."""

    params: LogitsParams
    prompts: tuple[Prompt, ...]
    plan: WatchPlan
    spool: LogitSpool
    clock: Callable[[], float]
    progress: Progress
    now: Callable[[], float]
    """CLOCK_MONOTONIC, by which the link is counted."""
    place_of: PlaceOf | None = None
    """Tells where memory lies; None: asks the driver."""
    after_forward: Callable[[], None] = lambda: None
    as_it_was: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Takes back what the system replaced in the whole process: a comparison asks PyTorch, and not the system."""
    encodes: bool = False
    """The system says that its weights travel in fewer bytes than they have, so their entropy is measured."""

    def measure_reference(self, load: Callable[[], nn.Module], device: torch.device) -> ReferenceRun:
        """Run the resident model over all prompts, twice, and let go of it.

        Args:
            load: gives the model with all weights on `device`; the caller keeps no reference to it.
        """
        model = load()
        versions = marked_versions(model)
        self._warm_up(model)
        weights = {id(parameter): parameter for parameter in model.parameters()}.values()
        every = (*self.prompts, *self.plan.unforeseen)
        watch = ReferenceWatch(self.plan, self.place_of or find_place_beside(device))
        positions = {}
        with BlockCapture(model) as capture:
            for done, prompt in enumerate(every):
                self.progress("reference", done, len(every))
                logits = run_prompt(
                    model, prompt.token_ids, self.params.decode_tokens, around=watch.around(prompt.index)
                )
                self.spool.write(prompt.index, logits, capture.take())
                positions[prompt.index] = _describe(prompt, logits, self.params.top_k)
                del logits
        watch.digests.clear()
        memory = PeakMemory(device)
        floor = self._compare(model, positions, "noise floor", lambda _: lambda: memory, every)
        refuse_written(versions, model)
        return ReferenceRun(
            weight_bytes=sum(parameter.numel() * parameter.element_size() for parameter in weights),
            parameters=sum(parameter.numel() for parameter in weights),
            layers=tuple(name for name, _ in decoder_blocks(model)),
            positions=positions,
            floor=floor,
            weights=watch.found,
            least_share=_least_share(weights) if self.encodes else 1.0,
            peak_bytes=memory.peak_bytes,
            unrouted_bytes=unrouted_bytes(model.named_parameters(), getattr(model, "config", None)),
            keeps_cache=self._keeps_cache(model),
        )

    def measure_system(self, system: System, reference: ReferenceRun) -> SystemRun:
        """Open the system, run its passes, watch its weights, look where it differs, and close it.

        Raises:
            SystemRefusedError: it would not open.
        """
        watch = SystemWatch(
            system=system,
            plan=self.plan,
            reference=reference.weights,
            memory=PeakMemory(system.device),
            clock=self.now,
            place_of=self.place_of,
            after_forward=self.after_forward,
        )
        opening = PeakMemory(system.device)
        with system:
            with opening:
                model = open_system(system)
            passes = tuple(self._run_pass(model, reference, watch, n + 1) for n in range(self.params.passes))
            first = next((run_pass.first for run_pass in passes if run_pass.first), None)
            seen = [found.weights for found in watch.watched if found.weights is not None]
            different = tuple(sorted({name for weights in seen for name in weights.different}))
            localisation = None
            if first or different:
                self.progress("localisation", 0, len(self.prompts))
                own = [prompt for prompt in self.plan.unforeseen if first and prompt.index == first.prompt]
                localisation = localise(
                    model,
                    (*self.prompts, *own),
                    self.spool,
                    self.params.decode_tokens,
                    first=first,
                    weights=different,
                )
            return SystemRun(
                passes=passes,
                predicted_bytes=system.predicted_bytes_per_pass(),
                claimed_at_open=watch.claimed_at_open,
                encodes=system.encodes,
                watched=tuple(watch.watched),
                spans=tuple(watch.spans),
                peak_bytes=watch.memory.peak_bytes,
                opening_peak_bytes=opening.peak_bytes,
                localisation=localisation,
            )

    def _warm_up(self, model: nn.Module) -> None:
        """Run the longest prompt and its arithmetic, unrecorded, and see that the model runs its own code.

        The first call into a vector library may round otherwise: in 1 of 100 processes, MKL computed one
        thread's share of the first `exp` to 5e-7 in float64. That is no property of a system.
        """
        longest = max(self.prompts, key=lambda prompt: prompt.token_ids.shape[1])
        some = replace(longest, token_ids=longest.token_ids[:, :_WARM_UP_TOKENS])
        run_prompt(model, some.token_ids, 1)  # which may import something, and run what that runs
        with refuse_foreign():
            logits = run_prompt(model, some.token_ids, 1)
        positions = _describe(some, logits, self.params.top_k)["prefill"]
        LogitStatistics(l2_threshold=self.params.l2_threshold).add(logits.prefill, logits.prefill + 1, positions)

    @torch.no_grad()
    def _keeps_cache(self, model: Any) -> bool:
        """Feed the first decoded token of a prompt without its past: a model without a cache answers the same."""
        longest = max(self.prompts, key=lambda prompt: prompt.token_ids.shape[1])
        expected, _ = self.spool.read(longest.index)
        fed = expected.tokens[0].view(1, 1).to(longest.token_ids.device)
        alone = model(fed, use_cache=True).logits[0, -1].cpu()
        return not torch.equal(alone, expected.decode[0])

    def _run_pass(self, model: Any, reference: ReferenceRun, watch: SystemWatch, number: int) -> SystemPass:
        started = self.clock()
        stage = f"pass {number} of {self.params.passes}"
        prompts = (*self.prompts, self.plan.unforeseen[number - 1])
        compared = self._compare(
            model,
            reference.positions,
            stage,
            lambda prompt: watch.around(number, prompt),
            prompts,
            needs_cache=reference.keeps_cache,
        )
        first = replace(compared.first, pass_number=number) if compared.first else None
        return SystemPass(
            number=number,
            compared=replace(compared, first=first),
            claims=watch.take_claims(),
            seconds=self.clock() - started,
        )

    def _compare(
        self,
        model: Any,
        positions: Mapping[int, PromptPositions],
        stage: str,
        around: Around,
        prompts: Sequence[Prompt],
        needs_cache: bool = False,
    ) -> Compared:
        """Hold one pass over prompts against the spool, prompt by prompt."""
        limit = self.params.l2_threshold
        own, new = ({phase: LogitStatistics(l2_threshold=limit) for phase in PHASES} for _ in range(2))
        first: FirstDifference | None = None
        missing = dict.fromkeys(PHASES, 0)
        rounded_from = ""
        for done, prompt in enumerate(prompts):
            self.progress(stage, done, len(prompts))
            expected, _ = self.spool.read(prompt.index)
            found = run_prompt(
                model,
                prompt.token_ids,
                self.params.decode_tokens,
                forced=expected.tokens,
                needs_cache=needs_cache and self.params.decode_tokens > 0,
                around=around(prompt.index),
            )
            statistics = own if prompt.index < len(self.prompts) else new
            with self.as_it_was():
                answers = {
                    phase: compare_answers(
                        statistics[phase], expected.phase(phase), found.phase(phase), positions[prompt.index][phase]
                    )
                    for phase in PHASES
                }
            for phase, answer in answers.items():
                missing[phase] += answer.missing
                rounded_from = rounded_from or answer.rounded_from
                if first is None and answer.first_position is not None:
                    first = FirstDifference(
                        pass_number=0, prompt=prompt.index, phase=phase, position=answer.first_position
                    )
            del found
        return Compared(
            statistics={phase: own[phase].summary() for phase in PHASES},
            unforeseen={phase: new[phase].summary() for phase in PHASES},
            first=first,
            missing=missing,
            rounded_from=rounded_from,
        )


def _least_share(weights: Collection[Tensor]) -> float:
    """Return the fewest bytes that any coder of single weights needs, over the weights' own."""
    floor = add_up(measure_entropy("", weight) for weight in weights)
    return floor.certain_bytes / floor.weight_bytes if floor.weight_bytes else 1.0


def _describe(prompt: Prompt, logits: PromptLogits, top_k: int) -> PromptPositions:
    after_prompt = torch.cat([prompt.token_ids[0, 1:].cpu(), logits.tokens[:1]])
    return {
        "prefill": describe_reference(logits.prefill, after_prompt, top_k),
        "decode": describe_reference(logits.decode, logits.tokens[1:], top_k),
    }
