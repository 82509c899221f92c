"""On a GPU with nvCOMP: every bit comes back, no decode waits, and bits that flip in host memory are never silent."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from djinn_checks.engine.codecs import open_codec
from djinn_checks.engine.hooks import install_ring_buffer_hooks
from djinn_checks.engine.ring_buffer import WeightRingBuffer
from djinn_checks.engine.segments import cut_model
from djinn_checks.errors import CopyError
from djinn_checks.models.open import open_model
from djinn_checks.units import MIB

pytestmark = pytest.mark.gpu
pytest.importorskip("nvidia.libnvcomp")

SIZE = 64 * MIB
SLEEP_CYCLES = 2_000_000_000  # about a second


def cuda() -> torch.device:
    return torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("dtype", "share"),
    [(torch.bfloat16, 0.68), (torch.float16, 0.86), (torch.float32, 0.85), (torch.int8, 1.1)],
    ids=str,
)
def test_every_bit_comes_back_by_way_of_host_memory(dtype: torch.dtype, share: float) -> None:
    codec = open_codec("ans", cuda())
    assert codec is not None
    values = torch.empty(SIZE // dtype.itemsize, dtype=torch.float32, device=cuda()).normal_(std=0.02)
    plain = (100 * values if dtype is torch.int8 else values).to(dtype).view(torch.uint8)
    encoded = codec.encode(plain, dtype)
    assert encoded.numel() < share * SIZE
    landed, again = encoded.cpu().to(cuda()), torch.zeros_like(plain)
    decode = codec.decoder(landed, again, dtype)
    torch.cuda.synchronize()
    decode()
    torch.cuda.synchronize()
    assert torch.equal(again, plain)


def test_decodes_are_enqueued_while_the_stream_is_busy() -> None:
    codec = open_codec("ans", cuda())
    assert codec is not None
    plain = torch.empty(SIZE // 2, dtype=torch.float32, device=cuda()).normal_().to(torch.bfloat16).view(torch.uint8)
    decode = codec.decoder(codec.encode(plain, torch.bfloat16), torch.zeros_like(plain), torch.bfloat16)
    decode()
    torch.cuda.synchronize()
    with torch.cuda.stream(codec.stream):
        torch.cuda._sleep(SLEEP_CYCLES)
        start = time.perf_counter()
        for _ in range(8):
            decode()
        enqueued_s = time.perf_counter() - start
        end = torch.cuda.Event()
        end.record()
    assert not end.query()
    torch.cuda.synchronize()
    assert time.perf_counter() - start > 4 * enqueued_s


@torch.no_grad()
def test_bits_that_flip_in_host_memory_give_nans_at_once_and_an_error_in_the_next_forward() -> None:
    model = open_model("random:tiny", dtype=torch.bfloat16, device=cuda())
    module: Any = model.skeleton()
    ring = WeightRingBuffer(cut_model(module).nbytes // 2, cuda(), codec=open_codec("ans", cuda()))
    ring.register_model("tiny", model.weights)
    ids = torch.arange(1, 9, device=cuda())[None]
    with install_ring_buffer_hooks(module, ring, "tiny"):
        assert ring.stream is not None
        assert ring.stream.plan.landings
        right = module(ids).logits
        assert bool(right.isfinite().all())
        torch.cuda.synchronize()
        kept = ring.stream._host[ring.stream.plan.loads[2].segment]
        kept[kept.numel() // 2] ^= 8
        found = []

        def run() -> None:
            for _ in range(3):  # the copy for the first one may have been made before
                found.append(module(ids).logits)
                torch.cuda.synchronize()

        with pytest.raises(CopyError, match="did not decode to what it was"):
            run()
        # the host may hear of the wrong bytes before anything is computed from them
        assert all(torch.equal(logits, right) or bool(logits.isnan().all()) for logits in found)
