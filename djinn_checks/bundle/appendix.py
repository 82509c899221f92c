"""An artifact appendix in LaTeX, filled from the outcomes of a folder.

Its headings are those of the appendix that artifact evaluation of ACM and IEEE conferences asks for: abstract, a
check-list of meta-information, how to access it, what it needs, installation, workflow, evaluation and expected
results, customization. What only the authors know, as an archive's identifier, is theirs to give.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from djinn_checks.bundle.latex import escape, escape_code
from djinn_checks.outcome import Outcome, Status, worst
from djinn_checks.units import format_bytes, format_seconds

_MOST_LINES = 130
"""Of the table: the second page and what the first one has left hold as many, and the sections after it."""
_LETTERS_OF_NAME, _LETTERS_OF_LINE = 13, 36
"""That fit into a line of either column of the table, at the least."""
_LONGEST, _LONGEST_NAME, _LONGEST_ITEM, _LONGEST_FACT = 150, 72, 240, 110
"""Letters of a sentence and of a name in the table, of an item of a list, and of each thing that it lists."""
_INSTALL = ("python -m venv .venv", ". .venv/bin/activate", "pip install .")
_AGAIN = (
    "mkdir params",
    "for f in *.params.yaml; do",
    '  cp "$f" "params/${f%.params.yaml}.yaml"',
    "done",
    "djinn-checks run params --out again",
    "djinn-checks compare . again",
)
_PACKAGES = ("torch", "transformers", "accelerate", "numpy", "djinn-checks", "djinn_checks")
_PREAMBLE = r"""\documentclass[10pt]{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{textcomp}
\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}
\usepackage[a4paper,margin=16mm]{geometry}
\usepackage{multicol}
\setlength{\columnsep}{7mm}
\setlength{\parindent}{0pt}
\setlength{\parskip}{2pt}
\setlength{\leftmargini}{1.2em}
\setlength{\emergencystretch}{2em}
\frenchspacing
\raggedbottom
\raggedcolumns
\pagestyle{plain}
\makeatletter
\renewcommand{\subsection}{\@startsection{subsection}{2}{0pt}{8pt plus 2pt}{2pt}{\raggedright\normalsize\bfseries}}
\makeatother
\newcommand{\run}[2]{\par\noindent
  \parbox[t]{0.29\linewidth}{\raggedright\strut #1\strut}\hfill
  \parbox[t]{0.68\linewidth}{\raggedright\strut #2\strut}\par}
\newcommand{\ruled}{\par\nobreak\vspace{1pt}\hrule\vspace{2pt}\nobreak}
\begin{document}
"""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What an appendix says beside the outcomes."""

    title: str
    nbytes: int
    """Of all files of the artifact."""
    licence: str
    """Its name, or the file that holds it."""
    url: str = ""
    """Where the archive is; empty if it has no place yet."""


def write_appendix(outcomes: Mapping[str, Outcome], facts: Facts) -> str:
    """Return the appendix as LaTeX that pdflatex reads without further files."""
    parts = (
        _PREAMBLE,
        "\\section*{\\raggedright Artifact appendix: " + escape(_shorten(facts.title, _LONGEST_NAME)) + "}\n",
        "\\begin{multicols}{2}\\small\n",
        _section("Abstract", escape(_abstract(outcomes))),
        _section("Artifact check-list (meta-information)", _list(_check_list(outcomes, facts))),
        _section("Description", _list(_describe(outcomes, facts))),
        _section("Installation", _code("In the source of djinn-checks:", _INSTALL)),
        _section("Experiment workflow", _workflow()),
        _section("Evaluation and expected results", _results(outcomes)),
        _section("Experiment customization", _mark_up(_CUSTOMIZATION)),
        _section("Notes", _mark_up(_NOTES)),
        "\\end{multicols}\n\\end{document}\n",
    )
    return "\n".join(parts)


_CUSTOMIZATION = (
    "Each run has a file of parameters beside its report, `<name>.params.yaml`, with the model, the budget of device "
    "memory and every threshold. A system of one's own is checked by its name in the parameter `system`."
)
_NOTES = (
    "Names of hosts and users were looked for, and are not in the artifact. A verdict is PASS, FAIL, INCONCLUSIVE "
    "(evidence was missing) or ERROR; only PASS is a claim that was shown. What `djinn-checks verify` could not derive "
    "again it lists as believed."
)


def _section(title: str, body: str) -> str:
    return f"\\subsection*{{{escape_code(title)}}}\n{body}\n"


def _mark_up(text: str) -> str:
    """Return text of our own, in which code stands between backticks."""
    parts = text.split("`")
    return "".join(f"\\texttt{{{escape_code(part)}}}" if at % 2 else escape(part) for at, part in enumerate(parts))


def _list(items: Iterable[tuple[str, str]]) -> str:
    lines = "\n".join(f"\\item \\textbf{{{escape(name)}:}} {escape(text)}" for name, text in items)
    return (
        "\\begin{itemize}\\raggedright\\setlength{\\itemsep}{0pt}\\setlength{\\parskip}{0pt}\n"
        f"{lines}\n\\end{{itemize}}"
    )


def _code(told: str, lines: Sequence[str]) -> str:
    """Return a sentence and what is typed, a line each, indented as they are."""
    typed = " \\\\\n".join("\\ " * (len(line) - len(line.lstrip())) + escape_code(line.lstrip()) for line in lines)
    style = "\\ttfamily\\footnotesize\\raggedright\\interlinepenalty=10000\\leftskip=1.2em"
    return f"{escape(told)}\\par\\nobreak\n{{{style}\n{typed}\\par}}\n"


def _shorten(text: str, most: int) -> str:
    """Return text of so many letters at most, cut between words where that leaves half of it."""
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    cut = text[: most - 1]
    words = cut.rpartition(" ")[0].rstrip(" ,;:")
    return (words if len(words) >= most // 2 else cut) + "\u2026"


def _abstract(outcomes: Mapping[str, Outcome]) -> str:
    checks = ", ".join(sorted({outcome.check for outcome in outcomes.values()}))
    counts = [f"{sum(one.status is status for one in outcomes.values())} {status}" for status in Status]
    told = ", ".join(count for count in counts if not count.startswith("0 "))
    return (
        f"The artifact holds {len(outcomes)} executed notebooks of djinn-checks ({checks}), each with its report, its "
        f"outcome as JSON and the samples that its verdict rests on: {told}. Every status can be derived again from "
        "the files, and every figure of the PCIe link from raw readings, by one command and without a GPU."
    )


def _check_list(outcomes: Mapping[str, Outcome], facts: Facts) -> list[tuple[str, str]]:
    seconds = sum(_seconds(outcome) for outcome in outcomes.values())
    longest = max((_seconds(outcome) for outcome in outcomes.values()), default=0.0)
    return [
        ("Program", "djinn-checks " + _first(outcomes, _version)),
        ("Model", _join(outcomes, lambda one: str(one.params.get("model") or ""))),
        ("Systems under check", _join(outcomes, lambda one: str(one.params.get("system") or ""))),
        ("Data set", "prompts that the package holds; none is fetched"),
        ("Run-time environment", _join(outcomes, _environment)),
        ("Hardware", _join(outcomes, _hardware)),
        ("Metrics", "logits bit for bit and in nats, bytes on the link, seconds a pass, bytes of a sleeping KV cache"),
        ("Output", "HTML reports, JSON outcomes, notebooks, CSV samples, RO-Crate metadata"),
        ("Experiments", f"{len(outcomes)} notebooks, one command"),
        ("How much disk space is required", f"{format_bytes(facts.nbytes)} for the artifact"),
        ("How much time is needed to prepare the workflow", "about 5 minutes, most of it for PyTorch"),
        ("How much time is needed to complete the experiments",
         f"{format_seconds(seconds)} in all as recorded, the longest {format_seconds(longest)}"),
        ("Publicly available", facts.url or "to be filled in by the authors when the archive has an identifier"),
        ("Code licenses", "Apache-2.0 (djinn-checks and its notebooks)"),
        ("Data licenses", facts.licence),
        ("Workflow automation framework used", "papermill, by djinn-checks run"),
    ]  # fmt: skip


def _describe(outcomes: Mapping[str, Outcome], facts: Facts) -> list[tuple[str, str]]:
    where = f"from {facts.url}" if facts.url else "from the archive that the authors name"
    return [
        ("How to access", f"Unpack the zip {where}, and open index.html in a browser. SHA256SUMS has a digest of every "
         "file, ro-crate-metadata.json describes them."),
        ("Hardware dependencies", f"To read and verify: none. To run again: {_join(outcomes, _hardware)}."),
        ("Software dependencies", f"Linux, Python 3.11 to 3.13. Recorded with {_join(outcomes, _packages)}."),
        ("Models", "Random weights of a shape, or those that a package of the index carries; see the parameters."),
    ]  # fmt: skip


def _workflow() -> str:
    verify = _code("To verify what is here, without a GPU:", ("sha256sum -c SHA256SUMS", "djinn-checks verify ."))
    return verify + _code("To run it again, and to hold both against each other:", _AGAIN)


def _results(outcomes: Mapping[str, Outcome]) -> str:
    if not outcomes:
        return escape("There is no outcome.")
    overall = worst(outcome.status for outcome in outcomes.values())
    names = sorted(outcomes, key=lambda name: (outcomes[name].check == "faults", name))
    rows: list[str] = []
    lines = 0
    for name in names:
        row, more = _row(name, outcomes[name])
        if lines + more > _MOST_LINES:
            break
        rows.append(row)
        lines += more
    left = f" {len(names) - len(rows)} more stand in index.html." if len(rows) < len(names) else ""
    told = (
        f"The worst verdict is {overall}. A second run gives the same verdicts; its rates are ratios to a ceiling of "
        f"the same run, and move by a few percent.{left}"
    )
    head = "\\ruled\\run{Run}{Verdict and figure}\\ruled\n"
    return escape(told) + "\n\n{\\footnotesize\\parskip=0pt\n" + head + "\n".join(rows) + "\n\\ruled}"


def _row(name: str, outcome: Outcome) -> tuple[str, int]:
    """Return a row of the table, and how many lines it takes at the most."""
    told, shown = escape(_shorten(outcome.summary, _LONGEST)), escape(_shorten(name, _LONGEST_NAME))
    told = f"\\textbf{{{escape(outcome.status)}}} {told}"
    lines = max(-(-_width(shown) // _LETTERS_OF_NAME), -(-_width(told) // _LETTERS_OF_LINE))
    return f"\\run{{{shown}}}{{{told}}}", lines


def _width(escaped: str) -> int:
    """Return how many letters LaTeX prints of a text, or a few more."""
    return len(re.sub(r"\\[A-Za-z]+", "x", escaped.replace("\\allowbreak{}", "")))


def _join(outcomes: Mapping[str, Outcome], tell: Any, most: int = 4) -> str:
    """Return what is told of the outcomes, each thing once."""
    told = (_shorten(tell(outcome), _LONGEST_FACT) for outcome in outcomes.values())
    found: Sequence[str] = list(dict.fromkeys(filter(None, told)))
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return _shorten("; ".join(found[:most]), _LONGEST_ITEM) + more or "not recorded"


def _first(outcomes: Mapping[str, Outcome], tell: Any) -> str:
    found = next(filter(None, (tell(outcome) for outcome in outcomes.values())), "of an unknown version")
    return _shorten(found, _LONGEST_FACT)


def _version(outcome: Outcome) -> str:
    installed = outcome.environment.get("installed")
    found = [one for one in installed if str(one).startswith("djinn-checks==")] if isinstance(installed, list) else []
    return str(found[0]).partition("==")[2] if found else ""


def _hardware(outcome: Outcome) -> str:
    gpu, cpu = outcome.environment.get("gpu"), outcome.environment.get("cpu")
    name = str(gpu.get("name") or "") if isinstance(gpu, Mapping) else ""
    driver = f", driver {gpu['driver']}" if isinstance(gpu, Mapping) and gpu.get("driver") else ""
    cores = f"{cpu.get('cores')} cores" if isinstance(cpu, Mapping) and cpu.get("cores") else ""
    return ", ".join(filter(None, (f"{name}{driver}" if name else "no GPU", cores)))


def _environment(outcome: Outcome) -> str:
    python, platform = (str(outcome.environment.get(name) or "") for name in ("python", "platform"))
    return ", ".join(filter(None, (platform, f"Python {python.split()[0]}" if python else "")))


def _packages(outcome: Outcome) -> str:
    packages = outcome.environment.get("packages")
    if not isinstance(packages, Mapping):
        return ""
    return ", ".join(f"{name} {packages[name]}" for name in _PACKAGES if isinstance(packages.get(name), str))


def _seconds(outcome: Outcome) -> float:
    seconds = outcome.timings.get("run_s", outcome.timings.get("total_s", 0.0))
    return float(seconds) if isinstance(seconds, int | float) else 0.0
