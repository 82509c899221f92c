"""What the logits check writes of its run, and what is read of it.

JSON has no NaN and no infinity: an outcome that was read back has them as the texts "NaN" and "Infinity", which
`float` reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict, cast


class PromptRow(TypedDict):
    """A prompt that was run."""

    index: int
    tokens: int
    text: str
    """How it begins."""


class KlDivergence(TypedDict):
    """KL(reference || system) of the positions, in nats."""

    mean: float
    max: float
    p50: float
    p90: float
    p99: float
    p999: float


class DeltaP(TypedDict):
    """Change of the probability of the token that follows, in percentage points."""

    mean: float
    rms: float
    min: float
    max: float
    p1: float
    p5: float
    p50: float
    p95: float
    p99: float


class Ulps(TypedDict):
    """Distance of two logits in units in the last place."""

    max: int
    p99: int


class Margins(TypedDict):
    """The reference's distance from rank k to the next, in logits."""

    min: float
    p1: float
    p50: float
    edges: list[float]
    """Of the bins, one more than there are counts."""
    counts: list[int]


class DifferenceCounts(TypedDict):
    """How many logits differ by how much, system minus reference; together they are all logits."""

    zero: int
    log10_edges: list[float]
    """Of the bins of the size, one more than there are counts on either side."""
    negative: list[int]
    positive: list[int]
    nan: int


class KlByPosition(TypedDict):
    """KL divergence by position, over the prompts that are as long; series of one length."""

    position: list[int]
    mean: list[float]
    max: list[float]


class Perplexities(TypedDict):
    """Of both sides over the tokens that follow, their ratio and its standard error."""

    perplexity_reference: float
    perplexity_system: float
    perplexity_ratio: float
    perplexity_ratio_error: float


class LogitsStatistics(Perplexities):
    """How far the logits of a pass are from the reference's, in one phase."""

    positions: int
    elements: int
    unequal_elements: int
    nonfinite: int
    l2_position_max: float
    l2_whole_max: float
    neither_l2_nor_top_k: int
    top_k_identical_share: float
    same_top_token_share: float
    kl: KlDivergence
    delta_p: DeltaP
    ulp: Ulps
    margin: Margins
    difference_histogram: DifferenceCounts
    kl_by_position: KlByPosition


PassRow = TypedDict(
    "PassRow",
    {
        "pass": int,  # from 1
        "unequal_elements": int,
        "l2_position_max": float,
        "forwards": int,
        "claimed_bytes": int | None,
        "predicted_bytes": int | None,
    },
)
"""A pass over all prompts; bytes are those of all its forwards together."""


class Witness(TypedDict):
    """What the weight witness saw in the watched forward in which least moved. Older outcomes lack some of it."""

    weights: int
    used_bytes: int
    distinct_bytes: int
    host_bytes: NotRequired[int]
    """Of the weights used, those that were read where they lie in host memory."""
    moved_bytes_lower_bound: int
    budget_bytes: int
    different: list[str]
    """Names of the weights whose bytes were not the reference's, in any watched forward."""
    bytes_of: NotRequired[dict[str, str]]
    """Of those, whose bytes they had."""
    prefills: NotRequired[int]
    """Watched; so are decode_steps."""
    decode_steps: NotRequired[int]
    quiet: NotRequired[int]
    """Of both, those without a sign that they were watched."""
    forwards: NotRequired[int]
    """Of all passes, watched or not."""


FirstDifferenceFacts = TypedDict(
    "FirstDifferenceFacts",
    {
        "pass": int,  # from 1
        "prompt": int,
        "phase": str,
        "position": int,
        "layer": str | None,  # None: it did not come back when it was looked for
    },
)
"""The first logits that differ."""


class LocalisationFacts(TypedDict):
    """Where a difference begins, as a run that looked for it found."""

    first: FirstDifferenceFacts | None
    layers: list[str]
    relative_l2: list[list[float]]
    """One row for each prompt, one column for each layer."""
    weights: list[str]
    """Names of the weights that differed at the point of use."""
    reproduced: bool


class LogitsMeasurements(TypedDict, total=False):
    """All of it. An outcome that stopped early has none of it."""

    prompts: list[PromptRow]
    statistics: dict[str, LogitsStatistics]
    """By phase: of the pass with the most differences."""
    floor: dict[str, LogitsStatistics]
    """By phase: of the reference against itself."""
    passes: list[PassRow]
    witness: Witness | None
    localisation: LocalisationFacts | None


class LogitsTimings(TypedDict, total=False):
    """What the clock has to do with, beside what every check is timed by."""

    reference_s: float
    system_s: float
    passes_s: list[float]
    watch_seed: int
    """Of the draw of the watched forwards."""
    watched: list[str]
    """The forwards that were drawn, in the order they ran."""


def read(measurements: Mapping[str, Any]) -> LogitsMeasurements:
    """Return the measurements of a logits outcome under their names."""
    return cast(LogitsMeasurements, measurements)
