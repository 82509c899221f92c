"""What goes over the wire: OpenAI's completions, and sessions beside them.

Field names and meanings are those of OpenAI's completions endpoint, so that its client works unchanged.
`agent_hint` follows the open vLLM RFC 52113; `token_ids`, `timings` and the session's own record are additions,
which that client hands through. What a field may hold is in `fields.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from djinn_checks.engine.kv_shape import KvShape
from djinn_checks.engine.session import Session
from djinn_checks.server.fields import Body, Prompt, SessionId, Stops, only


class AgentHint(Body):
    """Which agent a request belongs to. What else the RFC has, or will have, in here is not used."""

    model_config = ConfigDict(extra="ignore")

    session_id: SessionId
    """Its KV cache is kept under this name until the session is deleted or unused for too long."""


class StreamOptions(Body):
    """What a stream brings beside text. What others know besides, as `continuous_usage_stats`, is ignored."""

    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False
    """End the stream with a chunk that has the usage."""
    include_obfuscation: Annotated[Literal[False], only(False, "the server pads nothing; leave it out")] = False


class Generation(Body):
    """What a request for text has, whether it continues a prompt or a chat. Fields that it does not know are ignored,
    as other servers of this interface do: clients send what one of them understands."""

    model_config = ConfigDict(extra="ignore")

    model: str = ""
    """The name that is served, as `/v1/models` has it; another one is a 404. Left out, it is that one."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """0 takes the most likely token. (OpenAI's default is 1.)"""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample from the most likely tokens that together have this probability."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """Makes sampling repeatable."""
    stop: Stops | None = None
    """Texts that end the answer and are not part of it: at most 4 of at most 1,000 characters each."""
    stream: bool = False
    """Send each token as a server-sent event."""
    stream_options: StreamOptions | None = None
    agent_hint: AgentHint | None = None
    """Without it the request has a session of its own, which ends with it."""
    n: Annotated[Literal[1], only(1, "send a request for each completion")] = 1
    frequency_penalty: Annotated[Literal[0], only(0, "use temperature and top_p alone")] = 0
    presence_penalty: Annotated[Literal[0], only(0, "use temperature and top_p alone")] = 0
    logit_bias: Annotated[dict[str, float], Field(max_length=0), only({}, "use temperature and top_p alone")] = {}  # noqa: RUF012  pydantic copies it
    user: str | None = None
    """Not used."""


class CompletionRequest(Generation):
    """A completion, continued from what the session already has."""

    prompt: Prompt
    """The whole conversation so far: a text or token ids. What the session's KV holds of it is not computed again."""
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 16
    """Tokens to generate."""
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """Report each token's log-probability, and that many of the most likely ones."""
    best_of: Annotated[Literal[1], only(1, "send a request for each completion and choose")] = 1
    echo: Annotated[Literal[False], only(False, "put the prompt before the text yourself")] = False
    suffix: Annotated[Literal[""], only("", "the server only continues a prompt; leave it out")] = ""


class ModelView(BaseModel):
    """The model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """When the server started, in seconds since 1970."""
    owned_by: str = "djinn-checks"


class ModelList(BaseModel):
    """All of them: one."""

    object: Literal["list"] = "list"
    data: list[ModelView]


class Logprobs(BaseModel):
    """One entry a token in each list."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class Choice(BaseModel):
    """The text."""

    index: int = 0
    text: str
    token_ids: list[int]
    """The tokens as they were generated, an end-of-sequence token included."""
    logprobs: Logprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class PromptDetails(BaseModel):
    """Of the prompt's tokens."""

    cached_tokens: int
    """Those whose KV the session still had, so that they were not computed."""


class Usage(BaseModel):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class Timings(BaseModel):
    """Where the time went, in seconds; the first three add up to the time until the first token."""

    queue_s: float
    restore_s: float
    first_token_s: float
    decode_s: float


class Completion(BaseModel):
    """An answer, or with `stream` a part of it."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    """Unix time."""
    model: str
    choices: list[Choice]
    usage: Usage | None = None
    timings: Timings | None = None


class PhaseRequest(Body):
    """What an agent is about to do."""

    phase: Literal["IO_WAIT", "COMPUTE"]
    """IO_WAIT: it waits for something outside, so its KV may leave the device now. COMPUTE: it will soon ask."""


class SessionView(BaseModel):
    """A session as the server has it."""

    id: str
    state: str
    """IDLE, ACTIVE, SWAPPING_OUT, SWAPPED, SWAPPING_IN or CLOSED."""
    tokens: int
    """Tokens whose KV it has."""
    kv_bytes: int
    """Bytes of that KV."""
    swaps: int
    restores: int
    kept: int
    """Swaps that a request overtook."""
    swapped_bytes: int
    """Bytes copied off the device, in all swaps together."""
    restored_bytes: int
    """Bytes copied back, in all restores together."""
    swap_s: float | None
    """Seconds of the last swap-out, digest included."""
    restore_s: float | None
    """Seconds of the last restore, digest included, memory for it not."""
    allocate_s: float | None
    """Seconds that it took to get memory for it."""
    digest_s: float | None
    """Seconds that the last move waited for its digest after its copies were done."""
    digest_out: str | None
    """Of the KV's bytes when they last left the device, 16 hexadecimal digits."""
    digest_in: str | None
    """Of the same bytes when they were back."""

    @classmethod
    def of(cls, session: Session, shape: KvShape) -> SessionView:
        """Describe a session. To be called in the engine's thread."""
        return cls(
            id=session.id,
            state=session.state,
            tokens=len(session.ids),
            kv_bytes=len(session.ids) * shape.token_bytes,
            swaps=session.swaps,
            restores=session.restores,
            kept=session.kept,
            swapped_bytes=session.swapped_bytes,
            restored_bytes=session.restored_bytes,
            swap_s=session.swap_s,
            restore_s=session.restore_s,
            allocate_s=session.allocate_s,
            digest_s=session.digest_s,
            digest_out=session.digest_out,
            digest_in=session.digest_in,
        )


class SessionList(BaseModel):
    """All open sessions."""

    sessions: list[SessionView]


class Health(BaseModel):
    """The server is up."""

    status: Literal["ok"] = "ok"
    model: str
    device: str
    kv_token_bytes: int
    """Bytes of KV that one token takes."""
    kv_device_bytes: int
    """Most bytes of KV on the device."""
    kv_host_bytes: int
    """Most bytes of sleeping KV on the host."""
    decode_recorded: bool
    """Whether tokens are decoded by recorded CUDA graphs; if not, by the module itself."""


class ErrorBody(BaseModel):
    """What went wrong, in OpenAI's form."""

    message: str
    type: str
    code: str
    param: str | None = None


class ErrorResponse(BaseModel):
    """An error."""

    error: ErrorBody


def error_response(message: str, *, kind: str, code: str, param: str | None = None) -> dict[str, Any]:
    """Return the body of an error; `param` is the field that it is about."""
    return ErrorResponse(error=ErrorBody(message=message, type=kind, code=code, param=param)).model_dump()
