"""How far a system's logits are from the reference's, prompt by prompt, in float64 and bounded memory.

Logits are compared on the device they lie on, some positions at a time; what is kept are counts, histograms
and a few scalars per position. Positions whose logits are equal bit for bit have every distance exactly 0 and
are not computed. The formulas of KL divergence, delta-p and perplexity are those of llama.cpp's
`tools/perplexity` (`--kl-divergence`); percentiles are nearest-rank, so they are values that occurred.

NaN is never dropped: a distance that is NaN counts as infinite, a probability that is NaN as zero.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from djinn_checks.checks.logits.distances import DifferenceHistogram, UlpHistogram, bit_view, ordered_integers
from djinn_checks.errors import SystemContractError
from djinn_checks.measurements.logits import DeltaP, KlByPosition, KlDivergence, LogitsStatistics, Margins, Perplexities

_CHUNK_ELEMENTS = 1 << 22  # float64 temporaries of 32 MiB each
_MARGIN_EDGES = (0.0, *(float(10.0 ** (quarter / 4)) for quarter in range(-16, 9)))  # logits; 0, then 1e-4 to 1e2

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ReferencePositions:
    """What a comparison needs of the reference beside its logits, a few scalars per position; made once."""

    next_tokens: Tensor
    """[T] int64: the token that follows each position."""
    log_probability: Tensor
    """[T] float64: the reference's log-probability of that token."""
    top: Tensor
    """[T, k] int64: ids of the k largest logits in falling order, the lower id first among equals."""
    margin: Tensor
    """[T] float64, logits: the k-th largest minus the one after it (0 if the vocabulary ends there)."""
    nonfinite: Tensor
    """[T] int64: logits that are infinite or NaN."""

    def slice(self, start: int, stop: int) -> ReferencePositions:
        """Return the positions from `start` up to `stop`."""
        return ReferencePositions(*(getattr(self, field.name)[start:stop] for field in fields(self)))


@dataclass(frozen=True)
class Comparison:
    """One prompt's logits, reference against system."""

    unequal_elements: int
    first_position: int | None
    """The first position with an unequal element, from 0; None if all are equal."""


def describe_reference(logits: Tensor, next_tokens: Tensor, top_k: int) -> ReferencePositions:
    """Read the reference's side of the statistics from logits [T, V] and the tokens that follow [T]."""
    vocabulary = logits.shape[-1]
    k = min(top_k, vocabulary)
    parts: list[tuple[Tensor, ...]] = []
    for start, stop in _chunks(logits):
        chunk, tokens = logits[start:stop], next_tokens[start:stop].to(logits.device)
        top = _top_ids(chunk, min(k + 1, vocabulary))
        values = chunk.double()
        ranked = values.gather(1, top)
        margin = ranked[:, k - 1] - ranked[:, -1]
        parts.append((_token_log_probability(values, tokens), top[:, :k], margin, (~chunk.isfinite()).sum(1)))
    return ReferencePositions(next_tokens.cpu(), *(torch.cat(column).cpu() for column in zip(*parts, strict=True)))


class LogitStatistics:
    """Gathers the statistics of one pass over the prompts, for one phase (prefill or decode)."""

    def __init__(self, *, l2_threshold: float) -> None:
        """Start empty.

        Args:
            l2_threshold: L2 norm (logits) below which a position counts as equal.
        """
        self._l2_threshold = l2_threshold
        self._elements = 0
        self._unequal = 0
        self._l2_whole_max = 0.0
        self._ulps = UlpHistogram()
        self._differences = DifferenceHistogram()
        self._rows: list[dict[str, Tensor]] = []  # one for each prompt, [T] each

    def add(self, reference: Tensor, system: Tensor, positions: ReferencePositions) -> Comparison:
        """Compare one prompt.

        Args:
            reference: [T, V] logits, float32, float16 or bfloat16, on any device.
            system: [T, V] logits of the same dtype; the arithmetic runs on their device.
            positions: `describe_reference` of the same reference logits.

        Raises:
            SystemContractError: the two have different shapes or dtypes.
            ValueError: a dtype that is not supported.
        """
        if reference.shape != system.shape or reference.dtype != system.dtype:
            raise SystemContractError(
                f"logits of the system: expected {list(reference.shape)} {reference.dtype} as the reference's, "
                f"got {list(system.shape)} {system.dtype}; {_remedy(reference, system)}"
            )
        chunks = [
            self._add_chunk(reference[start:stop].to(system.device), system[start:stop], positions.slice(start, stop))
            for start, stop in _chunks(system)
        ]
        rows = {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
        unequal = rows.pop("unequal")
        self._rows.append(rows)
        self._elements += system.numel()
        self._unequal += int(unequal.sum())
        self._l2_whole_max = max(self._l2_whole_max, float(rows["l2"].square().sum().sqrt()))
        changed = unequal.nonzero()
        return Comparison(int(unequal.sum()), int(changed[0]) if len(changed) else None)

    def _add_chunk(self, reference: Tensor, system: Tensor, positions: ReferencePositions) -> dict[str, Tensor]:
        count = len(system)
        rows = {
            "unequal": torch.zeros(count, dtype=torch.int64),
            "l2": torch.zeros(count, dtype=torch.float64),
            "kl": torch.zeros(count, dtype=torch.float64),
            "top_k_identical": torch.ones(count, dtype=torch.bool),
            "same_top": torch.ones(count, dtype=torch.bool),
            "log_p_reference": positions.log_probability,
            "log_p_system": positions.log_probability,
            "margin": positions.margin,
            "nonfinite": positions.nonfinite,
        }
        if not torch.equal(bit_view(reference), bit_view(system)):
            unequal = bit_view(reference) != bit_view(system)
            changed = unequal.any(1).nonzero().flatten()
            found = self._compare(reference[changed], system[changed], unequal[changed], positions, changed.cpu())
            for name, values in found.items():
                rows[name] = rows[name].index_copy(0, changed.cpu(), values.cpu())
        equal_count = system.numel() - int(rows["unequal"].sum())
        self._differences.add_zeros(equal_count)
        self._ulps.add_equal(equal_count)
        return rows

    def _compare(
        self, reference: Tensor, system: Tensor, unequal: Tensor, positions: ReferencePositions, changed: Tensor
    ) -> dict[str, Tensor]:
        """Return the scalars of positions that differ somewhere, and count their elements."""
        self._ulps.add(reference[unequal], system[unequal])
        p, q = reference.double(), system.double()
        difference = torch.where(unequal, q - p, 0.0)
        self._differences.add(difference[unequal])
        top = _top_ids(system, positions.top.shape[1]).cpu()
        expected = positions.top[changed]
        return {
            "unequal": unequal.sum(1),
            "nonfinite": (~system.isfinite()).sum(1),
            "l2": _nan_to_infinity(torch.linalg.vector_norm(_nan_to_infinity(difference), dim=1)),
            "kl": _kl_divergence(p, q),
            "top_k_identical": (top == expected).all(1),
            "same_top": top[:, 0] == expected[:, 0],
            "log_p_system": _token_log_probability(q, positions.next_tokens[changed].to(q.device)),
        }

    def summary(self) -> LogitsStatistics:
        """Return the statistics over all prompts added so far, as plain data.

        Raises:
            ValueError: nothing was added.
        """
        if not self._rows:
            raise ValueError("logit statistics: no prompt was added, so there is nothing to summarize")
        rows = {name: torch.cat([prompt[name] for prompt in self._rows]).numpy() for name in self._rows[0]}
        near = rows["l2"] < self._l2_threshold
        delta_p = 100 * (np.exp(rows["log_p_system"]) - np.exp(rows["log_p_reference"]))
        return {
            "positions": len(rows["l2"]),
            "elements": self._elements,
            "unequal_elements": self._unequal,
            "nonfinite": int(rows["nonfinite"].sum()),
            "l2_position_max": float(rows["l2"].max()),
            "l2_whole_max": self._l2_whole_max,
            "neither_l2_nor_top_k": int((~near & ~rows["top_k_identical"]).sum()),
            "top_k_identical_share": float(rows["top_k_identical"].mean()),
            "same_top_token_share": float(rows["same_top"].mean()),
            "kl": _kl_spread(rows["kl"]),
            "delta_p": _delta_p_spread(delta_p),
            **_perplexities(rows["log_p_reference"], rows["log_p_system"]),
            "ulp": {"max": self._ulps.max, "p99": self._ulps.percentile(99)},
            "margin": _margins(rows["margin"]),
            "difference_histogram": self._differences.to_dict(),
            "kl_by_position": self._kl_by_position(),
        }

    def _kl_by_position(self) -> KlByPosition:
        prompts = [prompt["kl"].numpy() for prompt in self._rows]
        longest = max(map(len, prompts))
        columns = [[kl[place] for kl in prompts if place < len(kl)] for place in range(longest)]
        return {
            "position": list(range(longest)),
            "mean": [float(np.mean(column)) for column in columns],
            "max": [float(max(column)) for column in columns],
        }


def percentiles(values: Floats, *percents: float) -> list[float]:
    """Return the nearest-rank percentiles of 1-d values: the smallest value that `percent` % do not exceed."""
    return [float(np.percentile(values, percent, method="inverted_cdf")) for percent in percents]


def _kl_spread(kl: Floats) -> KlDivergence:
    p50, p90, p99, p999 = percentiles(kl, 50, 90, 99, 99.9)
    return {"mean": float(kl.mean()), "max": float(kl.max()), "p50": p50, "p90": p90, "p99": p99, "p999": p999}


def _delta_p_spread(delta_p: Floats) -> DeltaP:
    p1, p5, p50, p95, p99 = percentiles(delta_p, 1, 5, 50, 95, 99)
    return {
        "mean": float(delta_p.mean()),
        "rms": float(np.sqrt(np.square(delta_p).mean())),
        "min": float(delta_p.min()),
        "max": float(delta_p.max()),
        "p1": p1,
        "p5": p5,
        "p50": p50,
        "p95": p95,
        "p99": p99,
    }


def _chunks(logits: Tensor) -> list[tuple[int, int]]:
    step = max(1, _CHUNK_ELEMENTS // logits.shape[-1])
    return [(start, min(start + step, len(logits))) for start in range(0, len(logits), step)]


def _top_ids(logits: Tensor, k: int) -> Tensor:
    """Return [T, k] ids by falling logit, and by rising id among equals: a total order, so no tie is left to chance."""
    ids = torch.arange(logits.shape[-1], device=logits.device)
    return (ordered_integers(logits) * 2**31 - ids).topk(k, dim=1).indices


def _token_log_probability(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return [T] float64 log-probabilities of one token per position; NaN becomes minus infinity."""
    chosen = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(1)
    return chosen.nan_to_num(nan=-torch.inf, neginf=-torch.inf)


def _kl_divergence(reference: Tensor, system: Tensor) -> Tensor:
    """Return [T] float64 KL(reference || system) in nats; rounding below zero is cut off."""
    log_p, log_q = reference.log_softmax(1), system.log_softmax(1)
    p = log_p.exp()
    terms = torch.where(p == 0, 0.0, p * (log_p - log_q))
    return _nan_to_infinity(terms.sum(1)).clamp(min=0)


def _nan_to_infinity(values: Tensor) -> Tensor:
    return values.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)


def _perplexities(reference: Floats, system: Floats) -> Perplexities:
    """Return exp of the mean negative log-probabilities, their ratio and its standard error."""
    with np.errstate(over="ignore", invalid="ignore"):
        change = np.where(reference == system, 0.0, reference - system)  # equal infinities have not changed
        ratio = float(np.exp(change.mean()))
        error = float(change.std(ddof=1) / np.sqrt(len(change))) if len(change) > 1 else 0.0
        return {
            "perplexity_reference": float(np.exp(-reference.mean())),
            "perplexity_system": float(np.exp(-system.mean())),
            "perplexity_ratio": ratio,
            "perplexity_ratio_error": ratio * error,
        }


def _margins(margins: Floats) -> Margins:
    """Return the spread of the reference's margin at rank k; margins beyond the last edge count in the last bin."""
    finite = np.where(np.isnan(margins), np.inf, margins)
    p1, p50 = percentiles(finite, 1, 50)
    counts, _ = np.histogram(np.minimum(finite, _MARGIN_EDGES[-1]), bins=_MARGIN_EDGES)
    return {
        "min": float(finite.min()),
        "p1": p1,
        "p50": p50,
        "edges": list(_MARGIN_EDGES),
        "counts": counts.tolist(),
    }


def _remedy(reference: Tensor, system: Tensor) -> str:
    if reference.shape[0] != system.shape[0]:
        return "give logits of each token of the prompt, or of the last ones alone"
    if reference.shape[-1] != system.shape[-1]:
        return "cut off what was added to the vocabulary"
    return "answer in the model's data type"
