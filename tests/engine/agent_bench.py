"""An agent engine driven step by step, for its tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from djinn_checks.engine.agent_engine import AgentEngine
from djinn_checks.engine.kv_cache import KvBlock, probe_shape
from djinn_checks.engine.kv_mover import Later, Move, Moved
from djinn_checks.engine.kv_store import KvStore, Parked
from djinn_checks.engine.session import Session, State
from djinn_checks.engine.turn import Token, Turn, TurnEnd, TurnRequest
from djinn_checks.units import MIB

CPU = torch.device("cpu")
LONG = 900  # tokens of 2 kB: a block of 2 MiB
CONFIG = LlamaConfig(
    vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=4, max_position_embeddings=8192,
)  # fmt: skip


@dataclass
class Heard:
    """A listener that keeps what it hears."""

    tokens: list[Token] = field(default_factory=list)
    end: TurnEnd | None = None
    error: Exception | None = None

    def __call__(self, event: Token | TurnEnd | Exception) -> None:
        if isinstance(event, Token):
            self.tokens.append(event)
        elif isinstance(event, TurnEnd):
            self.end = event
        else:
            self.error = event

    @property
    def is_over(self) -> bool:
        return self.end is not None or self.error is not None

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]


class Bench:
    """An engine that is driven step by step, with a clock that stands still unless told otherwise."""

    def __init__(self, *, device_mib: int = 64, host_mib: int = 64, spill: Path | None = None, **rules: Any) -> None:
        torch.manual_seed(5)
        self.module = AutoModelForCausalLM.from_config(CONFIG).eval()
        store = KvStore(
            probe_shape(self.module, CPU), CPU,
            device_bytes=device_mib * MIB, host_bytes=host_mib * MIB, spill_folder=spill,
        )  # fmt: skip
        self.now = 100.0
        self.gate = threading.Event()
        self.gate.set()
        self._move_out = store.move_out
        store.move_out = self._move_out_at_the_gate  # type: ignore[method-assign]
        self.engine = AgentEngine(self.module, store, clock=lambda: self.now, **rules)

    def ask(self, name: str, prompt: list[int], tokens: int = 4, **request: Any) -> tuple[Heard, Turn]:
        heard = Heard()
        asked = TurnRequest(prompt=tuple(prompt), max_tokens=tokens, **request)
        turn = self.engine.submit(name, asked, heard)
        self.gate.set()
        return heard, turn

    def _move_out_at_the_gate(self, block: KvBlock, parked: Parked) -> Move:
        """Start a move that ends when the gate is open: a short one would be over before a test has done its part."""
        move = self._move_out(block, parked)

        def wait_at_the_gate() -> Moved:
            assert self.gate.wait(20)
            return move.wait()

        return Later(wait_at_the_gate)

    def until(self, is_done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not is_done():
            assert time.monotonic() < deadline, "nothing more happens"
            self.engine.advance()
            time.sleep(0.0005)

    def answer(self, name: str, prompt: list[int], tokens: int = 4, **request: Any) -> Heard:
        heard, _ = self.ask(name, prompt, tokens, **request)
        self.until(lambda: heard.is_over)
        return heard

    def session(self, name: str) -> Session:
        return self.engine.scheduler.find(name)

    def reach(self, name: str, state: State) -> None:
        self.until(lambda: self.session(name).state is state)

    def fall_asleep(self, name: str) -> None:
        self.engine.wait_for_io(name)
        self.reach(name, State.SWAPPED)


def prompt_of(seed: int, tokens: int = 40) -> list[int]:
    return torch.randint(0, 97, (tokens,), generator=torch.Generator().manual_seed(seed)).tolist()


def two_turns(bench: Bench, name: str, prompt: list[int], between: Callable[[], None] = lambda: None) -> list[Heard]:
    first = bench.answer(name, prompt, logprobs=2)
    between()
    return [first, bench.answer(name, [*prompt, *first.ids, 7, 8], logprobs=2)]


def fail(*args: object) -> None:
    raise torch.OutOfMemoryError("planted")
