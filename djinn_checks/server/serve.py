"""A server process: load the model, set the limits, listen, and end cleanly on SIGTERM or Ctrl-C."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable
from typing import Any

import torch
import uvicorn

from djinn_checks.devices import choose_device, choose_dtype
from djinn_checks.engine.agent_engine import AgentEngine
from djinn_checks.engine.decode_graphs import record_decode
from djinn_checks.engine.heap import unmap_what_is_freed
from djinn_checks.engine.kv_cache import probe_shape
from djinn_checks.engine.kv_store import KvStore
from djinn_checks.errors import EngineError
from djinn_checks.models.open import Model, open_model
from djinn_checks.server.app import create_app
from djinn_checks.server.descriptors import count_connections, raise_limit
from djinn_checks.server.listening import listen
from djinn_checks.server.metrics import Metrics
from djinn_checks.server.options import ServeOptions
from djinn_checks.units import GB

MakeStore = Callable[..., KvStore]

_SWITCH_S = 0.0005
"""How long a thread may keep the interpreter while another wants it. At Python's 5 ms, the thread that computes
may wait for the one that writes answers for as long as a dozen layers take."""

_GRACE_S = 20
"""How long running requests may take to end when the server is told to."""


def serve(
    options: ServeOptions,
    *,
    make_store: MakeStore = KvStore,
    say: Callable[[str], None] = print,
    bound: socket.socket | None = None,
) -> None:
    """Serve until told to stop. Says "serving <model> at <address>" when it listens.

    Args:
        options: of the command line.
        make_store: takes what `KvStore` takes.
        say: prints a line.
        bound: the socket of the options' address, where that was bound before.

    Raises:
        ModelError: the model cannot be had.
        EngineError: the host pool cannot be had, hardly a file can be opened, or the server did not start.
        ParamsError: the address cannot be listened at, or a device or data type has no such name.
        SystemUnavailableError: a GPU was asked for by name and is not there.
    """
    device, most_files = choose_device(options.device), raise_limit()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    sys.setswitchinterval(_SWITCH_S)
    listening = bound or listen(options)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        unmap_what_is_freed()
    model = open_model(options.model, dtype=choose_dtype(options.dtype, device), device=device, seed=options.seed)
    module: Any = model.resident(device)
    end_ids, metrics = end_tokens(model, module), Metrics()
    shape = probe_shape(module, device)
    graphs = record_decode(module, shape, device) if options.recording else None
    store = make_store(
        shape,
        device,
        device_bytes=int(options.kv_device_gb * GB),
        host_bytes=int(options.host_swap_pool_gb * GB),
        spill_folder=options.spill_folder,
    )
    engine = AgentEngine(
        module,
        store,
        graphs=graphs,
        end_ids=end_ids,
        idle_s=options.idle_s,
        ttl_s=options.ttl_s,
        max_sessions=options.max_sessions,
        observer=metrics,
    )
    longest = min(options.session_tokens, _most_tokens(model, options.session_tokens))
    hosts = (options.host, *options.allow_hosts)
    app = create_app(model, engine, metrics=metrics, session_tokens=longest, end_ids=end_ids, hosts=hosts)
    config = _configure(app, count_connections(most_files))
    address = listening.getsockname()
    server = _Server(config, lambda: say(f"serving {options.model} at http://{address[0]}:{address[1]}"))
    server.run([listening])
    if not server.started:
        raise EngineError("the server could not be started; what stopped it stands above")


def _configure(app: Any, most_connections: int | None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_GRACE_S,
        limit_concurrency=most_connections,
    )


def _most_tokens(model: Model, otherwise: int) -> int:
    """Return how many tokens a session may have by the model's own word."""
    return int(getattr(model.config, "max_position_embeddings", otherwise))


class _Server(uvicorn.Server):
    """Says when it listens, not before."""

    def __init__(self, config: uvicorn.Config, say: Callable[[], None]) -> None:
        super().__init__(config)
        self._say = say

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._say()


def end_tokens(model: Model, module: Any) -> frozenset[int]:
    """Return the token ids that end a text: none for random models, which have no tokenizer."""
    if model.tokenizer is None:
        return frozenset()
    configured = getattr(module.generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in (*ids, model.tokenizer.eos_token_id) if token is not None)
