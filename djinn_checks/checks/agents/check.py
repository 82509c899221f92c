"""The agents check: a session that sleeps leaves the device, comes back whole, and was not computed again.

A server is driven over HTTP and nothing else: one agent that sleeps, its twins that do not, then many agents
on a device that cannot hold them all. The memory of the server's process is read from outside meanwhile, and
on a GPU the bytes on the link are counted. At the end the model itself is asked, resident in this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import psutil
import torch

from djinn_checks.checks.agents.client import AgentClient
from djinn_checks.checks.agents.connect import connect
from djinn_checks.checks.agents.criteria import judge_evidence
from djinn_checks.checks.agents.crowd import CrowdRun, run_crowd
from djinn_checks.checks.agents.evidence import AgentsEvidence
from djinn_checks.checks.agents.link import LinkWitness
from djinn_checks.checks.agents.measurements import gather_measurements, gather_timings, summarize
from djinn_checks.checks.agents.pool.run import PoolRun
from djinn_checks.checks.agents.pool.sleeper import run_pool_sleeper
from djinn_checks.checks.agents.power import restores_for
from djinn_checks.checks.agents.reference import ask_reference
from djinn_checks.checks.agents.scripts import write_script
from djinn_checks.checks.agents.server_process import OWN_SERVER, ServerProcess
from djinn_checks.checks.agents.sleeper import SleeperRun, run_sleeper
from djinn_checks.checks.agents.sleeper_criteria import judge_lost
from djinn_checks.checks.agents.token_pace import TokenPace, measure_token_pace
from djinn_checks.checks.conclude import Anatomy, Facts, conclude, conclude_early
from djinn_checks.checks.run import run_check
from djinn_checks.checks.settle import Clock, Progress, no_progress
from djinn_checks.devices import choose_dtype
from djinn_checks.errors import AgentLostError, InstrumentError
from djinn_checks.instruments.server_memory import MemorySeries, ServerMemory, find_listener
from djinn_checks.instruments.upstream import UpstreamWatch
from djinn_checks.models.open import Model, open_model
from djinn_checks.outcome import Outcome
from djinn_checks.params import AgentsParams

ANATOMY = Anatomy(
    check="agents",
    judge_evidence=judge_evidence,
    gather_measurements=gather_measurements,
    summarize=summarize,
    gather_timings=gather_timings,
)
_T = TypeVar("_T")


def check_agents(
    params: AgentsParams,
    *,
    server_command: Sequence[str] = OWN_SERVER,
    clock: Clock = time.monotonic,
    progress: Progress | None = None,
) -> Outcome:
    """Decide whether agents of a server sleep and wake as they should.

    What goes wrong after the parameters were accepted is settled as `run_check` says.

    Args:
        params: what to run.
        server_command: starts the server in place of `djinn-checks serve`, with the same arguments; it has to
            say "serving <model> at <address>" when it listens. Not used with `params.server_address`.
        clock: gives seconds; for the timings only.
        progress: called with (stage, 0, 1) as a stage begins.

    Raises:
        ParamsError: a parameter turned out impossible.
    """

    def work(device: torch.device, facts: Facts) -> Outcome:
        try:
            return _run(params, device, server_command, clock, progress or no_progress, facts)
        except AgentLostError as error:
            criterion = judge_lost(params.sleeps, str(error))
            summary = f"{params.system} with {params.model}: {criterion.title}: {error}"
            return conclude_early(ANATOMY.check, criterion, summary, facts)

    return run_check(ANATOMY.check, params, work, clock=clock)


def _run(
    params: AgentsParams,
    device: torch.device,
    server_command: Sequence[str],
    clock: Clock,
    progress: Progress,
    facts: Facts,
) -> Outcome:
    kv_dtype = choose_dtype(params.dtype, device)
    compute = torch.float32 if device.type == "cpu" else kv_dtype
    open_it = partial(open_model, params.model, dtype=compute, device=device, seed=params.seed)
    started = clock()
    with contextlib.ExitStack() as stack:
        pid, reason = _find_here(params) if params.server_address else (None, "")
        is_here = pid is not None or not params.server_address
        watching = stack.enter_context(contextlib.ExitStack())
        witness = watching.enter_context(LinkWitness(device)) if device.type == "cuda" and is_here else None
        progress("loading the model" if params.server_address else "starting the server", 0, 1)
        if params.server_address:
            server, model, address = None, open_it(), params.server_address
        else:
            server, model = _start_beside(open_it, lambda: stack.enter_context(_start(params, device, server_command)))
            address = server.address
        served = clock()
        pid = server.pid if server else pid
        memory, reason = _watch_memory(watching, pid, device, reason)
        is_named = params.server_pid is not None or not params.server_address
        upstream = None if is_named or pid is None else watching.enter_context(UpstreamWatch(pid))
        sleeper, pool = _await(_sleeper(params, model, address, progress))
        if witness:
            witness.measure_again()
        link = witness.evidence() if witness else None
        crowd = _await(_crowd(params, model, address, progress)) if params.agents else None
        is_alive = server.is_alive if server else None
        if upstream and upstream.reason:
            memory, reason = None, upstream.reason
        watching.close()  # its readings would slow down what is timed now, in this process and not in the server's
        is_same_gpu = witness and pid
        pace = _await(_token_pace(params, model, device, address, sleeper, progress)) if is_same_gpu else None
    driven_at = clock()
    progress("asking the resident model", 0, 1)
    evidence = AgentsEvidence(
        params=params,
        device=device,
        kv_dtype=kv_dtype,
        reference=ask_reference(model, device, sleeper, params.new_tokens),
        sleeper=sleeper,
        crowd=crowd,
        pool=pool,
        memory=memory,
        memory_reason=reason,
        link=link,
        token_pace=pace,
        decode=model.decode,
        is_alive=is_alive,
    )
    stages = {"server_start_s": served - started, "server_s": driven_at - served, "reference_s": clock() - driven_at}
    return conclude(ANATOMY, evidence, facts, timings=stages)


def _start_beside(open_it: Callable[[], Model], start: Callable[[], ServerProcess]) -> tuple[ServerProcess, Model]:
    """Return the server, and the model, which a thread opens meanwhile: both load the same libraries for seconds.

    The server is started by this thread, with which it ends. If neither comes about, what is wrong with the model says
    more than what the server says of it.
    """
    with ThreadPoolExecutor(1) as thread:
        opening = thread.submit(open_it)
        try:
            server = start()
        except Exception:
            opening.result()
            raise
        return server, opening.result()


def _start(params: AgentsParams, device: torch.device, command: Sequence[str]) -> ServerProcess:
    longest = max(
        params.prompt_tokens + (params.sleeps + 1) * (params.new_tokens + 64),
        params.agent_prompt_tokens + params.turns * (params.agent_new_tokens + 64),
    )
    options: dict[str, object] = {
        "--model": params.model,
        "--device": device,
        "--port": 0,
        "--kv-device-gb": params.kv_device_gb,
        "--host-swap-pool-gb": params.host_swap_pool_gb,
        "--idle-s": params.idle_s,
        "--session-tokens": longest,
        "--max-sessions": params.agents + 8,
        "--seed": params.seed,
    }
    if params.dtype:
        options["--dtype"] = params.dtype
    return ServerProcess([str(part) for pair in options.items() for part in pair], command=command)


def _find_here(params: AgentsParams) -> tuple[int | None, str]:
    """Return the server's process on this machine, the one that listens unless one is named, or why none is seen."""
    if params.server_pid is not None:
        return params.server_pid, ""
    try:
        return find_listener(params.server_address), ""
    except InstrumentError as error:
        return None, str(error)


def _watch_memory(
    stack: contextlib.ExitStack, pid: int | None, device: torch.device, reason: str
) -> tuple[MemorySeries | None, str]:
    """Return the memory of the server's process, being read until the stack is closed, or why it is not."""
    if pid is None:
        return None, reason
    try:
        return stack.enter_context(ServerMemory(pid, device)).series, ""
    except InstrumentError as error:
        return None, str(error)
    except psutil.Error as error:
        return None, f"process {pid} cannot be read ({error}); is server_pid the server's?"


async def _sleeper(
    params: AgentsParams, model: Model, address: str, progress: Progress
) -> tuple[SleeperRun, PoolRun | None]:
    scripts = [
        write_script(model, number=number, tokens=params.prompt_tokens, turns=params.sleeps + 1, seed=params.seed)
        for number in (0, 1 + params.agents)
    ]
    progress("one agent and its twins", 0, 1)
    async with contextlib.aclosing(_connect(params, model, address)) as client:
        await client.find_routes()
        if not client.is_pool:
            run = await run_sleeper(client, model, *scripts, new_tokens=params.new_tokens, sleep_s=params.sleep_s)
            return run, None
        return await run_pool_sleeper(
            client,
            model,
            *scripts,
            new_tokens=params.new_tokens,
            sleep_s=params.sleep_s,
            pressure_tokens=params.pressure_tokens,
            seed=params.seed,
        )


def _connect(params: AgentsParams, model: Model, address: str) -> AgentClient:
    return connect(params.adapter, address, model=params.server_model, decode=model.decode)


async def _crowd(params: AgentsParams, model: Model, address: str, progress: Progress) -> CrowdRun:
    scripts = [
        write_script(
            model,
            number=1 + agent,
            tokens=params.agent_prompt_tokens,
            turns=params.turns,
            seed=params.seed,
            shares=agent < round(params.shared_share * params.agents),
            closes=True,
        )
        for agent in range(params.agents)
    ]
    progress(f"{params.agents} agents' twins, then all agents at once", 0, 1)
    async with contextlib.aclosing(_connect(params, model, address)) as client:
        return await run_crowd(
            client,
            model,
            scripts,
            new_tokens=params.agent_new_tokens,
            arrival_rate=params.arrival_rate,
            think_s=(params.think_s[0], params.think_s[1]),
            seed=params.seed,
            burst=params.burst,
            disturbed_share=params.disturbed_share,
            restores_wanted=restores_for(params.most_wrong_rate) if params.most_wrong_rate else 0,
            most_s=params.soak_s if params.most_wrong_rate else 0.0,
        )


async def _token_pace(
    params: AgentsParams,
    model: Model,
    device: torch.device,
    address: str,
    sleeper: SleeperRun,
    progress: Progress,
) -> TokenPace:
    progress("the server's decode and generate(), in turns", 0, 1)
    async with contextlib.aclosing(_connect(params, model, address)) as client:
        return await measure_token_pace(client, model, device, sleeper.histories[0], params.new_tokens)


def _await(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine in a thread of its own: a notebook's thread has an event loop already."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
