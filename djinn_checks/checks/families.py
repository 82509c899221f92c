"""Which families of models the logits check can decide about: each one that transformers can build tiny, tried.

    python -m djinn_checks.checks.families                  # every family, as the table of docs/families.md
    python -m djinn_checks.checks.families llama mamba rwkv

A family is tried twice, on a CPU: with random weights, and as a saved folder in which no stored value is what its class
starts with. The folder's logits are first held against those of transformers' own `from_pretrained`, then the logits
check streams it with the reference engine. Each family runs in a process of its own, so that one that hangs or dies
says so and ends nothing else.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from djinn_checks.checks.logits.check import check_logits
from djinn_checks.decode_cache import carried_over
from djinn_checks.errors import ModelError, ParamsError
from djinn_checks.models.open import open_model
from djinn_checks.models.tiny_configs import families, tiny_config
from djinn_checks.outcome import Outcome, Status
from djinn_checks.params import LogitsParams

TIMEOUT_S = 240.0
"""How long one family may take."""

_BUDGETS = (0.5, 0.75, 0.9, 0.95)
"""Shares of the weights, tried in turn: a tiny model is mostly its embedding, which a ring has to hold."""
_PROMPTS = ["Hello, ring buffer."]
_PRELOADED = [
    "djinn_checks.checks.families", "accelerate", "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama", "torch._refs",
    "torch._dynamo",
]  # fmt: skip
"""What each process would take seconds to import."""
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class FamilyRow:
    """What became of one family."""

    family: str
    kind: str = ""
    """Its class in transformers; empty if no tiny configuration of it is known here."""
    cache: str = ""
    """What its decoding carries over, by the name that its output gives it."""
    random: str = ""
    """Verdict of the logits check with random weights: a status, or "refused"."""
    folder: str = ""
    """The same of a saved folder."""
    reason: str = ""
    """What kept it from PASS."""

    def line(self) -> str:
        """Return it as a row of a Markdown table."""
        cells = (self.family, self.kind, self.cache, self.random, self.folder, self.reason.replace("|", "\\|"))
        return f"| {' | '.join(cells)} |"


HEADER = "| family | class | cache | random | folder | reason |\n|---|---|---|---|---|---|"


def try_family(family: str) -> FamilyRow:
    """Try one family here."""
    try:
        config = tiny_config(family)
    except Exception as error:  # its class wants values that are not known here
        return FamilyRow(family, reason=f"no tiny configuration: {_first_words(error)}")
    with tempfile.TemporaryDirectory(prefix="djinn-checks-") as place:
        folder = Path(place)
        config.save_pretrained(folder)
        spec = f"random:{folder / 'config.json'}"
        row = FamilyRow(family)
        try:
            module = open_model(spec, dtype=torch.float32, device=_CPU).resident(_CPU)
            row = replace(row, kind=type(module).__name__, cache=_cache_of(module))
        except ModelError as error:
            return replace(row, random="refused", folder="refused", reason=_shorten(str(error), folder))
        row = replace(row, **dict(zip(("random", "reason"), _check(spec, folder), strict=True)))
        said, reason = _check_folder(config, folder / "saved")
        return replace(row, folder=said, reason=row.reason or reason)


def try_families(names: Sequence[str], timeout_s: float = TIMEOUT_S) -> Iterator[FamilyRow]:
    """Try families one after the other, each in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    for name in names:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_send_row, args=(name, theirs))
        process.start()
        theirs.close()
        try:
            yield ours.recv() if ours.poll(timeout_s) else FamilyRow(name, reason=f"not done in {timeout_s:.0f} s")
        except EOFError:
            process.join()
            yield FamilyRow(name, random="ERROR", folder="ERROR", reason=f"its process ended with {process.exitcode}")
        finally:
            process.kill()
            process.join()
            ours.close()


def _send_row(family: str, connection: Connection) -> None:
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    try:
        connection.send(try_family(family))
    except Exception as error:  # whatever it is, it belongs into the table
        connection.send(FamilyRow(family, random="ERROR", folder="ERROR", reason=_first_words(error)))


def _check(spec: str, folder: Path) -> tuple[str, str]:
    """Return the status of a logits check of the reference engine, and what kept it from PASS."""
    for share in _BUDGETS:
        params = LogitsParams(
            model=spec, system="ring", device="cpu", prompts=_PROMPTS, max_prompt_tokens=16, decode_tokens=2,
            budget_fraction=share,
        )  # fmt: skip
        try:
            outcome = check_logits(params)
        except ParamsError as error:
            refused = str(error)
            continue
        return outcome.status.value, "" if outcome.status is Status.PASS else _shorten(_explain(outcome), folder)
    return "refused", _shorten(refused, folder)


def _explain(outcome: Outcome) -> str:
    if outcome.failure is not None:
        return f"{outcome.failure.type}: {outcome.failure.message}"
    row = next(row for row in outcome.criteria if row.required and row.status is outcome.status)
    return f"{row.name}: {row.reason}"


def _check_folder(config: Any, folder: Path) -> tuple[str, str]:
    """Save a trained model, hold what is opened against `from_pretrained`, and check it."""
    from transformers import AutoModelForCausalLM

    _save_trained(config, folder)
    ids = torch.arange(3, 19)[None]
    try:
        opened = open_model(str(folder), dtype=torch.float32, device=_CPU).resident(_CPU)
    except ModelError as error:
        return "refused", _shorten(str(error), folder)
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(ids).logits
        if not torch.equal(opened(ids).logits, theirs):
            return "FAIL", "the opened folder has other logits than from_pretrained"
    return _check(str(folder), folder)


def _save_trained(config: Any, folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    module: Any = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    stored = module.state_dict(keep_vars=True)
    with torch.no_grad():
        for value in {id(value): value for value in stored.values()}.values():
            if value.is_floating_point():
                value.add_(0.05 * torch.rand(value.shape).to(value.dtype))
    module.save_pretrained(folder)


@torch.no_grad()
def _cache_of(module: Any) -> str:
    return next(iter(carried_over(module(torch.arange(3, 9)[None], use_cache=True))), "none")


def _shorten(text: str, folder: Path) -> str:
    """Return a reason without the folder that only this run had."""
    for place in (f"random:{folder / 'config.json'}", str(folder)):
        text = text.replace(f"model {place!r}", "the model").replace(place, "the model")
    return " ".join(text.split())


def _first_words(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:117]}..." if len(text) > 120 else f"{type(error).__name__}: {text}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table of the families named, or of all. Exits with 1 if one is FAIL or ERROR."""
    parser = argparse.ArgumentParser(prog="python -m djinn_checks.checks.families", description=__doc__.splitlines()[0])
    parser.add_argument("family", nargs="*", help="model types of transformers (all)")
    names = parser.parse_args(arguments).family or families()
    print(HEADER, flush=True)
    bad = 0
    for row in try_families(names):
        print(row.line(), flush=True)
        bad += bool({row.random, row.folder} & {"FAIL", "ERROR"})
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
