"""A suite's folder described as a Workflow Run RO-Crate, so that archives can read what ran and what came of it.

Each executed notebook is a workflow, each run of one an action with its parameters and results. A crate has one
main workflow and a suite several equal ones: the first in the order of their names stands in that place. A verdict
is data: an action that ended with FAIL is completed, one that ended with ERROR has failed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from djinn_checks.outcome import Outcome, Status
from djinn_checks.report.tables import flatten

if TYPE_CHECKING:
    from rocrate.model import ContextEntity
    from rocrate.rocrate import ROCrate

FILE_NAME = "ro-crate-metadata.json"
_PROCESS = ("https://w3id.org/ro/wfrun/process/0.5", "Process Run Crate", "0.5")
_WORKFLOW = ("https://w3id.org/ro/wfrun/workflow/0.5", "Workflow Run Crate", "0.5")
_ROCRATE = ("https://w3id.org/workflowhub/workflow-ro-crate/1.0", "Workflow RO-Crate", "1.0")
_LICENSE = "The notebooks are licensed under Apache-2.0; the results belong to whoever ran them"
_FORMATS = {"html": "text/html", "json": "application/json", "ipynb": "application/x-ipynb+json", "log": "text/plain",
            "gz": "application/gzip", "csv": "text/csv", "yaml": "application/yaml"}  # fmt: skip
_UNDATED = "1970-01-01"


def describe_folder(
    title: str,
    outcomes: Mapping[str, Outcome],
    files: Mapping[str, Mapping[str, int]],
    unreadable: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return the crate's metadata as JSON text, the same for the same outcomes and files.

    Args:
        title: name of the suite.
        outcomes: by the name of the params file.
        files: the files that each left in the folder, by the same names: file name to bytes.
        unreadable: why an outcome that is there cannot be read, by the names of those. Their files are listed, and
            no action is: nothing is known of it.
    """
    from rocrate.rocrate import ROCrate  # slow to import, and only needed where a folder is written

    crate = ROCrate(gen_preview=False, version="1.1")
    crate.name = f"djinn-checks: {title}"
    told = [*(f"{name}: {outcome.status}" for name, outcome in outcomes.items()), *unreadable.values()]
    crate.description = "; ".join(told) or "no outcome"
    crate.license = _LICENSE
    dates = [outcome.started_at for outcome in outcomes.values() if outcome.started_at]
    crate.datePublished = max(dates, default=_UNDATED)
    crate.add_file(dest_path="index.html", properties=_about("index.html", "All verdicts of the suite"))
    with_notebook = [name for name in outcomes if f"{name}.ipynb" in files.get(name, {})]
    for name, outcome in outcomes.items():
        _add_run(crate, name, outcome, files.get(name, {}), main=with_notebook[:1] == [name])
    for name in unreadable:
        for file, size in files.get(name, {}).items():
            crate.add_file(dest_path=file, properties=_about(file, f"{file} of {name}, whose outcome is unknown", size))
    profiles = (_PROCESS, _WORKFLOW, _ROCRATE) if with_notebook else (_PROCESS,)
    crate.root_dataset["conformsTo"] = [_add_profile(crate, *profile) for profile in profiles]
    return json.dumps(crate.metadata.generate(), indent=1, sort_keys=True) + "\n"


def _add_run(crate: ROCrate, name: str, outcome: Outcome, files: Mapping[str, int], *, main: bool) -> None:
    """Add a run: its notebook as the instrument, its parameters as objects, all else that it left as results."""
    notebook = f"{name}.ipynb"
    if notebook in files:
        properties = _about(notebook, f"Executed notebook of {name}", files[notebook])
        instrument = crate.add_workflow(dest_path=notebook, main=main, lang=_language(crate), properties=properties)
    else:
        instrument = _add(crate, "#djinn-checks", "SoftwareApplication", name="djinn-checks")
    results = [
        crate.add_file(dest_path=file, properties=_about(file, f"{file} of {name}", size))
        for file, size in files.items()
        if file != notebook
    ]
    action = crate.add_action(
        instrument=instrument,
        identifier=f"#run-{quote(name)}",
        object=[_add_param(crate, name, *param) for param in flatten(outcome.params)],
        result=results,
        properties={"name": f"Run of {name}: {outcome.status}", "description": outcome.summary} | _times(outcome),
    )
    action["actionStatus"] = f"http://schema.org/{_action_status(outcome)}"
    if outcome.failure:
        action["error"] = f"{outcome.failure.type}: {outcome.failure.message}"


def _language(crate: ROCrate) -> ContextEntity:
    from rocrate.model import ComputerLanguage

    address = "https://jupyter.org/"
    facts = {"@type": "ComputerLanguage", "name": "Jupyter notebook", "url": address, "identifier": {"@id": address}}
    return crate.add(ComputerLanguage(crate, "#jupyter", properties=facts))


def _add_param(crate: ROCrate, name: str, param: str, value: Any) -> ContextEntity:
    text = "not given" if value is None else value if isinstance(value, bool | int | float | str) else json.dumps(value)
    return _add(crate, f"#param-{quote(f'{name}-{param}')}", "PropertyValue", name=param, value=text)


def _add_profile(crate: ROCrate, address: str, name: str, version: str) -> ContextEntity:
    return _add(crate, address, "CreativeWork", name=name, version=version)


def _add(crate: ROCrate, identifier: str, kind: str, **properties: Any) -> ContextEntity:
    from rocrate.model import ContextEntity

    return crate.add(ContextEntity(crate, identifier, properties={"@type": kind, **properties}))


def _about(file: str, name: str, size: int | None = None) -> dict[str, Any]:
    found = {"name": name, "encodingFormat": _FORMATS.get(file.rpartition(".")[2], "application/octet-stream")}
    return found if size is None else {**found, "contentSize": str(size)}


def _times(outcome: Outcome) -> dict[str, str]:
    """Return start and end; the end only where both the start and the time it took are known."""
    seconds = outcome.timings.get("run_s", outcome.timings.get("total_s"))
    if not outcome.started_at:
        return {}
    times = {"startTime": outcome.started_at}
    if isinstance(seconds, int | float):
        end = datetime.fromisoformat(outcome.started_at) + timedelta(seconds=seconds)
        times["endTime"] = end.isoformat(timespec="seconds")
    return times


def _action_status(outcome: Outcome) -> str:
    return "FailedActionStatus" if outcome.status is Status.ERROR else "CompletedActionStatus"
