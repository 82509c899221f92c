"""The kinds of servers, by the names that `adapter` takes.

signal   djinn-checks' own server and its like: sessions in the request, phases by a route of their own
idle     the same without a word: an agent that sleeps only stops asking
slot     llama-server: a slot's KV is saved to a file and erased, and restored from it
vllm     vLLM: all KV in one pool, which other prompts push out to the host
sglang   SGLang with its hierarchical cache: the same
none     any server with OpenAI's completions: nothing is known of its sessions
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from djinn_checks.checks.agents.client import AgentClient, IdleClient, SignalClient
from djinn_checks.checks.agents.pool.client import SglangClient, VllmClient
from djinn_checks.checks.agents.slot_client import SlotClient
from djinn_checks.errors import ParamsError

ADAPTERS: dict[str, type[AgentClient]] = {
    "signal": SignalClient,
    "idle": IdleClient,
    "slot": SlotClient,
    "vllm": VllmClient,
    "sglang": SglangClient,
    "none": AgentClient,
}


def connect(
    adapter: str, address: str, *, model: str = "", decode: Callable[[Sequence[int]], str | None] | None = None
) -> AgentClient:
    """Return a client of a kind for a server at an address.

    Args:
        model: the name that the server knows its model by; empty: the first that it lists.
        decode: token ids to text, for a server that takes no ids.

    Raises:
        ParamsError: there is no such kind.
    """
    if adapter not in ADAPTERS:
        raise ParamsError(f"adapter: expected one of {', '.join(ADAPTERS)}, got {adapter!r}")
    kinds = {name: kind.own_route for name, kind in ADAPTERS.items()}
    return ADAPTERS[adapter](address, kind=adapter, kinds=kinds, model=model, decode=decode)
