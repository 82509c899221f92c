"""On a GPU: streamed logits are bit-equal, the host never waits for a copy, and memory stays in the budget."""

from __future__ import annotations

import gc
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from djinn_checks.attention import reproducible_attention
from djinn_checks.engine.timeline import TimedCudaLink
from djinn_checks.models.open import Model, open_model
from djinn_checks.systems.ring import EncodedRingSystem, RingSystem

pytestmark = pytest.mark.gpu

SHARE = 0.25
DECODED = 6
LAYERS = 8
SLEEP_CYCLES = 80_000_000  # some tens of milliseconds
systems = pytest.mark.parametrize(
    ("system_class", "dtype"),
    [(RingSystem, torch.float16), (EncodedRingSystem, torch.bfloat16)],
    ids=["ring-fp16", "ring-ans-bf16"],
)
SYNCHRONIZING = ("Synchronize", "cudaMemcpy", "cudaFree", "cudaHostAlloc", "cudaMalloc")


@pytest.fixture(autouse=True)
def same_attention() -> Iterator[None]:
    with reproducible_attention():
        yield


def cuda() -> torch.device:
    return torch.device("cuda", 0)


def prompts(model: Model) -> list[Tensor]:
    lengths = (5, 64, 300)
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.vocab_size
    return [torch.randint(0, vocabulary, (1, length), generator=generator).to(cuda()) for length in lengths]


@torch.no_grad()
def prefill_and_decode(module: Any, ids: Tensor, forced: Tensor | None) -> Tensor:
    """Logits of the prompt and of DECODED tokens through the KV cache, on the CPU: [T + DECODED, V]."""
    output = module(ids, use_cache=True)
    rows = [output.logits[0].cpu()]
    for step in range(DECODED):
        token = rows[-1][-1:].argmax(-1, keepdim=True) if forced is None else forced[:, step : step + 1]
        output = module(token.to(cuda()), past_key_values=output.past_key_values, use_cache=True)
        rows.append(output.logits[0].cpu())
    return torch.cat(rows)


def peak_bytes(work: Callable[[], Any]) -> tuple[Any, int]:
    torch.cuda.reset_peak_memory_stats()
    result = work()
    torch.cuda.synchronize()
    return result, torch.cuda.max_memory_allocated()


def needs(system_class: type[RingSystem]) -> None:
    if system_class.encodes:
        pytest.importorskip("nvidia.libnvcomp")


@systems
@pytest.mark.parametrize("spec", ["smollm2", "random:llama-2-7b"])
def test_a_ring_of_a_quarter_of_the_model_is_bit_equal_over_three_passes_within_its_memory(
    spec: str, system_class: type[RingSystem], dtype: torch.dtype
) -> None:
    needs(system_class)
    model = open_model(spec, dtype=dtype, device=cuda())
    inputs = prompts(model)
    module = model.resident(cuda())
    expected, reference_peak = peak_bytes(lambda: [prefill_and_decode(module, ids, None) for ids in inputs])
    del module
    gc.collect()
    torch.cuda.empty_cache()
    working_set = reference_peak - model.weight_bytes

    budget = int(SHARE * model.weight_bytes)
    with system_class(model, device=cuda(), budget_bytes=budget) as system:
        module = system.open()
        forced = [logits[ids.shape[1] - 1 : -1].argmax(-1)[None] for ids, logits in zip(inputs, expected, strict=True)]

        def three_passes() -> None:
            for _ in range(3):
                for ids, logits, tokens in zip(inputs, expected, forced, strict=True):
                    assert torch.equal(prefill_and_decode(module, ids, tokens), logits)

        torch.cuda.synchronize()
        claimed = system.claimed_bytes() or 0
        _, peak = peak_bytes(three_passes)
        forwards = 3 * len(inputs) * (1 + DECODED)
        assert (system.claimed_bytes() or 0) - claimed == forwards * system.plan.bytes_per_pass
        print(f"\n{spec}: peak {peak:,}, budget {budget:,}, working set {working_set:,}")
        assert peak <= 1.05 * budget + working_set


class SlowCudaLink(TimedCudaLink):
    """Each copy begins some tens of milliseconds late."""

    def run(self, slot: int, work: Callable[[], Any], *, after: int | None) -> None:
        super().run(slot, lambda: (torch.cuda._sleep(SLEEP_CYCLES), work()), after=after)


@systems
def test_the_host_enqueues_a_forward_without_waiting_for_any_copy(
    system_class: type[RingSystem], dtype: torch.dtype, tmp_path: Path
) -> None:
    """Of few layers: after a thousand launches the driver keeps any host waiting, that of a resident model too."""
    needs(system_class)
    config = json.loads((resources.files("djinn_checks.models") / "shapes" / "llama-2-7b.json").read_text())
    shape = tmp_path / "config.json"
    shape.write_text(json.dumps(config | {"num_hidden_layers": LAYERS}))
    model = open_model(f"random:{shape}", dtype=dtype, device=cuda())
    ids = prompts(model)[0][:, :1]
    module = model.resident(cuda())
    resident_calls = synchronizing_calls(module, ids)
    del module
    gc.collect()
    torch.cuda.empty_cache()
    with system_class(
        model, device=cuda(), budget_bytes=int(0.5 * model.weight_bytes), resident_blocks=0, link_factory=SlowCudaLink
    ) as system:
        module = system.open()
        streamed_calls = synchronizing_calls(module, ids)
        enqueue_s, total_s = enqueue_and_total_s(module, ids)
    print(f"\nblocking calls: resident {dict(resident_calls)}, streamed {dict(streamed_calls)}")
    print(f"enqueued in {enqueue_s * 1e3:.1f} ms, finished after {total_s * 1e3:.1f} ms")
    assert not streamed_calls - resident_calls
    assert enqueue_s < 0.5 * total_s


def synchronizing_calls(module: Any, ids: Tensor) -> Counter[str]:
    """CUDA runtime calls that may block the host, in one warm forward, from a profiler trace."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.no_grad():
        module(ids)
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=activities) as profile:
            module(ids)
            mark = torch.cuda.Event()
            mark.record()
        torch.cuda.synchronize()
    names = [event.name for event in profile.events() if event.name.startswith("cuda")]
    blocking = [n for n in names if any(word in n for word in SYNCHRONIZING) and not n.endswith("Async")]
    # Leaving the profiler synchronizes the device once, whatever ran inside.
    return Counter(name for name in blocking if name != "cudaDeviceSynchronize")


@torch.no_grad()
def enqueue_and_total_s(module: Any, ids: Tensor) -> tuple[float, float]:
    module(ids)
    torch.cuda.synchronize()
    start = time.perf_counter()
    module(ids)
    enqueued = time.perf_counter()
    torch.cuda.current_stream().synchronize()
    return enqueued - start, time.perf_counter() - start
