"""What is read and called of servers that keep all KV in one pool, as data: names, routes and request fields.

Such a server takes its pool when it starts, names no sessions and is not told to sleep. Other prompts push a
session's blocks off the device, and its next turn finds them in host memory. Which tokens came from where, and how many
bytes were moved for them, the server counts itself; the names under which it does differ by server and by version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Counter:
    """A counter of Prometheus' text format, summed over every series whose label has one of some values."""

    name: str
    label: str = ""
    """Which tells the series apart that are meant; empty: all of them are."""
    values: tuple[str, ...] = ()
    """Of that label; one that ends in "*" stands for all that begin so."""
    since: str
    """The version in which it was seen, run or read."""

    def __str__(self) -> str:
        return f"{self.name}{{{self.label}={'|'.join(self.values)}}}" if self.label else self.name


@dataclass(frozen=True, kw_only=True)
class Info:
    """A number that a server says as a label, or as the value of a gauge."""

    name: str
    label: str = ""
    """Empty: the value itself."""
    since: str

    def __str__(self) -> str:
        return f"{self.name}{{{self.label}}}" if self.label else self.name


@dataclass(frozen=True, kw_only=True)
class Route:
    """A request that empties a cache."""

    path: str
    needs: str
    """What the server has to be started with, so that it has the route."""
    method: str = "POST"


Counters = tuple[Counter, ...]
"""Alternatives: the first that the server has is read."""


@dataclass(frozen=True, kw_only=True)
class PoolAdapter:
    """A kind of server with a pool."""

    name: str
    begins: str
    """With which its metrics begin, and no other server's."""
    metrics: str = "/metrics"
    needs: str = ""
    """What it has to be started with, so that it counts."""
    version: tuple[str, str]
    """A route, and the field of its answer with the version."""
    prompt: Counters
    """Prompt tokens of all requests."""
    device: Counters
    """Those whose KV was on the device."""
    host: Counters
    """Those whose KV came from outside the device."""
    compute: Counters = ()
    """Those that were computed; without such a counter they are what is left."""
    load_bytes: Counters
    load_s: Counters
    store_bytes: Counters
    store_s: Counters
    block_tokens: tuple[Info, ...]
    """Tokens of a block: a session's KV is kept in whole ones."""
    pool_tokens: tuple[Info, ...] = ()
    """Tokens that the device's pool holds."""
    pool_blocks: tuple[Info, ...] = ()
    """The same in blocks, where it is said in no other way."""
    kv_type: tuple[Info, ...] = ()
    """The type in which KV is kept, by its name; one that is none, such as auto, is the model's."""
    engine: str = ""
    """The label that tells engines apart, each of which has a pool of its own; empty: there is one."""
    leaves_out: str = ""
    """Why the tokens of a session's last answer may not be written to the host; empty: they are."""
    empty_device: Route | None = None
    """Empties the device's cache and leaves the host's."""
    empty_all: Route | None = None
    """Empties both."""
    fields: Mapping[str, object] = field(default_factory=dict)
    """Of every request, beside OpenAI's. "{salt}" stands for the session's salt and "{session}" for its name."""


VLLM = PoolAdapter(
    name="vllm",
    begins="vllm:",
    version=("/version", "version"),
    prompt=(Counter(name="vllm:prompt_tokens_total", since="0.26.0"),),
    device=(
        Counter(name="vllm:prompt_tokens_by_source_total", label="source", values=("local_cache_hit",), since="0.26.0"),
        Counter(name="vllm:prefix_cache_hits_total", since="0.26.0"),
    ),
    host=(
        Counter(
            name="vllm:prompt_tokens_by_source_total", label="source", values=("external_kv_transfer",), since="0.26.0"
        ),
        Counter(name="vllm:external_prefix_cache_hits_total", since="0.26.0"),
    ),
    compute=(
        Counter(name="vllm:prompt_tokens_by_source_total", label="source", values=("local_compute",), since="0.26.0"),
    ),
    load_bytes=(Counter(name="vllm:kv_offload_load_bytes_total", since="0.26.0"),),
    load_s=(Counter(name="vllm:kv_offload_load_time_total", since="0.26.0"),),
    store_bytes=(Counter(name="vllm:kv_offload_store_bytes_total", since="0.26.0"),),
    store_s=(Counter(name="vllm:kv_offload_store_time_total", since="0.26.0"),),
    block_tokens=(Info(name="vllm:cache_config_info", label="block_size", since="0.26.0"),),
    pool_tokens=(Info(name="vllm:cache_config_info", label="kv_cache_size_tokens", since="0.32.0"),),
    pool_blocks=(Info(name="vllm:cache_config_info", label="num_gpu_blocks", since="0.26.0"),),
    kv_type=(Info(name="vllm:cache_config_info", label="cache_dtype", since="0.26.0"),),
    engine="engine",
    leaves_out="vLLM 0.26.0 writes what was part of a prompt, unless offload_prompt_only is false in its connector's "
    "settings",
    empty_device=Route(path="/reset_prefix_cache", needs="VLLM_SERVER_DEV_MODE=1"),
    empty_all=Route(path="/reset_prefix_cache?reset_external=true", needs="VLLM_SERVER_DEV_MODE=1"),
    fields={"cache_salt": "{salt}", "session_id": "{session}", "return_token_ids": True, "ignore_eos": True},
)
"""Run with 0.26.0 on a GPU and 0.32.0 on a CPU. LMCache behind it counts as what comes from outside the device."""


def _sglang_cached(*values: str) -> Counters:
    return (Counter(name="sglang:cached_tokens_total", label="cache_source", values=values, since="0.5.23"),)


SGLANG = PoolAdapter(
    name="sglang",
    begins="sglang:",
    needs="--enable-metrics --enable-cache-report --enable-hierarchical-cache",
    version=("/get_server_info", "version"),
    prompt=(Counter(name="sglang:prompt_tokens_total", since="0.5.23"),),
    device=_sglang_cached("device"),
    host=_sglang_cached("host", "storage*"),
    load_bytes=(Counter(name="sglang:load_back_bytes_total", since="0.5.23"),),
    load_s=(Counter(name="sglang:load_back_duration_seconds_sum", since="0.5.20"),),
    store_bytes=(Counter(name="sglang:hicache_backup_bytes_total", since="0.5.23"),),
    store_s=(Counter(name="sglang:hicache_backup_duration_seconds_sum", since="0.5.20"),),
    block_tokens=(Info(name="sglang:cache_config_info", label="page_size", since="0.5.10"),),
    pool_tokens=(Info(name="sglang:max_total_num_tokens", since="0.5.10"),),
    engine="dp_rank",
    empty_all=Route(path="/flush_cache", needs=""),
    fields={
        "cache_salt": "{salt}",
        "agent_hint": {"session_id": "{session}"},
        "return_cached_tokens_details": True,
        "ignore_eos": True,
    },
)
"""Read in its source and its users' scripts, and not run."""

POOLS: Mapping[str, PoolAdapter] = {adapter.name: adapter for adapter in (VLLM, SGLANG)}
