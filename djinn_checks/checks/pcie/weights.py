"""The weights of a system that encodes them: the fewest bytes they can travel in, and whether a pass used them.

Such a system may move fewer bytes than its weights have, so the bytes on the link no longer say that the model came.
Two things are taken from the weights themselves, before the system opens: their entropy, and a digest of each. The
digests are then looked for among the weights that a pass was seen to use. What was not found there is not proved: a
layer that was left out, one that came out wrong, or one that a kernel of the system's own used unseen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from djinn_checks.checks.pcie.decode_run import SeenWeights
from djinn_checks.digest import digest
from djinn_checks.instruments.entropy import TensorEntropy, add_up, measure_entropy
from djinn_checks.instruments.entropy_floor import EntropyFloor
from djinn_checks.instruments.weight_witness import WeightEvidence
from djinn_checks.models.open import Model


@dataclass(frozen=True, kw_only=True)
class KnownWeights:
    """What the weights are, by themselves."""

    floor: EntropyFloor
    contents: Mapping[str, tuple[int, int]]
    """Name to (digest, bytes)."""
    shapes: Mapping[str, tuple[int, ...]]

    def as_used(self) -> WeightEvidence:
        """Return what a witness would show of a pass that used each weight once, and had all in memory at one time."""
        nbytes = sum(dict(self.contents.values()).values())
        return WeightEvidence(
            weights=tuple(sorted(self.contents)),
            used_bytes=nbytes,
            exact_bytes=nbytes,
            distinct_bytes=nbytes,
            distinct_bytes_at_least=nbytes,
            different=(),
            unknown=(),
            unseen=(),
            every_use_bytes=nbytes,
            contents=self.contents,
            shapes=self.shapes,
        )


def survey_weights(model: Model, device: torch.device) -> KnownWeights:
    """Read every weight once, one at a time on `device`, for its entropy and its digest."""
    contents: dict[str, tuple[int, int]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    entropies: dict[int, TensorEntropy] = {}
    for name in model.weights:
        value = model.weights[name].to(device)
        found = int(digest(value))
        contents[name], shapes[name] = (found, value.numel() * value.element_size()), tuple(value.shape)
        if found not in entropies:
            entropies[found] = measure_entropy(name, value)
    return KnownWeights(floor=add_up(entropies.values()), contents=contents, shapes=shapes)


def compare_weights(known: KnownWeights, witnessed: WeightEvidence | None) -> SeenWeights | None:
    """Return which of the known weights a pass was seen to use; None if no weight was seen in use at all."""
    if witnessed is None:
        return None
    used = {value for value, _ in witnessed.contents.values()}
    sizes = dict(known.contents.values())
    return SeenWeights(
        known_bytes=sum(sizes.values()),
        exact_bytes=sum(size for value, size in sizes.items() if value in used),
        written_bytes=witnessed.moved_bytes_lower_bound,
        missing=tuple(sorted(name for name, (value, _) in known.contents.items() if value not in used)),
    )
