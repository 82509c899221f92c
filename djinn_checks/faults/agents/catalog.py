"""Faults of the agents check: what a server that swaps sleeping sessions gets wrong.

Each serves in a process of its own and is driven over HTTP as any server is. Where a dose makes sense, smaller
ones show how little of the defect the check still catches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from djinn_checks.faults.agents import defects
from djinn_checks.faults.agents import kv_defects as kv
from djinn_checks.faults.agents import reported_defects as reported
from djinn_checks.faults.agents.nursery import Defect
from djinn_checks.faults.agents.runs import SLEEP_S, run_agents
from djinn_checks.faults.base import Doses, Fault
from djinn_checks.outcome import Outcome

_LIE = "a digest that is computed once and copied along with the bytes' description"


def _fault(*, name: str, caught_by: str, defect: Callable[[float], Defect], breaks: str, modelled_on: str,
           dose: float = 0.0, unit: str = "", smaller: tuple[float, ...] = (), crowd: bool = False,
           attempts: int = 1, says: str = "", gpu: bool = False, sleep_s: float = SLEEP_S) -> Fault:  # fmt: skip
    run = run_agents(defect, crowd=crowd, sleep_s=sleep_s)

    def plant(device: torch.device) -> Outcome:
        return run(dose, device)

    return Fault(
        name=name, check="agents", breaks=breaks, modelled_on=modelled_on, caught_by=caught_by, run=plant,
        attempts=attempts, says=says, applies=lambda device: device.type == "cuda" or not gpu,
        doses=Doses(unit=unit, sizes=smaller, run=run) if smaller else None,
    )  # fmt: skip


_FAULTS = (
    _fault(
        name="never_swaps", caught_by="kv_left_device", defect=defects.never_swaps,
        breaks="No session ever leaves the device.",
        modelled_on="Djinn's published test of its semantic scheduler, which slept in the client and counted no swap",
    ),
    _fault(
        name="swap_reported_kv_kept", caught_by="kv_left_device", defect=defects.keeps,
        breaks="A swap is counted, its bytes are copied, and the KV stays on the device as well.",
        modelled_on="a reference to the cache that outlives the swap",
        dose=1.0, unit="share of the KV", smaller=(0.1, 0.05),
    ),
    _fault(
        name="kept_behind_other_memory", caught_by="kv_left_device", defect=defects.keeps_behind,
        breaks="A swap is counted, the KV stays on the device, and as much of other memory is given back with it.",
        modelled_on="an allocator's cache that is emptied at a swap, while something still refers to the KV",
    ),
    _fault(
        name="crowd_kept_in_secret", caught_by="crowd_within_budget", defect=defects.keeps_crowd,
        breaks="One agent sleeps as it should; of many, each is counted as swapped and stays on the device as well.",
        modelled_on="a budget that counts the sessions listed, not the bytes taken",
        dose=1.0, unit="share of the KV", smaller=(0.5, 0.2), crowd=True,
    ),
    _fault(
        name="counts_without_doing", caught_by="kv_left_device", defect=defects.counts_only,
        breaks="Swaps, restores, bytes and digests are counted, and nothing is moved.",
        modelled_on="metrics that are incremented where a move is asked for, not where it is done",
    ),
    _fault(
        name="dropped_and_recomputed", caught_by="prefill_counted", defect=defects.forgets,
        breaks="The KV is dropped, and computed again when the agent wakes.",
        modelled_on="vLLM's preemption by recomputation",
        dose=1e9, unit="last tokens", smaller=(8, 1),
    ),
    _fault(
        name="recomputed_in_secret", caught_by="rounding_is_kept", defect=defects.forgets_secretly,
        breaks="The KV is dropped and computed again, and all of it is reported as kept.",
        modelled_on="a prefix cache that reports what it looked up, not what it found",
        dose=1e9, unit="last tokens", smaller=(64, 8, 1),
    ),
    _fault(
        name="keys_of_another_session", caught_by="logprobs_equal_twin", defect=kv.borrows,
        breaks="One layer's keys come back from another session; the digest is claimed.",
        modelled_on="pages of a pool that are given to two sessions",
        dose=1e9, unit="tokens", smaller=(8, 1),
    ),
    _fault(
        name="cache_truncated", caught_by="logprobs_equal_twin", defect=kv.truncates,
        breaks="The last tokens of the cache come back as zeros; the digest is claimed.",
        modelled_on="a length in pages that is rounded down",
        dose=64, unit="last tokens", smaller=(8, 1),
    ),
    _fault(
        name="comes_back_short", caught_by="bytes_equal", defect=kv.comes_back_short,
        breaks="A part of the bytes is not brought back, and only the others are counted.",
        modelled_on="a copy that ends at a buffer's end",
        dose=0.5, unit="share of the KV", smaller=(0.0001,),
    ),
    _fault(
        name="cache_shifted", caught_by="logprobs_equal_twin", defect=kv.shifts,
        breaks="Every token of the cache comes back one place too late; the digest is claimed.",
        modelled_on="an off-by-one between a cache's length and its next free place",
        dose=6, unit="of 6 regions", smaller=(1,),
    ),
    _fault(
        name="tensor_zeroed", caught_by="logprobs_equal_twin", defect=kv.zeroes,
        breaks="One layer's keys come back as zeros; the digest is claimed.",
        modelled_on="seen on llama-server: one tensor of 60 zeroed still gives fluent text",
        dose=1e9, unit="first tokens", smaller=(8, 1),
    ),
    _fault(
        name="bit_flipped_asleep", caught_by="survives_sleep", defect=kv.flips_asleep,
        breaks="One bit flips on the host while the session sleeps, and the server's digest has it refused.",
        modelled_on="memory without error correction; the named effect is that the agent is lost and told so",
        dose=0, says="kv_digest_mismatch",
    ),
    _fault(
        name="bit_flipped_unverified", caught_by="digest_equal", defect=kv.flips_unverified,
        breaks="One bit flips on the host while the session sleeps; digests are taken and not compared.",
        modelled_on="a checksum that is logged and never acted on",
        dose=0,
    ),
    _fault(
        name="bit_flipped_unseen", caught_by="logprobs_equal_twin", defect=kv.flips_unseen,
        breaks="One bit of one number flips on the way back; the digest is claimed.",
        modelled_on=_LIE,
        dose=30, unit="bits up from the lowest of a word", smaller=(20, 12, 6, 3, 0),
    ),
    _fault(
        name="sessions_crossed", caught_by="crowd_texts_equal_twins", defect=kv.crosses,
        breaks="A session that comes back while others sleep gets the KV of one of them; the digest is claimed.",
        modelled_on="a table of sleeping sessions that is indexed by arrival",
        dose=1, unit="one restore in so many", smaller=(2,), crowd=True,
    ),
    _fault(
        name="restored_under_wrong_id", caught_by="crowd_logprobs_equal_twins", defect=kv.crosses,
        breaks="Every second restore brings another session's KV, if others sleep; the digest is claimed.",
        modelled_on="LMCache #4385: another request's content; SGLang #22811: a few in ten thousand",
        dose=2, unit="one restore in so many", crowd=True, attempts=3,
    ),
    _fault(
        name="block_reused_before_stored", caught_by="crowd_logprobs_equal_twins", defect=reported.reuses_early,
        breaks="In a crowd a session's place is given to others before its store has ended; the digest is claimed.",
        modelled_on="vLLM #45704: a store that races the reuse of its blocks",
        dose=0.25, unit="share of each region", smaller=(0.05, 0.01), crowd=True,
    ),
    _fault(
        name="load_awaited_by_wrong_event", caught_by="crowd_logprobs_equal_twins", defect=reported.awaits_another,
        breaks="In a crowd a session goes on as soon as another one's load is there; the digest is claimed.",
        modelled_on="vLLM #47282: a load that nobody waits for under pressure",
        dose=0.2, unit="s", smaller=(0.02,), crowd=True, attempts=3,
    ),
    _fault(
        name="reuse_denied_and_anothers_loaded", caught_by="crowd_logprobs_equal_twins",
        defect=reported.says_nothing_reused,
        breaks="In a crowd another session's KV is loaded, and the server says that nothing was reused.",
        modelled_on="llama.cpp #27148: another conversation, with cached_tokens 0",
        dose=1, unit="one restore in so many", crowd=True,
    ),
    _fault(
        name="wrong_layer_well_accounted", caught_by="crowd_logprobs_equal_twins", defect=reported.borrows_in_crowd,
        breaks="In a crowd one layer's keys are another session's; bytes, tokens and digests are as they should be.",
        modelled_on="SGLang #39830: wrong 20 times of 20 with perfect accounting",
        dose=1e9, unit="tokens", smaller=(8, 1), crowd=True,
    ),
    _fault(
        name="stale_file_trusted", caught_by="logprobs_equal_twin", defect=reported.trusts_stale,
        breaks="A session is restored from what an earlier one of its length had left; the digest is claimed.",
        modelled_on="LMCache #4492: 38 answers of 38 wrong after a restart, with HTTP 200",
    ),
    _fault(
        name="restore_does_nothing", caught_by="logprobs_equal_twin", defect=reported.restores_nothing,
        breaks="A restore is counted, with its bytes and its digest, and nothing is restored.",
        modelled_on="llama.cpp #26676: a restore that does nothing",
    ),
    _fault(
        name="offload_flag_ignored", caught_by="kv_left_device", defect=defects.never_swaps,
        breaks="The server takes the flag for its host pool, says nothing, and moves nothing there.",
        modelled_on="vLLM #51396: an offload flag that silently did nothing, whose test compared outputs alone",
    ),
    _fault(
        name="memory_freed_late", caught_by="kv_left_soon", defect=defects.frees_late,
        breaks="The KV's place on the device is given back some time after the swap.",
        modelled_on="memory that waits for a garbage collector",
        dose=0.75, unit="s", smaller=(0.55, 0.4), sleep_s=2.0,  # or a busy machine has it asleep with its memory
    ),
    _fault(
        name="gpu_slow_and_says_fast", caught_by="swap_out_of_ceiling", defect=defects.dawdles,
        breaks="The KV leaves with pauses between its regions, and the server says that it took no time.",
        modelled_on="a rate that is bytes over a time that nobody measured",
        dose=0.01, unit="s after each region", gpu=True,
    ),
    _fault(
        name="resume_waits_for_timer", caught_by="woke_at_once", defect=defects.wakes_late,
        breaks="A restore begins when the idle timer next fires, not when the agent asks.",
        modelled_on="a scheduler that looks at sessions once a second; Djinn publishes a wake of 7.8 s",
        dose=0.5, unit="s", smaller=(0.3, 0.2),
    ),
    _fault(
        name="restore_races_decode", caught_by="logprobs_equal_twin", defect=defects.races,
        breaks="The first steps after a wake run while the KV is still on its way.",
        modelled_on="a copy on a stream of its own whose event nobody waits for",
        dose=0.2, unit="s", smaller=(0.02, 0.0), attempts=3,
    ),
    _fault(
        name="dies_asleep", caught_by="survives_sleep", defect=defects.dies_asleep,
        breaks="The server dies while the agent sleeps; the named effect is that the agent is lost.",
        modelled_on="an out-of-memory kill while the host holds the sleepers",
        says="no server answers there",
    ),
    _fault(
        name="erase_frees_nothing", caught_by="closing_frees", defect=defects.leaks,
        breaks="A closed session's KV stays on the device.",
        modelled_on="llama-server's slots, whose erase leaves the buffer as it is",
        dose=1.0, unit="share of the KV", smaller=(0.2, 0.1),
    ),
)  # fmt: skip

FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _FAULTS}
