"""What the PCIe check writes of its run, and what is read of it. Instants are seconds after the start of the judged
time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict, cast


class CeilingRow(TypedDict):
    """Timed copies of one size, one way: what the link can carry."""

    kind: str
    """"pcie" or "host memory"."""
    direction: str
    """"h2d", "d2h" or "both"."""
    pinned: bool
    nbytes: int
    bytes_per_s: float
    spread: float
    verified: bool
    """Whether the bytes arrived."""
    samples_s: list[float]


class CalibrationFacts(TypedDict):
    """How many bytes the counters see on the wire for each byte of payload. Older outcomes lack some of it."""

    wire_per_payload: float
    idle_bytes_per_s: float
    residual: float | None
    payload_bytes: int
    law_error: NotRequired[float | None]
    """How far known copies were off by requests and answers alone; None if that was not tried."""
    ruler_rx_bytes: NotRequired[float | None]
    """What one reading of the counters moves itself; `ruler_tx_bytes` the other way. None if it is not known."""
    ruler_tx_bytes: NotRequired[float | None]
    sent_of_received: NotRequired[float | None]
    """TX / RX of the known copies."""


class LinkFacts(TypedDict):
    """What was measured of the link before and after the run."""

    subject: str
    """"pcie", "host memory" or "replay"."""
    label: str
    """The same in words, for a banner."""
    counters: str | None
    """The source of the counters, as a replay must know it: rates wrap nowhere. None without counters."""
    ceiling_bytes_per_s: float
    calibration: CalibrationFacts | None
    ceilings: list[CeilingRow]
    ceiling_after: CeilingRow | None
    sweep: list[CeilingRow]


class PreflightFacts(TypedDict):
    """One thing that the check needs of the machine."""

    name: str
    found: str
    wanted: str
    ok: bool | None
    """None is unknown."""
    remedy: str


class Windows(TypedDict):
    """What went over the link, window by window; None is lost evidence."""

    window_s: float
    rx_mb_per_s: list[float | None]
    tx_mb_per_s: list[float | None]
    holes_s: list[list[float]]
    """[start, end] of each gap between readings."""
    duration_s: float
    clock_start_s: float
    """The start by the clock of the readings: a replay finds the run in the raw samples by it."""


class CopyRow(TypedDict, total=False):
    """A layer's copy and computation, by the system's own account, which may lack some of it.

    If weights travel encoded, `bytes` travelled, and the decode lies between the two.
    """

    layer: str
    bytes: int
    weight_bytes: int
    decode_start_s: float
    decode_end_s: float
    copy_start_s: float
    copy_end_s: float
    compute_start_s: float
    compute_end_s: float


class Zoom(TypedDict):
    """The last passes in short windows."""

    start_s: float
    end_s: float
    window_s: float
    rx_mb_per_s: list[float | None] | None
    """None without counters."""
    timeline: list[CopyRow]
    """Empty if the system keeps no account of its copies."""
    pass_ends_s: list[float]


class Traffic(TypedDict):
    """Bytes of the whole run."""

    passes: int | None
    """None in a replay."""
    predicted: int | None
    claimed: int | None
    counted: float | None
    """As payload."""
    wire: float | None
    witnessed_a_pass: int | None


class ReaderFacts(TypedDict):
    """Who read host memory, and what of it was used."""

    says: str
    request_bytes: float | None
    """Mean data a request; None if nothing was read, or more was sent than requests."""
    sent_of_received: float | None
    """TX / RX, less the readings' own weight."""
    by_law: bool
    """Payload is RX - 20/24 TX; False: wire bytes over the ratio of known copies, for the reason in `why_not`."""
    why_not: str
    least_bytes: float | None
    """Of the payload, had data gone to the host meanwhile; `most_bytes` had none."""
    most_bytes: float | None
    used_bytes: float | None
    """In the whole run, of what was read: all weights once a pass at most."""
    wasted_bytes: float | None
    """Read beyond that."""


class Figures(TypedDict):
    """The four figures of a stream, each a share; None is unknown."""

    wire_of_ceiling: float | None
    """Wire bytes received over what large copies put there."""
    claimed_of_counted: float | None
    weights_of_ceiling: float | None
    """Weight bytes a second over the ceiling; above 1 only where a pass was seen to use decoded weights."""
    counted_of_least: float | None
    """Bytes a pass over the fewest that have to come; None also where none have to."""


class FloorFacts(TypedDict):
    """The fewest bytes that the weights can be put in, by their order-0 entropy."""

    weight_bytes: int
    least_bytes: float
    error_bytes: float
    share_of_field: dict[str, float]


class HealthSecond(TypedDict):
    """The link at one second."""

    t_s: float
    generation: int | None
    width: int | None
    slowed_by: list[str]


class HealthFacts(TypedDict):
    """The health of the link during the run."""

    seconds: list[HealthSecond]
    differences: dict[str, int | None]
    """How far each counter came; None is not supported, or was set back."""
    most_replays: int | None


class Passes(TypedDict):
    """How long the passes took."""

    count: int
    mean_s: float
    median_s: float
    min_s: float
    p99_s: float
    open_s: float
    """To open the system."""


class Memory(TypedDict):
    """What the system took, in bytes; None is unknown."""

    peak_device_bytes: int | None
    """Most device memory that was reserved or taken, by anybody; None on a CPU."""
    host_growth_bytes: int | None
    """Growth of the process's resident memory."""


class Limit(TypedDict):
    """The least time of a pass, (M - C) / B, and how close the system came."""

    needed_bytes: float | None
    seconds: float | None
    ratio: float | None
    streamed_of_ceiling: float | None


class TogetherFacts(TypedDict):
    """Of several GPUs at once."""

    start_s: float
    """When the first began, by the clock of the readings."""
    overlap: float
    sum_bytes_per_s: float | None
    lost: dict[str, str]
    """Why the process of a GPU did not come to its end, by UUID."""
    left_out: dict[str, str]


class GpuRow(TypedDict):
    """One GPU of several, by itself."""

    uuid: str
    status: str
    summary: str
    statuses: dict[str, str]
    """Of its required rows that were judged, by name."""
    observed: dict[str, float | int | str | None]
    bytes_per_s: float | None
    """Payload received while all decoded; by the system's plan where nothing counts."""
    alone_bytes_per_s: float | None
    share_of_alone: float | None
    ceiling_alone_bytes_per_s: float
    ceiling_together_bytes_per_s: float
    measurements: dict[str, Any]
    """Those of the check of one GPU."""


class PcieMeasurements(TypedDict, total=False):
    """All of it. An outcome that stopped early has none of it.

    On several GPUs `together` and `gpus` have all but the link's subject, which is that of the first.
    """

    together: TogetherFacts
    gpus: list[GpuRow]

    link: LinkFacts
    preflight: list[PreflightFacts]
    windows: Windows | None
    zoom: Zoom | None
    bytes: Traffic
    reader: ReaderFacts | None
    figures: Figures
    floor: FloorFacts | None
    health: HealthFacts | None
    passes: Passes | None
    """None in a replay."""
    memory: Memory | None
    """None in a replay."""
    limit: Limit


def read(measurements: Mapping[str, Any]) -> PcieMeasurements:
    """Return the measurements of a PCIe outcome under their names."""
    return cast(PcieMeasurements, measurements)
