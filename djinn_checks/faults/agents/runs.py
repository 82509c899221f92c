"""Runs of the agents check in a small profile, seconds each, against servers that the nursery forks."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from djinn_checks.checks.agents.check import check_agents
from djinn_checks.faults.agents.nursery import Defect, nursery
from djinn_checks.outcome import Outcome
from djinn_checks.params import AgentsParams

_SHAPE: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3,
    "max_position_embeddings": 1024,
}  # fmt: skip
"""A model that computes little; its sums are long enough for a prefill to round otherwise than a decode."""
_HEADS = {"cpu": (64, 64), "cuda": (128, 256)}
"""Their number and size. On a CPU that is KV of 98 kB per token, 11 MB per session; a process's memory moves by less of
its own accord. On a GPU it is four times as much, twenty times what its driver rounds to."""
_DTYPE = {"cpu": "float32", "cuda": "float16"}
"""What a server computes in, if it is not told otherwise."""

_ALONE: dict[str, Any] = {
    "prompt_tokens": 112, "new_tokens": 8, "sleeps": 1, "idle_s": 0.5, "agents": 0,
}  # fmt: skip
SLEEP_S = 1.0
_CROWD: dict[str, Any] = {"agents": 4, "agent_prompt_tokens": 64, "arrival_rate": 5.0, "think_s": [0.3, 0.6]}
_ANSWER_TOKENS = {"cpu": 8, "cuda": 96}
"""Of an agent in the crowd: long enough for a look at the server's list to fall into its decode."""
_ROOM = {"cpu": {True: 0.022, False: 0.1}, "cuda": {True: 0.24, False: 0.4}}
"""GB of KV on the device: for two of four agents, or for all that one agent and its twins can leave behind."""
_HOST_GB = {"cpu": 0.1, "cuda": 0.5}
_SESSION_TOKENS = 512


def run_agents(
    defect: Callable[[float], Defect], *, crowd: bool = False, sleep_s: float = SLEEP_S
) -> Callable[[float, torch.device], Outcome]:
    """Return a function that runs the check against a server with a defect, given its dose.

    Args:
        defect: a function at the top of a module: the server's process imports it by its name.
        crowd: whether four agents come after the one that sleeps.
        sleep_s: how long it sleeps.
    """
    name = f"{defect.__module__}:{defect.__qualname__}"

    def run(dose: float, device: torch.device) -> Outcome:
        with tempfile.TemporaryDirectory(prefix="djinn-checks-agents-") as folder:
            profile = _profile(Path(folder), device, crowd) | {"sleep_s": sleep_s}
            with nursery().serve(name, dose, _options(profile)) as address:
                return check_agents(AgentsParams.create(server_address=address, **profile))

    return run


def _profile(folder: Path, device: torch.device, crowd: bool) -> dict[str, Any]:
    shape = folder / "config.json"
    heads, size = _HEADS[device.type]
    sizes_of_heads = {"num_attention_heads": heads, "num_key_value_heads": heads, "head_dim": size}
    shape.write_text(json.dumps(_SHAPE | sizes_of_heads))
    sizes = {"kv_device_gb": _ROOM[device.type][crowd], "host_swap_pool_gb": _HOST_GB[device.type]}
    # A move of 45 MB is too short for the link's full speed: that is what `params/full` is for.
    speed = {"swap_of_ceiling": 0.1} if device.type == "cuda" else {}
    where = {"device": str(device), "dtype": _DTYPE[device.type], "model": f"random:{shape}"}
    many = {**_CROWD, "agent_new_tokens": _ANSWER_TOKENS[device.type]} if crowd else {}
    return {**_ALONE, **many, **sizes, **speed, **where}


def _options(profile: dict[str, Any]) -> dict[str, Any]:
    shared = ("model", "dtype", "device", "kv_device_gb", "host_swap_pool_gb", "idle_s")
    return {name: profile[name] for name in shared} | {"port": 0, "session_tokens": _SESSION_TOKENS}
