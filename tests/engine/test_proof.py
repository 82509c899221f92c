"""Wrong bytes in a decoded place are told, and nothing computed from them can pass for a result."""

from __future__ import annotations

import pytest
import torch

from djinn_checks.engine.proof import CudaProof, HostProof, words_between_nans
from djinn_checks.engine.segments import cut_model
from djinn_checks.errors import CodecError
from tests.architectures import CONFIGS
from tests.engine.modules import build, logits, prompt


def test_the_proof_for_a_gpu_puts_nans_all_over_a_wrong_place_and_tells_which() -> None:
    places = [torch.randn(4 * 256).to(torch.bfloat16).view(torch.uint8) for _ in range(3)]
    sums = [int(place.view(torch.int64).sum()) for place in places]
    proof, before = CudaProof(places, sums, [128] * 3), [place.clone() for place in places]
    for slot in range(3):
        proof.prove(slot)
    assert proof.known_wrong() is None
    assert all(map(torch.equal, places, before))
    places[1][77] ^= 1
    proof.prove(1)
    proof.prove(2)
    assert proof.known_wrong() == 1, "told with the last load of the cycle"
    assert places[1].view(torch.bfloat16).view(4, 256).isnan().any(dim=1).all()
    for dtype in (torch.float16, torch.float32):
        assert places[1][: 2 * dtype.itemsize].view(dtype).isnan().any()
    with pytest.raises(CodecError, match="expected"):
        HostProof(places, sums).prove(1)


def test_the_proof_for_a_gpu_tells_of_wrong_bytes_though_no_forward_comes_to_its_last_load() -> None:
    places = [torch.randn(256).to(torch.bfloat16).view(torch.uint8) for _ in range(3)]
    proof = CudaProof(places, [int(place.view(torch.int64).sum()) for place in places], [128] * 3)
    places[1][77] ^= 1
    for slot in (0, 1):
        proof.prove(slot)
    assert proof.known_wrong() is None
    proof.prove(0)
    assert proof.known_wrong() == 1


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_nans_in_any_one_block_or_head_leave_no_logit_a_number(name: str) -> None:
    """As many as the proof for a GPU writes into a wrong place."""
    model = build(name, torch.float32)
    cut = cut_model(model)
    weights = dict(model.named_parameters(remove_duplicate=False))
    for segment in cut.segments:
        tokens = prompt(9)
        held = {tensor.names[0]: weights[tensor.names[0]].detach().clone() for tensor in segment.tensors}
        place = torch.zeros(segment.nbytes, dtype=torch.uint8)
        segment.read(place, weights)
        place.view(torch.int32)[:: words_between_nans(segment)] = -1
        with torch.no_grad():
            for tensor in segment.tensors:
                weights[tensor.names[0]].copy_(tensor.view(place))
            found = logits(model, tokens)
            for key, value in held.items():
                weights[key].copy_(value)
        assert found.isnan().all(), segment.name
