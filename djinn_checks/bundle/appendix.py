"""An artifact appendix in LaTeX, filled from the outcomes of a folder.

Its headings are those of the appendix that artifact evaluation of ACM and IEEE conferences asks for: abstract, a
check-list of meta-information, how to access it, what it needs, installation, workflow, evaluation and expected
results, customization. What only the authors know, as an archive's identifier, is theirs to give.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from djinn_checks.outcome import Outcome, Status, worst
from djinn_checks.units import format_bytes, format_seconds

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}",
    "\u00b5": r"\textmu{}", "\u03bc": r"\textmu{}", "\u00d7": r"\texttimes{}", "\u00b1": r"\textpm{}",
    "\u2013": "--", "\u2014": "---", "\u2026": r"\ldots{}", "\u00b0": r"\textdegree{}", "\u2192": r"\ensuremath{\to}",
    "\u2265": r"\ensuremath{\ge}", "\u2264": r"\ensuremath{\le}",
    "\u2018": "`", "\u2019": "'", "\u201c": "``", "\u201d": "''",
    "\0": "\0",
}  # fmt: skip
_MOST_ROWS = 12
_LONGEST = 150
"""Of a sentence in the table, which two pages hold twelve of."""
_INSTALL = ("python -m venv .venv", ". .venv/bin/activate", "pip install .")
_PACKAGES = ("torch", "transformers", "accelerate", "numpy", "djinn-checks", "djinn_checks")
_PREAMBLE = r"""\documentclass[10pt,twocolumn]{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{textcomp}
\usepackage[a4paper,margin=18mm,columnsep=7mm]{geometry}
\usepackage{array}
\setlength{\parindent}{0pt}
\setlength{\parskip}{2pt}
\sloppy
\pagestyle{plain}
\begin{document}
\small
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
        r"\section*{Artifact appendix: " + escape(facts.title) + "}\n",
        _section("Abstract", escape(_abstract(outcomes))),
        _section("Artifact check-list (meta-information)", _list(_check_list(outcomes, facts))),
        _section("Description", _list(_describe(outcomes, facts))),
        _section("Installation", escape("In the source of djinn-checks:") + _code(*_INSTALL)),
        _section("Experiment workflow", _workflow(outcomes)),
        _section("Evaluation and expected results", _results(outcomes)),
        _section("Experiment customization", escape(_CUSTOMIZATION)),
        _section("Notes", escape(_NOTES)),
        "\\end{document}\n",
    )
    return "\n".join(parts)


_CUSTOMIZATION = (
    "Each run has a file of parameters beside its report, <name>.params.yaml, with the model, the budget of device "
    "memory and every threshold. A system of one's own is checked by its name in the parameter `system`."
)
_NOTES = (
    "Names of hosts and users were looked for, and are not in the artifact. A verdict is PASS, FAIL, INCONCLUSIVE "
    "(evidence was missing) or ERROR; only PASS is a claim that was shown. What `djinn-checks verify` could not derive "
    "again it lists as believed."
)


def escape(text: str) -> str:
    """Return text as LaTeX shows it, in ASCII: accents are dropped, and what has no such letter is given by number."""
    escaped = "".join(_escape(letter) for letter in unicodedata.normalize("NFC", text).replace("--", "-\0-"))
    return escaped.replace("\0", "{}")


def _escape(letter: str) -> str:
    if letter in _SPECIAL:
        return _SPECIAL[letter]  # a mark between two hyphens, which LaTeX would join, stays for the end
    if " " <= letter <= "~":
        return letter
    if letter.isspace():
        return " "
    plain = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode("ascii")
    if plain and plain != letter:
        return "".join(_SPECIAL.get(one, one) for one in plain if " " <= one <= "~")
    return "" if unicodedata.category(letter).startswith("C") else f"[U+{ord(letter):04X}]"


def _section(title: str, body: str) -> str:
    return f"\\subsection*{{{escape(title)}}}\n{body}\n"


def _list(items: Iterable[tuple[str, str]]) -> str:
    lines = "\n".join(f"\\item \\textbf{{{escape(name)}:}} {escape(text)}" for name, text in items)
    return "\\begin{itemize}\\setlength{\\itemsep}{0pt}\\setlength{\\parskip}{0pt}\n" + lines + "\n\\end{itemize}"


def _code(*lines: str) -> str:
    return "\\begin{quote}\\ttfamily\\raggedright\n" + " \\\\\n".join(map(escape, lines)) + "\n\\end{quote}"


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


def _workflow(outcomes: Mapping[str, Outcome]) -> str:
    text = "To verify what is here, without a GPU; to run it again, put the files of parameters into a folder:"
    lines = ["sha256sum -c SHA256SUMS", "djinn-checks verify .", "mkdir params"]
    lines += [f"cp {name}.params.yaml params/{name}.yaml" for name in sorted(outcomes)][:3]
    more = [escape("and so on for the others.")] if len(outcomes) > 3 else []
    return (
        escape(text)
        + _code(*lines, "djinn-checks run params --out again", "djinn-checks compare . again")
        + " ".join(more)
    )


def _results(outcomes: Mapping[str, Outcome]) -> str:
    if not outcomes:
        return escape("There is no outcome.")
    overall = worst(outcome.status for outcome in outcomes.values())
    names = sorted(outcomes, key=lambda name: (outcomes[name].check == "faults", name))
    rows = [_row(name, outcomes[name]) for name in names[:_MOST_ROWS]]
    left = " The others stand in index.html." if len(names) > _MOST_ROWS else ""
    head = "\\begin{tabular}{@{}>{\\raggedright\\arraybackslash}p{0.27\\linewidth}>{\\raggedright\\arraybackslash}"
    head += "p{0.70\\linewidth}@{}}\n\\hline\nRun & Verdict and figure \\\\\n\\hline\n"
    told = (
        f"The worst verdict is {overall}. A second run gives the same verdicts; its rates are ratios to a ceiling of "
    )
    told += f"the same run, and move by a few percent.{left}"
    body = "\n".join(rows)
    return escape(told) + "\n\n{\\footnotesize\n" + head + body + "\n\\hline\n\\end{tabular}}"


def _row(name: str, outcome: Outcome) -> str:
    told = outcome.summary if len(outcome.summary) <= _LONGEST else f"{outcome.summary[: _LONGEST - 3]}..."
    return f"{escape(name)} & \\textbf{{{escape(outcome.status)}}} {escape(told)} \\\\"


def _join(outcomes: Mapping[str, Outcome], tell: Any, most: int = 4) -> str:
    """Return what is told of the outcomes, each thing once."""
    found: Sequence[str] = list(dict.fromkeys(filter(None, (tell(outcome) for outcome in outcomes.values()))))
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return "; ".join(found[:most]) + more or "not recorded"


def _first(outcomes: Mapping[str, Outcome], tell: Any) -> str:
    return next(filter(None, (tell(outcome) for outcome in outcomes.values())), "of an unknown version")


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
