"""What a real server has told is read as it is: metrics of vLLM 0.32.0 on a CPU, after three requests of 585 tokens."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from djinn_checks.checks.agents.pool.adapters import POOLS, SGLANG, VLLM
from djinn_checks.checks.agents.pool.counts import (
    Counts,
    find_missing,
    parse_metrics,
    read_block_tokens,
    read_counts,
    read_engines,
    read_kv_itemsize,
    read_pool_tokens,
    why_untold,
)
from djinn_checks.checks.agents.pool.run import PoolRun, why_unaccounted
from djinn_checks.checks.agents.reply import Reply, Sources
from tests.checks.agents.made_evidence import make_one_sleep

TOLD = Path(__file__).parents[2] / "data" / "vllm-0.32.0.metrics.txt"
SGLANG_TOLD = """
sglang:prompt_tokens_total{model_name="m"} 1000.0
sglang:cached_tokens_total{cache_source="device",model_name="m"} 400.0
sglang:cached_tokens_total{cache_source="host",model_name="m"} 300.0
sglang:cached_tokens_total{cache_source="storage_file",model_name="m"} 50.0
sglang:load_back_bytes_total{tp_rank="0"} 5e+06
sglang:load_back_bytes_total{tp_rank="1"} 5e+06
sglang:max_total_num_tokens{model_name="m"} 4096.0
"""


def test_vllms_tokens_are_counted_by_where_they_came_from() -> None:
    counts = read_counts(VLLM, parse_metrics(TOLD.read_text()))
    assert (counts.prompt, counts.device, counts.host) == (3 * 585, 0, 2 * 512)
    assert counts.sources == Sources(device=0, host=1024, computed=731)
    assert counts.since(counts).sources == Sources(device=0, host=0, computed=0)


@pytest.mark.parametrize(("computed", "adds_up"), [(20, True), (21, True), (19, False), (0, False), (22, False)])
def test_sources_that_do_not_add_up_to_the_prompt_are_unknown(computed: int, adds_up: bool) -> None:
    counts = Counts(prompt=100, device=32, host=48, compute=computed)
    assert counts.adds_up is adds_up
    assert counts.sources == (Sources(device=32, host=48, computed=20) if adds_up else Sources())


def test_the_pools_of_several_engines_are_one_that_others_have_to_fill() -> None:
    told = "".join(f'vllm:cache_config_info{{block_size="16",engine="{n}",num_gpu_blocks="24"}} 1\n' for n in range(2))
    series = parse_metrics(told + 'vllm:prompt_tokens_total{engine="7"} 1')
    assert (read_pool_tokens(VLLM, series), read_engines(VLLM, series)) == (768, 2)
    ranks = parse_metrics("".join(f'sglang:max_total_num_tokens{{tp_rank="{n}"}} 4096\n' for n in range(2)))
    assert (read_pool_tokens(SGLANG, ranks), read_engines(SGLANG, ranks)) == (4096, 1)


def test_vllms_blocks_and_pool_are_what_it_says() -> None:
    series = parse_metrics(TOLD.read_text())
    assert (read_block_tokens(VLLM, series), read_pool_tokens(VLLM, series)) == (128, 5120)
    older = parse_metrics('vllm:cache_config_info{block_size="16",num_gpu_blocks="600"} 1')
    assert read_pool_tokens(VLLM, older) == 9600


def test_what_is_not_counted_is_unknown_and_named() -> None:
    series = parse_metrics(TOLD.read_text())
    assert set(find_missing(VLLM, series)) == {"load_bytes", "load_s", "store_bytes", "store_s"}
    assert read_counts(VLLM, series).load_bytes is None
    assert read_counts(SGLANG, series) == Counts()


def test_sglangs_tiers_and_ranks_are_added_up() -> None:
    series = parse_metrics(SGLANG_TOLD)
    counts = read_counts(SGLANG, series)
    assert counts.sources == Sources(device=400, host=350, computed=250)
    assert counts.load_bytes == 10_000_000
    assert read_pool_tokens(SGLANG, series) == 4096
    assert read_block_tokens(SGLANG, series) is None


def test_tokens_that_sglang_counts_as_a_total_came_from_nobody_knows_where() -> None:
    """Of a request whose tiers it does not know it counts the total, and of others the tiers."""
    both = SGLANG_TOLD + 'sglang:cached_tokens_total{cache_source="total"} 750'
    assert read_counts(SGLANG, parse_metrics(both)).sources == Sources(device=400, host=350, computed=250)
    before, then = (
        read_counts(SGLANG, parse_metrics(SGLANG_TOLD + f'sglang:cached_tokens_total{{cache_source="total"}} {total}'))
        for total in (70, 90)
    )
    assert before.since(before).sources == Sources(device=0, host=0, computed=0)
    assert not why_untold(SGLANG, before.since(before))
    assert then.since(before).sources == Sources()
    assert "it counted 20 tokens under a source that is none of those that are known here" in why_untold(
        SGLANG, then.since(before)
    )


def test_a_source_of_another_name_is_not_taken_for_none() -> None:
    told = SGLANG_TOLD.replace('cache_source="host"', 'cache_source="cpu"')
    assert read_counts(SGLANG, parse_metrics(told)).sources == Sources()
    vllm = TOLD.read_text().replace("external_kv_transfer", "p2p_transfer")
    assert read_counts(VLLM, parse_metrics(vllm)).sources == Sources()


@pytest.mark.parametrize("adapter", POOLS.values(), ids=lambda adapter: adapter.name)
def test_every_name_has_the_version_in_which_it_was_seen_and_begins_as_the_servers_do(adapter: object) -> None:
    found = [entry for value in vars(adapter).values() if isinstance(value, tuple) for entry in value]
    named = [entry for entry in found if not isinstance(entry, str)]
    assert named
    assert all(entry.since and entry.name.startswith(vars(adapter)["begins"]) for entry in named)


def test_what_is_no_metric_is_left_out() -> None:
    assert parse_metrics('# HELP a b\nnot a metric at all\na{b="c\\"d"} 1\nb NaN?\n')[0].labels == {"b": 'c\\"d'}


@pytest.mark.parametrize(
    ("prompt_tokens", "sources", "says"),
    [
        (None, Sources(device=0, host=0, computed=9), r"do not say how many tokens their prompts have \(usage\)"),
        (9, None, "could not be read"),
        (9, Sources(device=0, host=None, computed=9), "did not add up to a prompt"),
        (10, Sources(device=4, host=0, computed=5), "says 10 prompt tokens, and 9 were counted"),
    ],
)
def test_an_account_that_is_not_of_a_prompt_is_told_by_what_is_wrong_with_it(
    prompt_tokens: int | None, sources: Sources | None, says: str
) -> None:
    right = Reply(prompt_tokens=9, sources=Sources(device=4, host=0, computed=5))
    assert why_unaccounted([right]) == ""
    assert re.search(says, why_unaccounted([right, Reply(prompt_tokens=prompt_tokens, sources=sources)]))


@pytest.mark.parametrize(
    ("name", "itemsize"), [("auto", None), ("bfloat16", None), ("fp8", 1), ("fp8_e5m2", 1), ("nvfp4", None), ("", None)]
)
def test_the_type_that_a_server_keeps_its_kv_in_says_how_large_it_is(name: str, itemsize: int | None) -> None:
    label = f'cache_dtype="{name}",' if name else ""
    told = parse_metrics(f'vllm:cache_config_info{{{label}engine="0"}} 1.0')
    assert read_kv_itemsize(VLLM, told) == itemsize
    pool = PoolRun(
        kind="vllm", version="0.26.0", missing={}, block_tokens=16, pool_tokens=128, sleeps=(), counted=Counts(),
        left_s=0.0, kv_itemsize=read_kv_itemsize(VLLM, told),
    )  # fmt: skip
    made = make_one_sleep(lambda at: 0)
    assert replace(made, pool=pool).token_bytes == made.token_bytes / (4 if itemsize else 1)
