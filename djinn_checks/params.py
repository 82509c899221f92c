"""Parameters of the checks: one frozen model per check, validated where they enter.

An unknown name, a wrong type or an impossible value is refused before any model loads, in a sentence
that names the field, what came, what is allowed and, for a name, the nearest known one. Types are
strict: papermill hands over YAML, and YAML 1.1 reads ``1e-3`` as text and ``12:30`` as 750.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from djinn_checks.devices import DEVICE_NAMES, DtypeName, is_device_name
from djinn_checks.errors import ParamsError
from djinn_checks.nearest import suggest
from djinn_checks.outcome import Outcome
from djinn_checks.units import GB

_PAPERMILL_NAMES = {"PAPERMILL_INPUT_PATH", "PAPERMILL_OUTPUT_PATH", "PAPERMILL_CWD"}
_SAVE_TO = "save_to"
"""Where a notebook saves its outcome: a route that the notebook itself takes, and no parameter of the check."""
_NO_PARAMETER = "no parameter; a suite keeps its own files (--out), a notebook takes it by itself"


class Params(BaseModel):
    """What every check's parameters share: frozen, strict, no unknown names."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, defer_build=True
    )
    check: ClassVar[str]

    if not TYPE_CHECKING:  # who checks types sees the fields

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise ParamsError(_explain(type(self), values, error)) from None

    @classmethod
    def create(cls, **values: Any) -> Self:
        """Validate and return the parameters; a `ParamsError` lists every unknown name and impossible value."""
        return cls(**values)

    @classmethod
    def from_notebook(cls, namespace: Mapping[str, Any]) -> Self:
        """Take the parameters from a notebook's globals.

        papermill injects a cell that starts with "# Parameters" and only warns about names that are unknown. The cells
        that ran are in IPython's ``In``: names are read from there and refused as anywhere. `save_to` is its own.

        Raises:
            ParamsError: as `create`; or `save_to` is no text, and the outcome could not be saved in the end.
        """
        if not isinstance(namespace.get(_SAVE_TO, ""), str):
            raise ParamsError(f"{_SAVE_TO}: expected the name of a file, got {namespace[_SAVE_TO]!r}")
        known = {name: namespace[name] for name in cls.model_fields if name in namespace}
        if isinstance(known.get("outcome"), Outcome):
            del known["outcome"]  # a cell that is run again finds its own result under that name
        injected = _injected_names(namespace.get("In", ())) - _PAPERMILL_NAMES - {_SAVE_TO}
        unknown = {name: namespace.get(name) for name in sorted(injected - set(cls.model_fields))}
        return cls.create(**known, **unknown)


def _injected_names(cells: Any) -> set[str]:
    """Return the names assigned in the cells that papermill injected."""
    names: set[str] = set()
    for source in cells:
        if not str(source).startswith("# Parameters"):
            continue
        for statement in ast.parse(source).body:
            if isinstance(statement, ast.Assign):
                names.update(target.id for target in statement.targets if isinstance(target, ast.Name))
    return names


def _explain(cls: type[Params], values: Mapping[str, Any], error: ValidationError) -> str:
    lines: list[str] = []
    messages: dict[str, list[str]] = {}  # a value that may be of one of several types is told each of them
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"] if isinstance(part, int) or part.isidentifier())
        field = str(problem["loc"][0]) if problem["loc"] else ""
        if problem["type"] == "extra_forbidden":
            said = f"unknown name (got {values.get(field)!r}); {suggest(field, cls.model_fields)}"
            lines.append(f"  {field}: {_NO_PARAMETER if field == _SAVE_TO else said}")
        elif not field:
            lines.append(f"  {problem['msg'].removeprefix('Value error, ')}")
        else:
            messages.setdefault(name, []).append(problem["msg"].removeprefix("Value error, "))
            told = f"  {name}: {', or: '.join(messages[name])}; got {problem['input']!r}{_yaml_hint(problem['input'])}"
            lines = [*(line for line in lines if not line.startswith(f"  {name}: ")), told]
    return "\n".join([f"{cls.check} params: {len(lines)} problem{'s' if len(lines) > 1 else ''}", *lines])


def _yaml_hint(value: Any) -> str:
    """YAML 1.1 needs a dot in a float: 1e-3 arrives as text."""
    try:
        return f" as text: write it with a dot and no quotes ({float(value)!r})" if isinstance(value, str) else ""
    except ValueError:
        return ""


def _check_device(name: str) -> str:
    if not is_device_name(name):
        raise ValueError(f"expected {DEVICE_NAMES}")
    return name


class CheckParams(Params):
    """What every check takes."""

    device: Annotated[str, AfterValidator(_check_device)] = "auto"
    """auto (the first GPU, else the CPU), cpu, cuda or cuda:<index>."""
    outcome: str = ""
    """A finished outcome to look at in place of measuring: its JSON, or an executed notebook."""


class ModelParams(CheckParams):
    """What every check that runs a model takes."""

    model: Annotated[str, Field(min_length=1)] = "smollm2"
    """smollm2, random:<shape> (llama-2-7b, llama-2-13b, llama-2-70b, tiny or a config.json), a hub id or a folder."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of random weights, and of whatever else the check draws at random."""


Dtype = Annotated[DtypeName, Field(description="Data type of weights and arithmetic: float32, bfloat16 or float16.")]


class StreamingParams(ModelParams):
    """What every check of a system that streams weights takes: the system, and the memory it may hold weights in."""

    system: Annotated[str, Field(min_length=1)] = "ring"
    """The system to check: ring, resident, accelerate, ramtorch, diffusers, djinn, or one registered by entry point."""
    dtype: Dtype = "float32"
    budget_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Device memory for weights, as a share of their bytes. Without a budget 0.25, of random:tiny 0.5."""
    budget_gb: Annotated[float, Field(gt=0)] | None = None
    """Device memory for weights in GB (10^9 bytes), in place of budget_fraction."""

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if self.budget_fraction is not None and self.budget_gb is not None:
            given = f"{self.budget_fraction!r} and {self.budget_gb!r}"
            raise ValueError(f"budget_fraction and budget_gb: give one of the two, got {given}")
        return self

    def budget_bytes(self, weight_bytes: int) -> int:
        """Return the budget in bytes for a model of `weight_bytes`."""
        if self.budget_gb is not None:
            return int(self.budget_gb * GB)
        return int((self.budget_fraction or self._default_share) * weight_bytes)

    @property
    def _default_share(self) -> float:
        """Two layers of the tiny model, which a ring holds at least, are more than a quarter of it."""
        return 0.5 if self.model == "random:tiny" else 0.25


class LogitsParams(StreamingParams):
    """Parameters of the logits check."""

    check: ClassVar[str] = "logits"

    prompts: Annotated[int, Field(ge=1, le=30)] | Annotated[list[str], Field(min_length=1)] = 30
    """How many of the 30 built-in prompts, spread over their lengths, or a list of prompts of your own."""
    max_prompt_tokens: Annotated[int, Field(ge=2)] = 512
    """Prompts are cut to this many tokens."""
    decode_tokens: Annotated[int, Field(ge=1)] = 8
    """Tokens decoded one by one through the KV cache after each prompt, forced to the reference's choices."""
    passes: Annotated[int, Field(ge=3)] = 3
    """How often every prompt goes through the system; the worst pass is reported."""
    l2_threshold: Annotated[float, Field(gt=0)] = 0.1
    """L2 norm of a logit difference that still counts as equal (the paper's 0.1), in logits."""
    top_k: Annotated[int, Field(ge=1, le=100)] = 5
    """How many of the most likely next tokens must agree where the L2 norm does not (the paper's 5), in tokens."""
    watched_forwards: Annotated[int, Field(ge=4)] = 4
    """Forwards of each pass whose weights are watched, drawn at random from prefills and decode steps."""
    watch_seed: Annotated[int, Field(ge=0)] | None = None
    """Seed of that draw; empty: the operating system's randomness, which no system can foresee."""
    require_bit_equality: bool = True
    """Streaming changes no arithmetic, so bit-equal logits are required; false: they are informative."""
    memory_tolerance: Annotated[float, Field(ge=0)] = 0.05
    """How far peak device memory may exceed the budget plus the working set, as a share."""


class PcieParams(StreamingParams):
    """Parameters of the PCIe check."""

    check: ClassVar[str] = "pcie"

    dtype: Dtype = "float16"
    resident_layers: Annotated[int, Field(ge=0)] | None = None
    """Keep exactly this many decoder layers on the device; empty: as many as the budget holds."""
    vram_limit_gb: Annotated[float, Field(gt=0)] | None = None
    """Let the process have no more device memory than this, in GB: a large GPU stands in for a small one."""
    duration_s: Annotated[float, Field(ge=1)] = 10.0
    """How long the decode loop runs, in seconds. The paper's criterion needs 10."""
    warmup_passes: Annotated[int, Field(ge=1)] = 5
    """Forwards before the measurement starts."""
    context_tokens: Annotated[int, Field(ge=2)] = 128
    """The KV cache is started anew when it holds this many tokens, so that the time per pass stays constant."""
    window_ms: Annotated[float, Field(ge=1, le=10_000)] = 20.0
    """Windows that the criteria are judged on, in milliseconds (20: what nvidia-smi integrates over)."""
    zoom_ms: Annotated[float, Field(ge=0.1, le=1000)] = 1.0
    """Windows of the zoomed plot, in milliseconds."""
    threshold_mb_per_s: Annotated[float, Field(gt=0)] = 20_000.0
    """Received payload that counts as saturated, in MB/s (the paper's 20,000)."""
    threshold_share: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Share of windows that must be above it (the paper's 0.8)."""
    ceiling_fraction: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Part of the link's measured ceiling that a window must reach."""
    ceiling_share: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Share of windows that must reach it."""
    byte_tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """How far claimed and counted bytes may lie apart, as a share."""
    sampler_hz: Annotated[float, Field(ge=50, le=4000)] = 1000.0
    """Readings of the PCIe counters per second."""
    counters: Annotated[str, Field(pattern="^(auto|field|gpm|throughput|.+:.+)$")] = "auto"
    """Source of the counters: auto, field, gpm or throughput."""
    sweep: bool = True
    """Also measure copies of 1 to 512 MiB, pinned and pageable."""
    gpus: Literal["", "all"] | Annotated[list[str], Field(min_length=1)] = ""
    """all, or the UUIDs of those that are driven together; empty: the one that `device` names."""
    stand_ins: Annotated[int, Field(ge=1, le=64)] = 2
    """Without a GPU: how many links within host memory stand in for those of GPUs."""
    trace: str = ""
    """A recorded trace (csv.gz) to judge in place of a run: with its truth.json, or samples with their outcome."""

    @model_validator(mode="after")
    def _limit_of_one(self) -> Self:
        if self.gpus and self.vram_limit_gb is not None:
            raise ValueError("vram_limit_gb: is for one GPU; leave it out, or gpus")
        return self


_SHORTEST_IDLE_S = 0.4


class AgentsParams(ModelParams):
    """Parameters of the agents check."""

    check: ClassVar[str] = "agents"

    server_address: Annotated[str, AfterValidator(lambda url: url.rstrip("/").removesuffix("/v1").rstrip("/"))] = ""
    """Address of a running server of that model, http://..., with /v1 or not; empty: djinn-checks' own is started."""
    adapter: Literal["signal", "idle", "slot", "vllm", "sglang", "none"] = "signal"
    """signal: sessions told to sleep; idle: not told; slot: llama-server; vllm, sglang: a pool; none: no sessions."""
    server_model: str = ""
    """Name that the server knows its model by; empty: the first that it lists."""
    server_pid: Annotated[int, Field(gt=0)] | None = None
    """Process whose memory is read, such as a server's behind a proxy; empty: who listens at the address."""
    pressure_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens of others' prompts that push a session out of a pool; 0: a tenth more than the server says it holds."""
    host_block_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens that a pool's host keeps together (LMCache: 256); empty: a block of the device's."""
    dtype: DtypeName | None = None
    """Data type of the KV cache and of the reference; empty: float16, on a CPU float32."""
    kv_device_gb: Annotated[float, Field(gt=0)] = 0.021
    """Most KV that the server may have on the device, GB."""
    host_swap_pool_gb: Annotated[float, Field(gt=0)] = 0.2
    """Most sleeping KV that it may have on the host, GB."""
    idle_s: Annotated[float, Field(gt=0)] = 1.0
    """Seconds without a request after which the server has a session leave the device."""
    prompt_tokens: Annotated[int, Field(ge=16)] = 384
    """Length of the sleeper's first prompt, in tokens."""
    new_tokens: Annotated[int, Field(ge=2)] = 12
    """Tokens that the sleeper generates in each turn."""
    sleep_s: Annotated[float, Field(ge=1)] = 3.0
    """How long the sleeper sleeps, in seconds. The paper's claim is about 30."""
    sleeps: Annotated[int, Field(ge=1)] = 2
    """How often it sleeps."""
    agents: Annotated[int, Field(ge=0)] = 8
    """How many agents hold sessions at once; 0: none, only the sleeper is run."""
    agent_prompt_tokens: Annotated[int, Field(ge=16)] = 160
    """Length of each agent's first prompt, in tokens."""
    agent_new_tokens: Annotated[int, Field(ge=2)] = 8
    """Tokens that each agent generates in each turn."""
    turns: Annotated[int, Field(ge=2)] = 2
    """Turns of each agent."""
    arrival_rate: Annotated[float, Field(gt=0)] = 0.7
    """Agents that arrive per second, at random (Poisson)."""
    think_s: Annotated[list[float], Field(min_length=2, max_length=2)] = [1.5, 3.0]
    """Shortest and longest pause between an agent's turns, in seconds (uniform)."""
    burst: Annotated[int, Field(ge=1)] = 1
    """Agents that arrive at the same moment."""
    shared_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the agents whose prompts begin alike, for half of their length, as under one system prompt."""
    disturbed_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of turns that a second client asks at once, half of them cancelled; for servers with a pool."""
    most_wrong_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of wrong restores to exclude with 95 %: the crowd comes until it is; empty: not judged."""
    soak_s: Annotated[float, Field(gt=0)] = 600.0
    """Longest time that the crowd may come again for that, in seconds."""
    load_limit: Annotated[float, Field(gt=0)] = 0.8
    """Wake latency is judged while the offered load over the measured capacity is below this."""
    wake_p99_s: Annotated[float, Field(gt=0)] | None = None
    """99th percentile of a request's time to its first token, in seconds; empty: reported, not judged."""
    restore_p99_ratio: Annotated[float, Field(gt=0)] | None = None
    """99th percentile of a restore over one without load; empty: reported, not judged."""
    memory_share: Annotated[float, Field(gt=0, le=1)] = 0.98
    """Share of a session's KV bytes that must leave the device's memory, and come back."""
    swap_of_ceiling: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Part of the link's measured ceiling that swap-out and restore must reach on a GPU."""

    @model_validator(mode="after")
    def _possible_address_and_pauses(self) -> Self:
        if self.server_address and not self.server_address.startswith(("http://", "https://")):
            raise ValueError(f"server_address: expected http://HOST:PORT, got {self.server_address!r}")
        if not 0 <= self.think_s[0] <= self.think_s[1]:
            raise ValueError(f"think_s: expected [shortest, longest] with 0 <= shortest <= longest, got {self.think_s}")
        return self

    @model_validator(mode="after")
    def _idle_within_sleep(self) -> Self:
        if not _SHORTEST_IDLE_S <= self.idle_s < self.sleep_s:
            raise ValueError(
                f"idle_s: expected at least {_SHORTEST_IDLE_S}, so that memory is read before the session leaves, and "
                f"less than sleep_s = {self.sleep_s}, so that it does leave; got {self.idle_s}"
            )
        return self

    @model_validator(mode="after")
    def _disturbed_pool(self) -> Self:
        if self.disturbed_share and self.adapter not in ("vllm", "sglang"):
            got = f"{self.disturbed_share} with adapter {self.adapter!r}, whose sessions have one client each"
            raise ValueError(f"disturbed_share: expected 0, got {got}")
        return self

    @property
    def system(self) -> str:
        """What is checked, for titles."""
        return self.server_address or "djinn-checks serve"


class HostParams(CheckParams):
    """Parameters of the host check."""

    check: ClassVar[str] = "host"

    gpus: Literal["", "all"] | Annotated[list[str], Field(min_length=1)] = "all"
    """all, or the UUIDs of those that are driven together; empty: the one that `device` names."""
    stand_ins: Annotated[int, Field(ge=1, le=64)] = 2
    """Without a GPU: how many links within host memory stand in for those of GPUs."""
    stage_s: Annotated[float, Field(ge=0.05, le=60)] = 1.0
    """How long each stage lasts, in seconds."""
    rounds: Annotated[int, Field(ge=2, le=20)] = 3
    """How often each stage is entered; the fastest counts, and the others show how well it repeats."""
    copy_mib: Annotated[int, Field(ge=4, le=1024)] = 128
    """Size of one copy, in MiB; four of that are pinned for each GPU and NUMA node."""
    peers: bool = True
    """Also copy from GPU to GPU, between each two."""
    alike: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Part of the median of links of its kind that each link must reach alone."""
    of_width: Annotated[float, Field(gt=0, le=1)] = 0.85
    """Part of what generation and width allow as payload that each link must reach alone."""
    duplex_gain: Annotated[float, Field(ge=1, le=2)] = 1.2
    """How many times one direction's rate both together must reach."""
    count_tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """How far counted and copied bytes may lie apart, as a share."""
    expect: dict[str, float] = {}
    """Figures that this type of host must reach, by their names (docs/host.md); empty: none is known."""
    against: str = ""
    """An earlier outcome of the same host type, whose figures are expected; empty: none."""
    expect_tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """How far a figure may fall short of what is expected, as a share."""
    sampler_hz: Annotated[float, Field(ge=50, le=4000)] = 500.0
    """Readings of the PCIe counters per second."""
    recording: str = ""
    """A recorded host (<name>.samples.json.gz) to judge in place of a run."""

    @property
    def system(self) -> str:
        """What is checked, for titles."""
        return "links of this host"


class FaultsParams(CheckParams):
    """Parameters of the planted faults."""

    check: ClassVar[str] = "faults"

    of: list[Literal["logits", "pcie", "agents", "host"]] = []
    """Plant the faults of these checks alone: logits, pcie, agents, host; empty: of all."""
    fault: str = ""
    """Plant this one alone, by its name; empty: all."""
    clean_runs: Annotated[int, Field(ge=0)] = 30
    """Runs of each check without a fault, to count false alarms."""
    doses: bool = True
    """Also plant smaller doses of each fault, to find the smallest that is still caught."""


PARAMS: dict[str, type[Params]] = {
    model.check: model for model in (LogitsParams, PcieParams, AgentsParams, HostParams, FaultsParams)
}
"""The params of each check, by the name that its notebook and params files have."""
