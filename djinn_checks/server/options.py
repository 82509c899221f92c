"""How to serve a model to agents: every option with its default, said once for the command line and for callers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How to serve a model to agents."""

    model: str = "smollm2"
    dtype: str | None = None
    """None: float16, on a CPU float32."""
    device: str = "auto"
    """auto (the first GPU, else the CPU), cpu, cuda or cuda:<index>."""
    host: str = "127.0.0.1"
    allow_hosts: Sequence[str] = field(default_factory=list)
    """Names that it is asked by over loopback, as by a proxy on this machine, beside localhost and `host`."""
    port: int = 5556
    """0: a free one."""
    kv_device_gb: float = 1.0
    """Most KV on the device, GB."""
    host_swap_pool_gb: float = 1.0
    """Most sleeping KV in host memory, GB; pinned at the start."""
    spill_folder: Path | None = None
    """Where sleeping KV goes that does not fit the pool; None: it stays, or is refused."""
    idle_s: float = 1.0
    """Seconds without a request after which a session leaves the device."""
    ttl_s: float = 3600.0
    """Seconds without a request after which a session is closed."""
    session_tokens: int = 4096
    """Most tokens of a session."""
    max_sessions: int = 256
    seed: int = 0
    recording: bool = True
    """Decode by recorded CUDA graphs, where there is a GPU and the model allows it."""
