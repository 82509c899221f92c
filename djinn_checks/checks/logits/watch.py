"""Which forwards the weight witness watches: drawn at random, so that no system can foresee them.

In every pass some prefills and some decode steps are drawn, for each of two witnesses: one that shows what it is (a
function mode and hooks) and one that shows neither. Beside the prompts that every pass has, each pass has one of its
own, of random words, that never came before; its forwards are among those that are watched, and its logits among
those that are compared. The draw comes from the operating system's randomness unless `watch_seed` fixes it.

What it proves. A system may treat some forwards in another way. If it does so in a share s of those of a kind, each
watched forward of that kind sees it with probability s, and k of them with 1 - (1 - s)^k.
"""

from __future__ import annotations

import os
import random
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from djinn_checks.checks.contract import read_claim
from djinn_checks.checks.logits.prompt_run import Prompt
from djinn_checks.errors import DjinnChecksError, SystemRefusedError
from djinn_checks.instruments.memory import PeakMemory
from djinn_checks.instruments.memory_place import PlaceOf, find_place_beside
from djinn_checks.instruments.unseen_code import find_unseen_code, was_compiled
from djinn_checks.instruments.weight_uses import Digests
from djinn_checks.instruments.weight_witness import QuietWitness, WeightEvidence, WeightWitness
from djinn_checks.systems.base import System

_COMPILED_WHOLE = "fullgraph=True"
"""In what `torch.compile` raises when it gives up on a whole graph, as it does where a witness looks on."""
_WATCHED_WHOLE = (
    "fullgraph=True, and PyTorch compiles nothing whole while a function mode is on, as a weight witness is; open it "
    "without fullgraph for this check. What is compiled is not seen in use, so the answer is INCONCLUSIVE at best"
)
_SHORTEST, _LONGEST = 4, 16
"""Tokens of a prompt that never came before."""


class Place(NamedTuple):
    """One forward."""

    pass_number: int
    """From 1; 0 for the reference, which is watched in the same prompts and steps."""
    prompt: int
    step: int
    """0 is the prefill; from 1, a decode step."""

    @property
    def phase(self) -> str:
        return "decode" if self.step else "prefill"

    def __str__(self) -> str:
        what = f"decode step {self.step - 1}" if self.step else "prefill"
        return f"pass {self.pass_number}, prompt {self.prompt}, {what}"


@dataclass(frozen=True, kw_only=True)
class WatchPlan:
    """What was drawn before anything ran."""

    seed: int
    unforeseen: tuple[Prompt, ...]
    """One for each pass, numbered after the prompts that all passes have."""
    open: frozenset[Place]
    """Forwards for the witness that shows itself."""
    quiet: frozenset[Place]
    """Forwards for the witness that does not."""

    def of_reference(self, prompt: int) -> frozenset[int]:
        """Return the steps of a prompt in which the reference has to be watched."""
        return frozenset(place.step for place in self.open | self.quiet if place.prompt == prompt)


def draw_watch(
    prompts: Sequence[Prompt],
    *,
    passes: int,
    decode_tokens: int,
    encode: Callable[[str, int], list[int]],
    count: int,
    seed: int | None,
) -> WatchPlan:
    """Draw the prompts that never came before and the forwards that are watched.

    Args:
        encode: gives the first so many token ids of a text.
        count: forwards to watch in each pass, at least four: one of the new prompt, a prefill and a decode step of the
            others, and one, in turn a prefill or a decode step, for the witness that shows nothing.
        seed: of the draw; None: from the operating system.
    """
    chosen = int.from_bytes(os.urandom(6), "big") if seed is None else seed
    draw = random.Random(chosen)
    unforeseen = tuple(_draw_prompt(draw, len(prompts) + n, prompts, encode) for n in range(passes))
    seen: set[Place] = set()
    quiet: set[Place] = set()
    turn = draw.randrange(2)
    for number in range(1, passes + 1):
        kinds = ((0,), tuple(range(1, decode_tokens + 1)))
        free = [[Place(number, prompt.index, step) for prompt in prompts for step in steps] for steps in kinds]
        for places in free:
            draw.shuffle(places)
        new = unforeseen[number - 1].index
        seen.add(Place(number, new, draw.choice(kinds[(number + turn) % 2])))
        seen |= {places.pop() for places in free}
        for more in range(count - 3):
            places = free[(number + turn + more) % 2] or free[0] or free[1]
            if places:
                (seen if more % 4 else quiet).add(places.pop())
    if len(prompts) == 1:  # memory is measured where nobody watches, and that has to be in one prefill at least
        prefills = sorted(place for place in seen if place[1:] == (prompts[0].index, 0))
        seen -= {draw.choice(prefills)} if len(prefills) == passes else set()
    return WatchPlan(seed=chosen, unforeseen=unforeseen, open=frozenset(seen), quiet=frozenset(quiet))


def _draw_prompt(
    draw: random.Random, index: int, prompts: Sequence[Prompt], encode: Callable[[str, int], list[int]]
) -> Prompt:
    lengths = sorted(prompt.token_ids.shape[1] for prompt in prompts)
    count = min(max(lengths[len(lengths) // 2], _SHORTEST), _LONGEST)
    text = " ".join("".join(draw.choices(string.ascii_lowercase, k=draw.randint(2, 9))) for _ in range(count))
    device = prompts[0].token_ids.device
    return Prompt(index, text, torch.tensor([list(encode(text, count))], dtype=torch.int64, device=device))


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What a witness saw of one forward."""

    place: Place
    quiet: bool
    """By the witness that shows nothing of itself."""
    weights: WeightEvidence | None
    """None: no weight was seen in use."""
    reference: WeightEvidence
    """The same forward of the resident model."""
    claim: int | None
    """Bytes that the system claims for it."""
    unseen_code: str
    """What may have run that no witness can see into; empty: nothing that is known."""


@dataclass(frozen=True)
class Span:
    """When a forward ran, from its call until the device had done it."""

    place: Place
    start_s: float
    end_s: float
    watched: bool


@dataclass
class ReferenceWatch:
    """Watches the resident model in the forwards that were drawn; its weights are read once."""

    plan: WatchPlan
    place_of: PlaceOf
    found: dict[tuple[int, int], WeightEvidence] = field(default_factory=dict)
    """By prompt and step."""
    digests: Digests = field(default_factory=dict)

    def around(self, prompt: int) -> Callable[[], AbstractContextManager[Any]]:
        """Return what makes the context of each forward of a prompt."""
        steps, drawn = iter(range(1 << 30)), self.plan.of_reference(prompt)

        @contextmanager
        def watch() -> Iterator[None]:
            step = next(steps)
            witness = WeightWitness(place_of=self.place_of, digests=self.digests) if step in drawn else None
            with witness or nullcontext():
                yield
            seen = witness.evidence() if witness else None
            if seen is not None:
                self.found[prompt, step] = seen

        return watch


def _blame_compiler(error: Exception, *, is_watched: bool) -> str:
    """Return how a forward that did not end is compiled, where that may be why: a witness is a function mode, and
    PyTorch's compiler compiles anew, and otherwise, where one is on. Empty if nothing speaks for it."""
    if isinstance(error, RuntimeError) and _COMPILED_WHOLE in str(error):
        return f"with {_WATCHED_WHOLE}"
    if not is_watched or isinstance(error, DjinnChecksError) or not was_compiled(error):
        return ""
    said = f"{type(error).__name__}: {error}".partition("\n")[0]
    return (
        f"by torch.compile, and a forward in which a weight witness looked on did not end ({said}); open it without "
        "torch.compile for this check. What is compiled is not seen in use, so the answer is INCONCLUSIVE at best"
    )


@dataclass
class SystemWatch:
    """Wraps each forward of a system: what it claims, when it ran, its peak memory, and what a witness saw of it."""

    system: System
    plan: WatchPlan
    reference: Mapping[tuple[int, int], WeightEvidence]
    memory: PeakMemory
    """Of the forwards that nobody watches: a witness takes memory of its own."""
    clock: Callable[[], float]
    place_of: PlaceOf | None = None
    after_forward: Callable[[], None] = lambda: None
    claims: list[int | None] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)
    claimed_at_open: int | None = None
    """The system's count before the first forward."""
    _claimed: int | None = None
    """The system's count behind the last forward: what is fetched between two forwards is the later one's."""

    def around(self, pass_number: int, prompt: int) -> Callable[[], AbstractContextManager[Any]]:
        """Return what makes the context of each forward of a prompt."""
        steps = iter(range(1 << 30))

        def watch() -> AbstractContextManager[Any]:
            return self._forward(Place(pass_number, prompt, next(steps)))

        return watch

    @contextmanager
    def _forward(self, place: Place) -> Iterator[None]:
        witness, reference = self._witness(place), self.reference.get((place.prompt, place.step))
        if not self.spans:
            self.claimed_at_open = self._claimed = read_claim(self.system)
        before = self._claimed
        start = self.clock()
        with witness or self.memory:
            try:
                yield
            except Exception as error:
                if said := _blame_compiler(error, is_watched=witness is not None):
                    raise SystemRefusedError(f"system {self.system.name!r} is compiled {said}") from error
                raise
        if self.system.device.type == "cuda":
            torch.cuda.current_stream(self.system.device).synchronize()
        self.spans.append(Span(place, start, self.clock(), witness is not None))
        after = read_claim(self.system)
        claim = None if before is None or after is None else after - before
        self._claimed = after
        self.claims.append(claim)
        self.after_forward()
        if witness is not None and reference is not None:
            self.watched.append(
                Watched(
                    place=place,
                    quiet=isinstance(witness, QuietWitness),
                    weights=witness.evidence(),
                    reference=reference,
                    claim=claim,
                    unseen_code=find_unseen_code(self.system.device),
                )
            )

    def _witness(self, place: Place) -> WeightWitness | QuietWitness | None:
        reference = self.reference.get((place.prompt, place.step))
        place_of = self.place_of or find_place_beside(self.system.device)
        if reference is None:
            return None
        if place in self.plan.quiet:
            return QuietWitness(reference, place_of=place_of)
        return WeightWitness(reference, place_of=place_of) if place in self.plan.open else None

    def take_claims(self) -> tuple[int | None, ...]:
        """Return the claims of the forwards since the last call."""
        taken, self.claims = tuple(self.claims), []
        return taken
