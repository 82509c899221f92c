"""What a module has room for: token ids in its table, and positions where it keeps something for each of them.

An id or a position beyond them is an IndexError on a CPU, and on a GPU an assertion that takes the process with it.
"""

from __future__ import annotations

from typing import Any

from torch import nn

_MOST_OFFSET = 8
"""Rows that a table of positions may have more than the configuration says: OPT and BART leave two before the first."""


def count_tokens(module: Any) -> int:
    """Return how many token ids a causal language model can be given and can answer with.

    Some have rows for ids that they never answer with: those that stand for an image.
    """
    table, head = module.get_input_embeddings(), module.get_output_embeddings()
    counts = [table.num_embeddings] if isinstance(table, nn.Embedding) else []
    counts += [head.out_features] if isinstance(head, nn.Linear) else []
    return min(counts) if counts else int(module.config.get_text_config().vocab_size)


def count_positions(module: Any) -> int | None:
    """Return how many tokens a sequence may have; None if the module keeps nothing by position.

    Rotary and relative positions have no end. Learned ones are a table, and computed ones or masks a buffer, with as
    many rows as the configuration says.
    """
    config = module.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return None
    tokens = module.get_input_embeddings()
    tables = [inner for inner in module.modules() if isinstance(inner, nn.Embedding) and inner is not tokens]
    for table in tables:
        named = positions <= table.num_embeddings <= positions + _MOST_OFFSET
        if named and table.num_embeddings != getattr(tokens, "num_embeddings", None):
            # RoBERTa counts its positions from behind the padding's.
            before = 0 if table.padding_idx is None else table.padding_idx + 1
            return min(positions, table.num_embeddings - before)
    rows = {size for buffer in module.buffers() for size in buffer.shape}
    return positions if rows & set(range(positions, positions + _MOST_OFFSET + 1)) else None
