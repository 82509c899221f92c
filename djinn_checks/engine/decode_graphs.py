"""A decode step in few launches: what lies between two attentions is recorded once as a CUDA graph, and replayed.

At batch 1 a decode waits for the processor. Some fifty small kernels per layer, each launched through Python, take
several times as long to launch as to run, and longer still when a neighbour has the other half of the core. All of
them but attention and the writing of the new keys and values have the same shapes and the same addresses for every
token and every session, so they are recorded: one graph from the embedding to the first attention, one from each
attention to the next, one from the last to the logits. Attention stays transformers' own function, called between
the graphs with the session's cache.

The same kernels run in the same order, so the bits are the same; and nobody has to believe it, for they are
compared with the module's own before the graphs are used (`record_decode`).
"""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from djinn_checks.attention import reproducible_attention
from djinn_checks.engine.kv_cache import KvBlock, SessionCache
from djinn_checks.engine.kv_shape import KvShape
from djinn_checks.errors import EngineError, KvError

_log = logging.getLogger(__name__)

_NAME = "djinn_checks_recorded"
_PROMPT, _STEPS = 24, 4
"""Tokens before the steps that are compared, and how many steps are; the last of them far away."""
_CHANGING = ("dynamic", "longrope")
"""Kinds of rotation whose frequencies depend on the length of the text so far."""

MakeGraph = Callable[[], Any]
"""Returns something with `capture_begin(pool=...)`, `capture_end()` and `replay()`: a `torch.cuda.CUDAGraph`."""


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """What comes before one attention, and the attention."""

    graph: Any
    layer: int
    keys: Tensor
    """[1, heads, 1, dim], as the graph leaves them; so are the values."""
    values: Tensor
    attend: Callable[[Tensor, Tensor], Tensor]
    """Attention of the graph's query over all keys and values of the session."""
    attended: Tensor
    """Where the next graph reads what attention gave."""


@dataclass(frozen=True, kw_only=True)
class DecodeGraphs:
    """One token through a module, over any session's cache. For one thread and one stream at a time."""

    ids: Tensor
    """[1, 1] int64, which the first graph reads; so are the positions."""
    positions: Tensor
    pieces: tuple[_Piece, ...]
    last: Any
    logits: Tensor
    """[1, 1, vocabulary], which the last graph writes."""

    @torch.no_grad()
    def step(self, token: int, cache: SessionCache, *, position: int | None = None) -> Tensor:
        """Feed a token behind what the cache holds, and return the logits of the next one: 1-d, in the model's dtype.

        The next step writes over them.

        Args:
            position: the token's; None: how many tokens the cache holds.
        """
        self.ids.fill_(token)
        self.positions.fill_(cache.get_seq_length() if position is None else position)
        for piece in self.pieces:
            piece.graph.replay()
            keys, values = cache.layers[piece.layer].update(piece.keys, piece.values)
            piece.attended.copy_(piece.attend(keys, values))
        self.last.replay()
        return self.logits[0, -1]


def record_decode(
    module: Any, shape: KvShape, device: torch.device, *, make_graph: MakeGraph | None = None
) -> DecodeGraphs | None:
    """Record a module's decode step, and compare it with the module's own.

    Returns None, and logs why, where there is nothing to record (no GPU, another attention than "sdpa", sliding
    windows, rotations that depend on the length), where a step waits for the device, where recording fails, or where
    a single bit of the logits differs. Whoever asked computes with the module itself then.

    Args:
        shape: of the module's cache.
        make_graph: what records; None: CUDA graphs.

    Raises:
        EngineError: recording failed and left PyTorch's allocator unusable.
    """
    if device.type != "cuda" and make_graph is None:
        return None
    graphs, why_not = None, _why_not(module, shape)
    if not why_not:
        try:
            with _beside(device), torch.no_grad(), reproducible_attention():
                graphs = _record_and_compare(module, shape, device, make_graph or torch.cuda.CUDAGraph)
        except Exception as error:  # of whatever kind: models differ in what they do, and nothing depends on this
            why_not = f"{type(error).__name__}: {error}"
    if why_not:
        _log.warning("the decode is not recorded, the module computes it: %s", why_not)
    _give_back(device, why_not)
    return graphs


def _why_not(module: Any, shape: KvShape) -> str:
    parts = [part for part in module.modules() if getattr(part, "config", None) is not None]
    longest = getattr(module.config, "max_position_embeddings", None)
    if len({id(part.config) for part in parts}) != 1:
        return "parts of the model have configurations of their own"
    if module.config._attn_implementation != "sdpa":
        return f"attention is {module.config._attn_implementation!r}, not 'sdpa'"
    if any(layer.window is not None for layer in shape.layers):
        return "layers attend to a window"
    if any(kind in str(getattr(part, "rope_type", "")) for part in module.modules() for kind in _CHANGING):
        return "rotations depend on the length of the text"
    if longest is not None and longest <= _PROMPT + _STEPS:
        return f"the model has {longest} positions; the comparison takes more than {_PROMPT + _STEPS}"
    return ""


def _record_and_compare(module: Any, shape: KvShape, device: torch.device, make_graph: MakeGraph) -> DecodeGraphs:
    ids = torch.arange(1, _PROMPT + _STEPS + 1, device=device) % module.config.vocab_size
    positions = [*range(_PROMPT, _PROMPT + _STEPS - 1), _last_position(module)]
    steps = list(zip(ids[_PROMPT:], positions, strict=True))
    own, recorded = _prefilled(module, shape, ids[:_PROMPT]), _prefilled(module, shape, ids[:_PROMPT])
    expected = [_own_step(module, token, position, own) for token, position in steps]
    with _no_waiting(device):
        _record(module, shape, device, _Nothing)
    graphs = _record(module, shape, device, make_graph)
    for (token, position), wanted in zip(steps, expected, strict=True):
        if not torch.equal(graphs.step(int(token), recorded, position=position), wanted):
            raise KvError(f"the recorded step gives other bits than the module at position {position}")
    return graphs


def _last_position(module: Any) -> int:
    """Return the last position that the model was made for: what changes with the position shows there."""
    return int(getattr(module.config, "max_position_embeddings", _PROMPT + _STEPS)) - 1


def _prefilled(module: Any, shape: KvShape, ids: Tensor) -> SessionCache:
    cache = _new_cache(shape, ids.device)
    module(input_ids=ids[None], past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


@contextlib.contextmanager
def _beside(device: torch.device) -> Iterator[None]:
    """Work on a stream of its own, as recording has to, in order with what comes before and after."""
    if device.type != "cuda":
        yield
        return
    stream, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        current.wait_stream(stream)


@contextlib.contextmanager
def _no_waiting(device: torch.device) -> Iterator[None]:
    """Have whatever makes the host wait for the device raise an error: a recording would break on it."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _give_back(device: torch.device, why_not: str) -> None:
    """Leave no memory behind that would be given back in the middle of somebody's measurement.

    After a recording that broke, PyTorch may refuse this for ever (pytorch/pytorch issue 180395); better now.
    """
    if device.type != "cuda":
        return
    try:
        torch.cuda.empty_cache()
    except RuntimeError as error:
        raise EngineError(
            f"recording the decode failed ({why_not}) and left PyTorch unable to give memory back; "
            "serve without it (--no-recording)"
        ) from error


def _own_step(module: Any, token: Tensor, position: int, cache: SessionCache) -> Tensor:
    positions = torch.full((1, 1), position, device=token.device)
    logits: Tensor = module(
        input_ids=token.view(1, 1), position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
    ).logits
    return logits[0, -1].clone()


def _new_cache(shape: KvShape, device: torch.device) -> SessionCache:
    memory = torch.zeros(shape.device_bytes(_PROMPT + _STEPS), dtype=torch.uint8, device=device)
    return SessionCache(KvBlock(shape, memory))


def _record(module: Any, shape: KvShape, device: torch.device, make_graph: MakeGraph) -> DecodeGraphs:
    ids, positions = (torch.zeros((1, 1), dtype=torch.int64, device=device) for _ in range(2))
    pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
    recorder = _Recorder(_new_cache(shape, device).block, make_graph, pool, AttentionInterface()["sdpa"])
    gc.collect()  # memory that is freed in the middle of a recording would belong to it
    with _attention_by(module, recorder.attend), recorder:
        logits = module(
            input_ids=ids, position_ids=positions, past_key_values=recorder, use_cache=True, logits_to_keep=1
        ).logits
    if len(recorder.pieces) != len(shape.layers):
        raise KvError(f"{len(recorder.pieces)} attentions were seen in {len(shape.layers)} layers")
    return DecodeGraphs(ids=ids, positions=positions, pieces=tuple(recorder.pieces), last=recorder.graph, logits=logits)


@contextlib.contextmanager
def _attention_by(module: Any, attend: Callable[..., Any]) -> Iterator[None]:
    """Have a module's attention computed by a function. Without masks: one token sees everything before it."""
    before = module.config._attn_implementation
    AttentionInterface.register(_NAME, attend)
    try:
        module.set_attn_implementation(_NAME)
        if module.config._attn_implementation != _NAME:
            raise KvError("the model does not let its attention be chosen")
        yield
    finally:
        module.set_attn_implementation(before)
        AttentionInterface.register(_NAME, AttentionInterface()[before])  # lets go of the recorder


class _Nothing:
    """A graph that records nothing, to see whether a step could be recorded."""

    def capture_begin(self, pool: Any = None) -> None:
        pass

    def capture_end(self) -> None:
        pass


class _Recorder(SessionCache):
    """A cache at which recording stops, and which starts it again behind the attention over it.

    Attributes:
        graph: what is being recorded; the last one when the recorder is left.
    """

    def __init__(self, block: KvBlock, make_graph: MakeGraph, pool: Any, attention: Callable[..., Any]) -> None:
        super().__init__(block)
        self.pieces: list[_Piece] = []
        self._make_graph, self._pool, self._attention = make_graph, pool, attention
        self._is_recording = False
        self._layer, nothing = -1, torch.empty(0)
        self._new = self._all = nothing, nothing

    def __enter__(self) -> None:
        self._begin()

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if not self._is_recording:
            return
        with contextlib.suppress(Exception) if kind else contextlib.nullcontext():  # the first error says why
            self._end()

    def _begin(self) -> None:
        self.graph = self._make_graph()
        self.graph.capture_begin(pool=self._pool)
        self._is_recording = True

    def _end(self) -> None:
        self._is_recording = False
        self.graph.capture_end()

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        if not self._is_recording:
            raise KvError(f"layer {layer_idx}: the attention before it was not seen")
        self._end()
        self._layer, self._new = layer_idx, (key_states, value_states)
        self._all = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        return self._all

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        if self._is_recording:
            raise KvError("an attention has no keys and values of its own in the cache")
        if attention_mask is not None:
            raise KvError("a mask was made for a single token")
        if key is not self._all[0] or value is not self._all[1]:
            raise KvError("keys or values are changed between the cache and attention")
        attend = partial(_attend, self._attention, module, query, kwargs)
        attended, (keys, values) = attend(key, value).clone(), self._new
        self.pieces.append(
            _Piece(graph=self.graph, layer=self._layer, keys=keys, values=values, attend=attend, attended=attended)
        )
        self._begin()
        return attended, None


def _attend(
    attention: Callable[..., Any], module: Any, query: Tensor, kwargs: dict[str, Any], key: Tensor, value: Tensor
) -> Tensor:
    attended: Tensor = attention(module, query, key, value, None, **kwargs)[0]
    return attended
