"""A small server that speaks as vLLM 0.26.0 does and really has what is checked of it: a pool of KV blocks on the
"device", a tier of them on the "host", and a model that computes what neither has.

What it counts, under vLLM's names, is what it did; a defect is what it does otherwise.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.request import Request, urlopen

import torch
from torch import Tensor
from transformers import DynamicCache

from djinn_checks.attention import reproducible_attention
from djinn_checks.models.open import open_model

BLOCK = 8
Block = tuple[tuple[Tensor, Tensor], ...]
"""Keys and values of each layer, [1, heads, BLOCK, size]."""


@dataclass(kw_only=True)
class Defects:
    """What the server does otherwise than it should."""

    offloads: bool = True
    salts: bool = True
    """Whether sessions of other salts have other blocks."""
    recomputes_secretly: bool = False
    """Computes what it says that it loaded."""
    recomputes_in_parts: bool = False
    """The same, and what it did not say it loaded in a second part."""
    crosses_once_in: int = 0
    """Of so many loads, one brings the blocks of another session; 0: none does."""
    keeps_in_secret: bool = False
    """Nothing leaves the device, and the host is named as the source."""
    unnamed: tuple[str, ...] = ()
    """Metrics that it does not have."""
    cancelled_stay: bool = False
    """The blocks of a request that was cancelled are kept as if it had ended, whatever is in them."""
    slow_s: float = 0.0
    """Beside what a token takes to compute."""
    routes: bool = True
    """Whether its cache can be emptied."""
    leaves_out_answers: bool = False
    """Writes to the host what was part of a prompt, and is no defect."""
    computes_last_token: bool = False
    """Feeds back an answer's last token, too, as a server does that guesses ahead; no defect."""
    chunk_blocks: int = 1
    """The host keeps so many blocks together, as LMCache does, and is no defect."""
    lag_s: float = 0.0
    """After which the sources of a prompt are counted, and not the prompt itself; no defect."""
    broken_scrapes: range = range(0)
    """Which of the requests for metrics are answered with HTTP 503."""
    is_closed: bool = False
    """Whether the routes that empty its cache are refused."""
    refuses_others: bool = False
    """Whether prompts without log-probabilities are refused."""
    keeps_last_token: bool = False
    """Writes a block to the host that an answer's last token fills, whose KV nobody computed."""


@dataclass
class PagedModel:
    """A model with a prefix cache in two tiers."""

    module: Any
    pool_blocks: int
    defects: Defects
    device: OrderedDict[Any, Block] = field(default_factory=OrderedDict)
    host: OrderedDict[Any, Block] = field(default_factory=OrderedDict)
    counts: dict[str, float] = field(default_factory=dict)
    late: list[tuple[float, str, float]] = field(default_factory=list)
    """What is to be counted, and when."""
    scrapes: int = 0
    loads: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, name: str, amount: float) -> None:
        self.counts[name] = self.counts.get(name, 0) + amount

    @torch.no_grad()
    def answer(self, ids: list[int], salt: str, tokens: int) -> Iterator[tuple[int, Tensor]]:
        """Give each token of an answer with all log-probabilities at its place."""
        keys = self._keys(ids, salt)
        hot, loaded = self._find(keys, len(ids))
        blocks = [*(self.device[key] for key in keys[:hot]), *self._load(keys[hot : hot + loaded])]
        self._account(len(ids), hot, loaded, blocks)
        if self.defects.recomputes_secretly and loaded:
            blocks = blocks[:hot]
        cache = DynamicCache()
        if self.defects.recomputes_in_parts and loaded:
            with reproducible_attention():
                self.module(input_ids=torch.tensor([ids[: len(blocks) * BLOCK]]), past_key_values=cache)
        for layer in range(self.module.config.num_hidden_layers):
            for block in () if self.defects.recomputes_in_parts and loaded else blocks:
                cache.update(*block[layer], layer)
        said: list[int] = []
        rest = ids[len(blocks) * BLOCK :]
        with reproducible_attention():
            while len(said) < tokens:
                logits = self.module(input_ids=torch.tensor([rest]), past_key_values=cache, logits_to_keep=1).logits
                logprobs = torch.log_softmax(logits[0, -1].double(), dim=-1)
                rest = [int(logprobs.argmax())]
                said += rest
                yield rest[0], logprobs
        if self.defects.computes_last_token:
            with reproducible_attention():
                self.module(input_ids=torch.tensor([rest]), past_key_values=cache, logits_to_keep=1)
        fed_back = said if self.defects.computes_last_token else said[:-1]
        self._keep([*ids, *fed_back], salt, cache, prompt_tokens=len(ids))
        if self.defects.keeps_last_token and (len(ids) + len(said)) % BLOCK == 0:
            key, computed = self._keys([*ids, *said], salt)[-1], slice(len(ids) + len(said) - BLOCK, None)
            self.host[key] = tuple(
                (_padded(layer.keys[:, :, computed]), _padded(layer.values[:, :, computed])) for layer in cache.layers
            )

    def _keys(self, ids: Sequence[int], salt: str) -> list[Any]:
        named = salt if self.defects.salts else ""
        return [(named, tuple(ids[:end])) for end in range(BLOCK, len(ids) + 1, BLOCK)]

    def _find(self, keys: list[Any], length: int) -> tuple[int, int]:
        """Return how many blocks are on the device, and how many more on the host; the last token is computed."""
        usable = keys[: (length - 1) // BLOCK]
        hot = next((place for place, key in enumerate(usable) if key not in self.device), len(usable))
        rest = usable[hot:] if self.defects.offloads else []
        loaded = next((place for place, key in enumerate(rest) if key not in self.host), len(rest))
        chunk = self.defects.chunk_blocks
        return hot, max(0, (hot + loaded) // chunk * chunk - hot)

    def _load(self, keys: list[Any]) -> list[Block]:
        if not keys:
            return []
        self.loads += 1
        crossed = self.defects.crosses_once_in and self.loads % self.defects.crosses_once_in == 0
        others = [block for key, block in self.host.items() if key not in keys]
        return others[: len(keys)] if crossed and len(others) >= len(keys) else [self.host[key] for key in keys]

    def _account(self, length: int, hot: int, loaded: int, blocks: list[Block]) -> None:
        secret = hot if self.defects.keeps_in_secret else 0
        nbytes = sum(part.nbytes for block in blocks[hot - secret :] for pair in block for part in pair)
        self.count("prompt_tokens_total", length)
        sources = {
            "local_cache_hit": (hot - secret) * BLOCK,
            "external_kv_transfer": (loaded + secret) * BLOCK,
            "local_compute": length - (hot + loaded) * BLOCK,
        }
        due = time.monotonic() + self.defects.lag_s
        self.late += [
            (due, f'prompt_tokens_by_source_total{{source="{source}"}}', count) for source, count in sources.items()
        ]
        self.count("kv_offload_load_bytes_total", nbytes)
        self.count("kv_offload_load_time_total", nbytes / 5e9)

    def _keep(self, ids: list[int], salt: str, cache: DynamicCache, *, prompt_tokens: int) -> None:
        for place, key in enumerate(self._keys(ids, salt)):
            span = slice(place * BLOCK, (place + 1) * BLOCK)
            block = tuple((layer.keys[:, :, span].clone(), layer.values[:, :, span].clone()) for layer in cache.layers)
            self.device[key] = self.device.pop(key, block)
            is_offloaded = self.defects.offloads and not (self.defects.leaves_out_answers and span.stop > prompt_tokens)
            if is_offloaded and key not in self.host:
                self.host[key] = block
                self.count("kv_offload_store_bytes_total", sum(part.nbytes for pair in block for part in pair))
        while len(self.device) > self.pool_blocks and not self.defects.keeps_in_secret:
            self.device.popitem(last=False)

    def spoil(self, ids: list[int], salt: str) -> None:
        """Keep blocks of which nothing was computed."""
        for key in self._keys(ids, salt):
            size = (1, self.module.config.num_key_value_heads, BLOCK, self.module.config.head_dim)
            layers = range(self.module.config.num_hidden_layers)
            self.device[key] = self.host[key] = tuple((torch.zeros(size), torch.zeros(size)) for _ in layers)

    def metrics(self) -> str:
        with self.lock:
            self.scrapes += 1
            now = time.monotonic()
            for due, name, amount in self.late:
                if due <= now:
                    self.count(name, amount)
            self.late = [entry for entry in self.late if entry[0] > now]
        names = ["prompt_tokens_total", *(f'prompt_tokens_by_source_total{{source="{source}"}}' for source in
                 ("local_compute", "local_cache_hit", "external_kv_transfer"))]  # fmt: skip
        if self.defects.offloads:
            names += [f"kv_offload_{what}_total" for what in ("load_bytes", "load_time", "store_bytes", "store_time")]
        lines = []
        for name in names:
            bare, _, labels = name.partition("{")
            if bare not in self.defects.unnamed:
                labels = f",{labels[:-1]}" if labels else ""
                lines.append(f'vllm:{bare}{{engine="0",model_name="tiny"{labels}}} {self.counts.get(name, 0.0)}')
        lines.append(
            f'vllm:cache_config_info{{block_size="{BLOCK}",engine="0",num_gpu_blocks="{self.pool_blocks}"}} 1.0'
        )
        return "\n".join(["# HELP vllm:prompt_tokens_total Number of prefill tokens processed.", *lines, ""])


@contextlib.contextmanager
def serve_vllm(spec: str, *, pool_blocks: int, defects: Defects | None = None) -> Iterator[tuple[str, PagedModel]]:
    """Serve a model; give its address and what is behind it."""
    module: Any = open_model(spec, dtype=torch.float32, device=torch.device("cpu")).resident(torch.device("cpu"))
    paged = PagedModel(module, pool_blocks, defects or Defects())

    class Handler(Quiet):
        def do_GET(self) -> None:
            if self.path == "/metrics" and paged.scrapes + 1 in paged.defects.broken_scrapes:
                paged.scrapes += 1
                self.answer(503, "busy")
                return
            known = {
                "/metrics": paged.metrics() if self.path == "/metrics" else "",
                "/version": '{"version": "0.26.0"}',
                "/v1/models": '{"object": "list", "data": [{"id": "tiny", "object": "model"}]}',
            }
            self.answer(200 if self.path in known else 404, known.get(self.path, '{"detail": "Not Found"}'))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            if len(body) < int(self.headers["Content-Length"] or 0):
                return  # the client is gone before it had asked
            path, _, query = self.path.partition("?")
            if path == "/reset_prefix_cache" and paged.defects.is_closed:
                self.answer(403, '{"error": "closed"}')
            elif path == "/reset_prefix_cache" and paged.defects.routes:
                with paged.lock:
                    paged.device.clear()
                    if query == "reset_external=true":
                        paged.host.clear()
                self.answer(200, '{"success":true}')
            elif path == "/v1/completions":
                self.complete(json.loads(body))
            else:
                self.answer(404, '{"detail": "Not Found"}')

        def complete(self, asked: dict[str, Any]) -> None:
            if asked["model"] != "tiny":
                self.answer(404, '{"error": {"message": "The model does not exist."}}')
                return
            if paged.defects.refuses_others and not asked.get("logprobs"):
                self.answer(429, '{"error": {"message": "too many requests"}}')
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            count, salt = 0, asked.get("cache_salt") or ""
            with paged.lock:
                try:
                    for token, logprobs in paged.answer(asked["prompt"], salt, asked["max_tokens"]):
                        count += 1
                        time.sleep(paged.defects.slow_s)
                        self.say({"choices": [choice(token, logprobs, asked)]})
                except OSError:  # the client is gone
                    if paged.defects.cancelled_stay:
                        paged.spoil(asked["prompt"], salt)
                    return
            usage = {"prompt_tokens": len(asked["prompt"]), "completion_tokens": count}
            self.say({"choices": [], "usage": usage | {"prompt_tokens_details": None}})
            self.wfile.write(b"data: [DONE]\n\n")

        def say(self, event: dict[str, Any]) -> None:
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())

    with listening(Handler) as address:
        yield address, paged


def _padded(computed: Tensor) -> Tensor:
    """Return a block's keys or values with whatever lay where nothing was computed."""
    lacking = (*computed.shape[:2], BLOCK - computed.shape[2], computed.shape[3])
    return torch.cat((computed, torch.randn(lacking)), 2)


def choice(token: int, logprobs: Tensor, asked: dict[str, Any]) -> dict[str, Any]:
    """Return what vLLM says of a token."""
    values, ids = logprobs.topk(2)
    told = {
        "tokens": [f" {token}"],
        "token_logprobs": [float(logprobs[token])],
        "top_logprobs": [{f" {other}": float(value) for other, value in zip(ids.tolist(), values, strict=True)}],
    }
    given = {"token_ids": [token]} if asked.get("return_token_ids") else {}
    return {"index": 0, "text": f" {token}", "logprobs": told if asked.get("logprobs") else None, **given}


@contextlib.contextmanager
def serve_mixer(upstream: str, *, once_in: int) -> Iterator[str]:
    """Stand before a server and answer one completion in so many with what another session was told."""
    told: list[tuple[bytes, bytes]] = []
    asked = iter(range(1, 10**9))

    class Handler(Quiet):
        def do_GET(self) -> None:
            self.forward(None)

        def do_POST(self) -> None:
            self.forward(self.rfile.read(int(self.headers["Content-Length"] or 0)))

        def forward(self, body: bytes | None) -> None:
            request = Request(upstream + self.path, data=body, method=self.command)
            request.add_header("Content-Type", "application/json")
            try:
                with urlopen(request) as answer:
                    status, said = answer.status, answer.read()
            except OSError as error:
                status, said = getattr(error, "code", 502), b"{}"
            if self.path == "/v1/completions" and body is not None and b'"logprobs"' in body:
                salt = json.loads(body)["cache_salt"].encode()
                others = [other for who, other in told if who != salt and other.count(b"data:") == said.count(b"data:")]
                told.append((salt, said))
                if next(asked) % once_in == 0 and others:
                    said = others[-1]
            self.send_response(status)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

    with listening(Handler) as address:
        yield address


class Quiet(BaseHTTPRequestHandler):
    """A handler that logs nothing."""

    def answer(self, status: int, text: str) -> None:
        said = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    serving = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        serving.join()
