"""Two kinds of tokenizers: byte pairs of every byte, and byte pairs in the manner of Llama 2.

The model of the first is opened when a test uses it: each process that runs tests imports all of them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from djinn_checks.models.open import Model, open_model
from tests.server.fake_engine import CPU


@cache
def smollm2() -> Model:
    return open_model("smollm2", dtype=torch.float32, device=CPU)


def bytes_or_pairs(**parts: Any) -> PreTrainedTokenizerFast:
    """A tokenizer in the manner of Llama 2: byte pairs over a whole text, bytes for what has no token."""
    names = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "h", "e", "l", "o", "▁h", "el", "▁hel"]
    merges = [("▁", "h"), ("e", "l"), ("▁h", "el")]
    model = models.BPE(
        {name: number for number, name in enumerate(names)}, merges, unk_token="<unk>", fuse_unk=True,
        byte_fallback=parts.get("byte_fallback", True),
    )  # fmt: skip
    made = Tokenizer(model)
    made.normalizer = parts.get(
        "normalizer", normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    )
    if "pre_tokenizer" in parts:
        made.pre_tokenizer = parts["pre_tokenizer"]
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made)


LLAMA_LIKE = bytes_or_pairs()
