"""A module on streamed weights computes what it computed before, and is the same module afterwards."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from djinn_checks.engine.hooks import install_ring_buffer_hooks
from djinn_checks.engine.link import HostLink
from djinn_checks.engine.ring_buffer import WeightRingBuffer
from djinn_checks.engine.segments import cut_model
from djinn_checks.engine.timeline import TimedHostLink, open_timed_link
from djinn_checks.errors import ConcurrentForwardError, CopyError, EngineError, HooksError
from tests.architectures import CONFIGS
from tests.engine.modules import build, decode, logits, prompt, snapshot


def ring_for(model: nn.Module, share: float, **kwargs: Any) -> WeightRingBuffer:
    ring = WeightRingBuffer(int(cut_model(model).nbytes * share), "cpu", **kwargs)
    ring.register_model("model", model)
    return ring


@pytest.mark.parametrize("share", [0.45, 0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_streamed_logits_are_bit_equal_and_removal_restores_the_module(
    name: str, dtype: torch.dtype, share: float
) -> None:
    model = build(name, dtype)
    prompts = [prompt(40), prompt(3, seed=1), prompt(17, seed=2)]
    expected = [(logits(model, ids), decode(model, ids)) for ids in prompts]
    before = snapshot(model)
    ring = ring_for(model, share)
    with install_ring_buffer_hooks(model, ring, "model"):
        moved = [ring.get_stats()["bytes_transferred"]]
        for _ in range(3):
            for ids, (prefill, decoded) in zip(prompts, expected, strict=True):
                assert torch.equal(logits(model, ids), prefill)
                moved.append(ring.get_stats()["bytes_transferred"])
                assert torch.equal(decode(model, ids), decoded)
        assert ring.stream is not None
        assert ring.stream.plan.bytes_per_pass > 0
        assert moved[1] - moved[0] == ring.stream.plan.bytes_per_pass
    assert snapshot(model) == before


class EagerLink:
    """Copies the moment it is told to: an engine that overwrites too early shows at once."""

    def copy(self, slot: int, destination: Tensor, source: Tensor, *, after: int | None) -> None:
        destination.copy_(source)

    def wait(self, slot: int) -> None: ...

    def mark(self, slot: int) -> None: ...

    def close(self) -> None: ...


class LazyLink(EagerLink):
    """Copies as late as it may, in order: an engine that does not wait computes with stale bytes."""

    def __init__(self) -> None:
        self.pending: list[tuple[int, Tensor, Tensor]] = []

    def copy(self, slot: int, destination: Tensor, source: Tensor, *, after: int | None) -> None:
        self.pending.append((slot, destination, source))

    def wait(self, slot: int) -> None:
        while any(waiting == slot for waiting, _, _ in self.pending):
            _, destination, source = self.pending.pop(0)
            destination.copy_(source)


@pytest.mark.parametrize("link", [EagerLink, LazyLink])
@pytest.mark.parametrize("name", ["llama", "llama-tied", "gpt2"])
def test_the_earliest_and_the_latest_link_give_the_same_logits(name: str, link: type[EagerLink]) -> None:
    model = build(name)
    expected = logits(model, prompt(20))
    with install_ring_buffer_hooks(model, ring_for(model, 0.5, link_factory=lambda device, slots: link()), "model"):
        assert all(torch.equal(logits(model, prompt(20)), expected) for _ in range(4))


def test_a_forward_that_raised_and_a_part_called_alone_do_not_disturb_the_next_forward() -> None:
    model: Any = build("llama")
    expected = logits(model, prompt(9))
    with install_ring_buffer_hooks(model, ring_for(model, 0.5), "model"):
        handle = model.model.layers[3].register_forward_pre_hook(_explode)
        with pytest.raises(RuntimeError, match="planted"):
            logits(model, prompt(9))
        handle.remove()
        assert torch.equal(logits(model, prompt(9)), expected)
        with torch.no_grad():
            model.model(prompt(9))
        assert torch.equal(logits(model, prompt(9)), expected)


def _explode(module: nn.Module, args: Any) -> None:
    raise RuntimeError("planted")


def test_a_failed_copy_surfaces_in_the_forward_that_needed_it_and_the_next_one_is_right() -> None:
    class FailsOnce(HostLink):
        failures = 1

        def copy(self, slot: int, destination: Tensor, source: Tensor, *, after: int | None) -> None:
            if slot == 2 and FailsOnce.failures:
                FailsOnce.failures -= 1
                self._copies[slot] = self._thread.submit(_fail)
                return
            super().copy(slot, destination, source, after=after)

    model = build("llama")
    expected = logits(model, prompt(9))
    ring = ring_for(model, 0.5, link_factory=lambda device, slots: FailsOnce(slots))
    with install_ring_buffer_hooks(model, ring, "model"):
        assert ring.stream is not None
        failing = ring.stream.cut.segments[ring.stream.plan.loads[2].segment].name
        with pytest.raises(CopyError, match=f"copy of '{failing}'.*the cable fell out"):
            logits(model, prompt(9))
        assert torch.equal(logits(model, prompt(9)), expected)


def _fail() -> None:
    raise OSError("the cable fell out")


def test_a_second_thread_is_refused_while_a_forward_runs_and_welcome_after_it() -> None:
    model: Any = build("llama")
    entered, leave = threading.Event(), threading.Event()

    def pause(module: nn.Module, args: Any) -> None:
        entered.set()
        leave.wait(10)

    with install_ring_buffer_hooks(model, ring_for(model, 0.5), "model"):
        handle = model.model.layers[1].register_forward_pre_hook(pause)
        thread = threading.Thread(target=logits, args=(model, prompt(5)))
        thread.start()
        assert entered.wait(10)
        with pytest.raises(ConcurrentForwardError, match="one forward at a time"):
            logits(model, prompt(5))
        leave.set()
        thread.join()
        handle.remove()
        assert logits(model, prompt(5)).isfinite().all()


def test_a_ring_has_a_stream_while_hooks_are_installed_and_keeps_its_claims_afterwards() -> None:
    model = build("llama")
    ring = ring_for(model, 0.5)
    assert ring.stream is None
    with install_ring_buffer_hooks(model, ring, "model"):
        first = ring.stream
        assert first is not None
        logits(model, prompt(5))
    claimed = ring.get_stats()["bytes_transferred"]
    assert ring.stream is None
    assert claimed > 0
    assert ring.get_stats()["planned_bytes_per_pass"] is None
    with install_ring_buffer_hooks(model, ring, "model"):
        assert ring.stream not in (None, first)
        assert ring.get_stats()["bytes_transferred"] > claimed


def test_misuse_is_refused_with_a_sentence() -> None:
    model = build("llama")
    ring = ring_for(model, 0.5)
    with pytest.raises(EngineError, match="'other' is not registered .registered: 'model'."):
        install_ring_buffer_hooks(model, ring, "other")
    hooks = install_ring_buffer_hooks(model, ring, "model")
    with pytest.raises(HooksError, match="already streams 'model'"):
        install_ring_buffer_hooks(build("llama"), ring, "model")
    with pytest.raises(EngineError, match="inference"):
        model(inputs_embeds=torch.zeros(1, 4, 64, requires_grad=True))
    hooks.remove()
    with pytest.raises(HooksError, match="removed before"):
        hooks.remove()
    wrong = {name: value.half() for name, value in model.state_dict().items()}
    ring.register_model("model", wrong)
    with pytest.raises(EngineError, match=r"weight .* the module has .* torch.float32, .* torch.float16"):
        install_ring_buffer_hooks(model, ring, "model")


def test_a_model_on_meta_streams_from_a_state_dict() -> None:
    model = build("gpt2")
    expected = logits(model, prompt(12))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter.to("meta"), requires_grad=False)
    model.lm_head.weight = model.transformer.wte.weight  # type: ignore[union-attr]
    ring = WeightRingBuffer(int(cut_model(model).nbytes * 0.6), "cpu")
    ring.register_model("model", weights)
    with install_ring_buffer_hooks(model, ring, "model"):
        assert torch.equal(logits(model, prompt(12)), expected)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_a_link_that_takes_notes_changes_no_logit_and_notes_every_copy_before_its_use() -> None:
    model = build("llama")
    expected = logits(model, prompt(9))
    ring = ring_for(model, 0.5, link_factory=open_timed_link)
    with install_ring_buffer_hooks(model, ring, "model"):
        for _ in range(3):
            assert torch.equal(logits(model, prompt(9)), expected)
        assert ring.stream is not None
        assert isinstance(ring.stream.link, TimedHostLink)
        spans = ring.stream.link.timeline()
        assert len(spans) == 3 * len(ring.stream.plan.loads)
    assert all(s.copy_start_s <= s.copy_end_s <= s.compute_start_s <= s.compute_end_s for s in spans)
