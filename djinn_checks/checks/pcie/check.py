"""The PCIe check: is the link full for as long as a model larger than the budget runs?

The link itself is the witness. A process of its own reads the GPU's byte counters about once a millisecond
while a known copy calibrates them, large copies measure the ceiling, the system decodes, and the ceiling
is measured again. Nothing that the system says counts for more than a number to be refuted.
"""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING

from djinn_checks.checks.conclude import Facts, conclude
from djinn_checks.checks.pcie.anatomy import ANATOMY
from djinn_checks.checks.pcie.replay import replay_trace
from djinn_checks.checks.pcie.together_check import check_together
from djinn_checks.checks.settle import Clock, Progress, no_progress, read_environment, settle_work
from djinn_checks.errors import ParamsError
from djinn_checks.outcome import Outcome
from djinn_checks.params import PcieParams

if TYPE_CHECKING:
    from djinn_checks.checks.run import SystemFactory


def check_pcie(
    params: PcieParams,
    *,
    system_factory: SystemFactory | None = None,
    clock: Clock = time.monotonic,
    progress: Progress | None = None,
    save_to: str | os.PathLike[str] = "",
) -> Outcome:
    """Decide whether a system keeps the link to the device full while it streams a model.

    Without a GPU the same code drives a link between two places in host memory, says so, and is
    INCONCLUSIVE about PCIe. What goes wrong after the parameters were accepted is settled as `run_check`
    says.

    Args:
        params: what to run, or which trace to judge in place of a run.
        system_factory: makes the system in place of the one registered under `params.system`.
        clock: gives seconds; for the timings only.
        progress: called with (stage, done, total) in seconds.
        save_to: where the caller saves the outcome; the counters' readings are kept beside it, as
            `<name>.samples.csv.gz`. Empty: they are not kept.

    Raises:
        ParamsError: the system is not registered, the budget cannot hold what it needs or holds the whole
            model, or the trace cannot be read; raised before any weights are loaded.
    """
    progress = progress or no_progress
    if params.trace:
        return settle_work(ANATOMY.check, params, partial(_replay, params), clock)
    if params.gpus and system_factory is not None:
        raise ParamsError("gpus: each GPU's process finds the system by its name; register it, and give `system`")
    if params.gpus:
        together = partial(check_together, params, progress=progress, save_to=save_to)
        return settle_work(ANATOMY.check, params, together, clock)
    from djinn_checks.checks.pcie.one_gpu import check_stream  # with PyTorch, which a replay does without

    return check_stream(params, system_factory, clock=clock, progress=progress, save_to=save_to)


def _replay(params: PcieParams, facts: Facts) -> Outcome:
    """Judge a trace, of whatever system: nobody has to have that one here, nor a GPU."""
    facts["environment"] = read_environment(None, params.system)
    return conclude(ANATOMY, replay_trace(params), facts)
