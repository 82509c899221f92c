"""The health of a link is a difference over a run, and unknown where it is not told."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from djinn_checks.instruments import nvml
from djinn_checks.instruments.counters import CounterSampler
from djinn_checks.instruments.link_health import ERRORS, LinkHealth, most_replays, parse_health

FAKES = "tests.instruments.fake_counters"


def sample(t_s: float, **found: int | None) -> str:
    return json.dumps({"t_s": t_s, "generation": 5, "width": 16, **found})


def read(*lines: str) -> LinkHealth:
    with tempfile.NamedTemporaryFile("w", suffix=".health") as file:
        file.write("\n".join(lines))
        file.flush()
        return parse_health(Path(file.name))


def test_only_what_came_during_the_run_counts() -> None:
    health = read(*(sample(float(second), replays=799 + second) for second in range(10)))
    assert health.difference("replays", 3.5, 6.5) == 4, "from the sample before the start to the one after the end"
    assert [found.t_s for found in health.around(3.5, 6.5)] == [3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [sample(3.0, replays=5)],
        [sample(3.0), sample(7.0)],
        [sample(3.0, replays=None), sample(7.0, replays=5)],
        [sample(3.0, replays=9), sample(7.0, replays=5)],
        [sample(3.0, replays=5), sample(3.2, replays=5)],
    ],
    ids=["nothing", "once", "not supported", "not at first", "set back", "not near the end"],
)
def test_what_is_not_told_is_unknown(lines: list[str]) -> None:
    assert read(*lines).difference("replays", 3.5, 6.5) is None


def test_a_line_that_was_cut_short_is_left_out() -> None:
    assert len(read(sample(1.0), sample(2.0)[:9]).samples) == 1


def test_a_link_within_the_specification_may_send_a_packet_again_each_second() -> None:
    assert most_replays(5, 16, 1000.0) == 1024 + 96
    assert most_replays(5, 16, 10.0) == 20
    assert most_replays(3, 8, 10.0) == 5
    assert most_replays(6, 16, 10.0) is None
    assert most_replays(None, 16, 10.0) is None
    assert most_replays(5, None, 10.0) is None


def test_clocks_that_are_slowed_against_a_users_will_are_named() -> None:
    (first, second) = read(sample(1.0, clock_reasons=0x1), sample(2.0, clock_reasons=0x44)).samples
    assert first.slowed_by == ()
    assert second.slowed_by == ("power cap", "hardware thermal slowdown")
    assert second.trained == "gen 5 x16"


def test_the_sampler_writes_it_down_once_a_second_and_it_stays_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    with CounterSampler(source=f"{FAKES}:steady", health=f"{FAKES}:trains_down") as sampler:
        start = time.monotonic()
        time.sleep(1.2)
        end = time.monotonic()
    health = sampler.read_health()
    assert health is not None
    assert len(health.samples) in (2, 3)
    assert health.samples[0].generation == 5
    assert health.samples[-1].generation == 3
    assert health.difference("replays", start, end) in (7, 14)
    assert health.difference("naks_sent", start, end) is None


def test_beside_fake_counters_there_is_no_health(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    with CounterSampler(source=f"{FAKES}:steady") as sampler:
        assert sampler.read_health() is None
    assert sampler.read_health() is None


class Answer:
    """One field of NVML's answer."""

    def __init__(self, code: int, kind: int, value: int) -> None:
        self.nvmlReturn, self.valueType = code, kind
        self.value = SimpleNamespace(uiVal=value, ulVal=value, ullVal=value)


def read_all() -> dict[str, int | None]:
    return {name: value for query in nvml.list_health_queries(None) for name, value in query().items()}


def test_what_a_driver_does_not_support_is_unknown_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    unsigned, double = pynvml.NVML_VALUE_TYPE_UNSIGNED_INT, pynvml.NVML_VALUE_TYPE_DOUBLE
    answers = [Answer(pynvml.NVML_SUCCESS, unsigned, 7), Answer(pynvml.NVML_ERROR_NOT_SUPPORTED, unsigned, 9)]
    answers += [Answer(pynvml.NVML_SUCCESS, double, 9)] * (len(nvml.HEALTH_FIELDS) - 2)

    def refuse(*_: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    by_field = dict(zip(nvml.HEALTH_FIELDS.values(), answers, strict=True))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetFieldValues", lambda handle, fields: [by_field[one] for one in fields])
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCurrPcieLinkGeneration", lambda handle: 4)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCurrPcieLinkWidth", refuse)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCurrentClocksEventReasons", refuse)
    found = read_all()
    assert {name: value for name, value in found.items() if value is not None} == {"replays": 7, "generation": 4}
    monkeypatch.setattr(pynvml, "nvmlDeviceGetFieldValues", refuse)
    assert read_all()["replays"] is None
    assert set(ERRORS) == set(nvml.HEALTH_FIELDS), "what is read is what is reported"
