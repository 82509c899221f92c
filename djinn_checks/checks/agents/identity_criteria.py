"""The rows about who it is that answers: the model's own weights, and the session that the agent had.

Texts and log-probabilities are held against the twin that never slept, and against the model itself, resident in this
process.
"""

from __future__ import annotations

from djinn_checks.checks.agents.answer_distance import differing_tokens, distance, turn_distance
from djinn_checks.checks.agents.crowd_distance import limit as limit_of
from djinn_checks.checks.agents.evidence import AgentsEvidence
from djinn_checks.checks.agents.sleeper import SleeperRun
from djinn_checks.outcome import Criterion, Row

NO_LOGPROBS = "the server gives no log-probabilities"
_OTHER_TOKENS = "the server gives no token ids, and its text has not as many tokens as it gives log-probabilities"
_AFTER_SAMPLING = (
    "each is exactly 0: they are given after the temperature, so they say nothing; have it give those of the model "
    "(vLLM: --logprobs-mode raw_logprobs)"
)
_NEAR_TIE = (
    "after a sleep another token was said that was nearly as likely, within what rounding does here, and all after it "
    "is another text; ask once more, with another seed"
)
_NLL_MARGIN = 0.1
"""Nats per token. Identical texts differ by 0; a text that is worse by this is 10 % less likely at every token."""
_TOLD_MARGIN = 0.05
"""Nats per token between two implementations of one model; quantized activations (llama-server) stay well below."""


def judge_speaker(evidence: AgentsEvidence) -> Criterion:
    """Whose weights answer: the server's log-probabilities of its own words, against the resident model's."""
    run, found = evidence.sleeper, evidence.reference
    said = [reply.mean_logprob for reply in run.slept]
    are_others = any(
        len(reply.logprobs) not in (0, tokens) for reply, tokens in zip(run.slept, found.tokens_slept, strict=False)
    )
    told = [-mean for mean in said if mean is not None]
    pairs = zip(told, found.nll_slept, strict=True) if len(told) == len(run.slept) and not are_others else ()
    worst = max((abs(by_server - by_model) for by_server, by_model in pairs), default=None)
    doubt = _why_not_its_weights(run) if worst is not None and worst > _TOLD_MARGIN else ""
    row = Row(
        "speaks_for_model",
        "The server finds its words as likely as the model that it is said to serve",
        unit="nats per token",
    )
    return row.judge(
        None if doubt else worst,
        "<=",
        _TOLD_MARGIN,
        evidence="mean log-probability of an answer's tokens, by the server and by the resident model, worst turn",
        missing=doubt or (_OTHER_TOKENS if are_others else NO_LOGPROBS),
        failed="it serves another model, or other weights",
    )


def _why_not_its_weights(run: SleeperRun) -> str:
    """Return why a server may serve the model and find its words otherwise likely; empty if nothing is known of why."""
    if not any(value for reply in run.slept for value in reply.logprobs):
        return _AFTER_SAMPLING
    pairs = zip(run.slept, run.histories, strict=False)
    counts = [(reply.prompt_tokens, len(history)) for reply, history in pairs if reply.prompt_tokens is not None]
    return next(
        (
            f"it counts {counted} prompt tokens, and the history has {had}: does it add a token of its own, as BOS, or "
            "split the text otherwise? Then its words follow on something else"
            for counted, had in counts
            if counted != had
        ),
        "",
    )


def judge_sameness(evidence: AgentsEvidence) -> list[Criterion]:
    """Return the rows about text and log-probabilities being the twin's.

    A server that keeps whole blocks may honestly compute another number of tokens after a sleep than it did for the
    twin. A sum over other parts rounds otherwise; then the twin computed anew says how far apart the two may be.
    """
    run = evidence.sleeper
    floor_tokens, floor = differing_tokens(run.again, run.hot), distance(run.again, run.hot)
    near = _is_near_tie(evidence)
    title = "After every sleep the agent says what its twin says that never slept"
    text = Row("text_equals_twin", title, unit="tokens").judge(
        None if near else differing_tokens(run.slept, run.hot),
        "==",
        0,
        evidence=f"{len(run.slept)} turns; between two runs of the twin {floor_tokens} tokens differ",
        floor=floor_tokens,
        missing=_NEAR_TIE
        if near
        else "the server gives neither token ids nor text: nothing was said that could be compared",
        failed="the first place is marked in the report",
    )
    limit = sameness_limit(run)
    why = f"; other parts were computed, which rounds by {_rounding(run):.3g} among the twins" if limit else ""
    title = "The log-probabilities are the twin's, " + ("within rounding" if limit else "bit for bit")
    numbers = Row("logprobs_equal_twin", title, unit="").judge(
        None if near else distance(run.slept, run.hot),
        "<=" if limit else "==",
        limit,
        evidence=f"largest difference; between two runs of the twin {_say(floor)}{why}",
        missing=_NEAR_TIE if near else NO_LOGPROBS,
        floor=floor,
    )
    return [text, numbers]


def _is_near_tie(evidence: AgentsEvidence) -> bool:
    """Whether the first token that differs from the twin's was so nearly as likely that rounding may have chosen it.

    Only of servers that may round otherwise after a sleep, and within what the twins of this run show of it.
    """
    run = evidence.sleeper
    if evidence.pool is None and evidence.params.adapter != "none":
        return False
    pairs = zip(run.slept, run.hot, strict=False)
    first = next(((slept, hot) for slept, hot in pairs if slept.ids != hot.ids or slept.text != hot.text), None)
    nats = turn_distance(*first) if first else None
    return nats is not None and nats <= limit_of(_rounding(run))


def sameness_limit(run: SleeperRun) -> float:
    """Return how far log-probabilities after a sleep may be from the twin's, in nats: 0, or what rounding does."""
    if _is_same_work(run):
        return 0.0
    return limit_of(_rounding(run))


def _rounding(run: SleeperRun) -> float:
    """Return the largest difference of log-probabilities, in nats, that computing a turn in other parts made in this
    run: of a twin with itself, with the one computed anew, and with the one whose answers were."""
    pairs = [*zip(run.again, run.hot, strict=False), *zip(run.hot[1:], run.cold, strict=False),
             *zip(run.hot[1:], run.part, strict=False)]  # fmt: skip
    found = [turn_distance(reply, twin) for reply, twin in pairs]
    return max((nats for nats in found if nats is not None), default=0.0)


def _is_same_work(run: SleeperRun) -> bool:
    """Whether as many tokens were computed in each turn as in the twin's; yes where nothing is said of them."""
    pairs = zip(run.slept, run.hot, strict=True)
    return all(
        slept.sources is None
        or hot.sources is None
        or slept.sources.computed is None
        or slept.sources.computed == hot.sources.computed
        for slept, hot in pairs
    )


def _say(number: float | None) -> str:
    return "unknown" if number is None else f"{number:.3g}"


def judge_coherence(evidence: AgentsEvidence) -> Criterion:
    """Return the row about the text's likelihood under the resident model."""
    found = evidence.reference
    worse = [slept - hot for slept, hot in zip(found.nll_slept, found.nll_hot, strict=True)]
    repeats = max(found.repetition_slept), max(found.repetition_hot)
    row = Row("coherent", "The text is as likely under the resident model as the twin's", unit="nats per token")
    return row.judge(
        max(worse),
        "<=",
        _NLL_MARGIN,
        evidence=f"mean negative log-likelihood, worst turn; repeated 4-grams {repeats[0]:.0%}, twin {repeats[1]:.0%}",
        failed="the agent lost the thread",
    )


def judge_generated(evidence: AgentsEvidence) -> Criterion:
    """Return the row about the first turn being what transformers says."""
    run, found = evidence.sleeper, evidence.reference
    same = run.first.ids[: len(found.generated)] == found.generated[: len(run.first.ids)] if run.first.ids else None
    row = Row("equals_generate", "The server says what transformers' generate() says", unit="", required=False)
    return row.judge(
        same,
        "==",
        True,
        evidence="the first turn, against the resident model of this check",
        missing="the server gives no token ids",
    )
