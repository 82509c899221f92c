"""A bundle holds a suite whole, names neither host nor user, and is the same bytes wherever it is made."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from djinn_checks.bundle.appendix import Facts, write_appendix
from djinn_checks.bundle.archive import APPENDIX, bundle_folder
from djinn_checks.bundle.latex import escape, escape_code
from djinn_checks.bundle.names import Names
from djinn_checks.cli import main
from djinn_checks.errors import RunnerError
from djinn_checks.suite.folder import write_index
from djinn_checks.suite.manifest import MANIFEST, read_manifest
from djinn_checks.verify.finding import Kind
from djinn_checks.verify.folder import verify_folder
from tests.whole import whole

UUID = "GPU-5ca1ab1e-0000-4000-8000-c0ffee000001"
PLANTED = {
    "/home/jdoe": "home folder",
    "/scratch/proj42": "place of a site",
    UUID: "GPU's UUID",
    "02:42:ac:11:00:02": "MAC address",
    "1324521045678": "serial number",
    "10.20.30.40": "network address",
    "jdoe@cluster.example-site.edu": "e-mail address",
    "nodezero17": "name of a host or user",
    "Zaphod": "name that was given",
}
LOG = (
    "loaded /home/jdoe/models and /scratch/proj42/cache\nserial: 1324521045678\nconnected to 10.20.30.40:8080\n"
    "02:42:ac:11:00:02 mail jdoe@cluster.example-site.edu\nrun by zaphod\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "suite"
    clean = whole()
    environment = {**clean.environment, "hostname": "nodezero17", "cpu": {"model": f"with {UUID}"}}
    replace(clean, environment=environment).save(folder / "logits.outcome.json")
    (folder / "logits.log").write_text(LOG + "bye from NODEZERO17.\n")
    (folder / "logits.params.yaml").write_text("# of /home/jdoe/params\n")
    (folder / "logits.samples.csv.gz").write_bytes(gzip.compress(f"gpu,{UUID}\n".encode()))
    write_index(folder)
    return folder


def read(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as found:
        assert found.testzip() is None
        return {name.partition("/")[2]: found.read(name) for name in found.namelist()}


def test_each_planted_name_is_found_with_its_place_and_nothing_is_written(folder: Path, tmp_path: Path) -> None:
    made = bundle_folder(folder, tmp_path / "out.zip", scrub=False, words=["Zaphod"])
    kinds = {(named.text.lower(), named.kind) for named in made.named}
    assert {(text.lower(), kind) for text, kind in PLANTED.items()} <= kinds
    assert ("logits.log, line 2", "serial number") in {(named.place, named.kind) for named in made.named}
    assert any(named.place.startswith("logits.samples.csv.gz") for named in made.named)
    assert not (tmp_path / "out.zip").exists()


def test_a_scrubbed_bundle_names_nobody_agrees_with_itself_and_leaves_the_folder_alone(
    folder: Path, tmp_path: Path
) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    out = tmp_path / "out.zip"
    made = bundle_folder(folder, out, scrub=True, words=["Zaphod"], url="https://doi.org/10.5281/zenodo.0")
    assert made.named == ()
    assert made.stand_ins >= len(PLANTED)
    files = read(out)
    assert {"LICENSE", APPENDIX, MANIFEST, "ro-crate-metadata.json", "index.html", "logits.html"} <= files.keys()
    for name, content in files.items():
        text = (gzip.decompress(content) if name.endswith(".gz") else content).decode()
        pictures = b"".join(map(base64.b64decode, re.findall(r";base64,([A-Za-z0-9+/=]+)", text))).decode(
            "utf-8", "ignore"
        )
        for planted in (*PLANTED, "jdoe", "proj42", "cluster"):
            assert planted.lower() not in text.lower() + pictures.lower(), f"{planted} in {name}"
    with zipfile.ZipFile(out) as archive:
        archive.extractall(tmp_path / "unpacked")
    unpacked = tmp_path / "unpacked" / "suite"
    assert set(read_manifest(unpacked)) == files.keys() - {MANIFEST}
    assert [f for f in verify_folder(unpacked, pages=False) if f.kind in (Kind.DISAGREES, Kind.UNREADABLE)] == []
    there, packed = (json.loads(text) for text in (before["logits.outcome.json"], files["logits.outcome.json"]))
    assert {**packed, "environment": 0} == {**there, "environment": 0}
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize(
    "text",
    [
        "see https://example.org/home/page and ./data/x, tests/data/traces, a/work/b",
        "nvidia-curand==10.4.0.35 and <td>10.4.0.35</td>, at 12:30:45, user: root, http://127.0.0.1:8080",
        '{"host": "127.0.0.1", "user": "root", "numa": 0}',
        "GPU-00000000-0000-0000-0000-000000000001 in /opt/torch/.venv, /usr/lib, /proc/self, ~/models",
        "icon@2x.png, name-1@example.org, @media print, P@1",
    ],
)
def test_what_only_looks_like_a_name_is_left_alone(text: str) -> None:
    assert list(Names().find(text, "file")) == []


@pytest.mark.parametrize(
    "text",
    ["\\u002fhome\\u002fjdoe", "&#x2F;home&#x2F;jdoe", "%2Fhome%2Fjdoe", "file:///home/jdoe/x", "\\/home\\/jdoe"],
)
def test_a_name_that_is_escaped_is_found(text: str) -> None:
    assert [named.kind for named in Names().find(text, "file")] == ["home folder"]


def test_a_stand_in_is_the_same_wherever_the_name_stands() -> None:
    names = Names()
    first, second = names.replace(f"{UUID} and {UUID.replace('1', '2')}"), names.replace(f"again {UUID}")
    assert second == "again " + first.partition(" ")[0]
    assert list(names.find(first + second, "")) == []


def test_a_torn_suite_and_a_link_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "link").symlink_to("/etc/hostname")
    with pytest.raises(RunnerError, match="link is a link"):
        bundle_folder(folder, tmp_path / "out.zip", scrub=True)
    (folder / "logits.outcome.json").write_text("{")
    with pytest.raises(RunnerError, match="cannot be read"):
        bundle_folder(folder, tmp_path / "out.zip", scrub=True)


def test_the_command_says_what_it_found_and_what_it_wrote(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "logits.samples.csv.gz").unlink()
    assert main(["bundle", str(folder), "--out", str(tmp_path / "out.zip")]) == 1
    assert "logits.log, line 1: home folder: /home/jdoe" in capsys.readouterr().out


UNESCAPED = re.compile(r"(?<!\\)[&%#$_^~]")


@pytest.mark.parametrize(
    "text",
    [
        "a_b & 50 % of #1 {x} $y$ ~z ^ \\input{/etc/passwd} | < > \" ' `",
        "naïve µs × ≥ — 漢字 \x00 \u202e --flag -- ---",
    ],
)
def test_text_is_escaped_for_latex(text: str) -> None:
    escaped = escape(text)
    assert escaped.isascii()
    assert "\x00" not in escaped
    assert not UNESCAPED.search(escaped)
    assert "\\input" not in escaped
    assert "\\textbackslash{}input\\{" in escape("\\input{")
    assert "--flag" not in escaped
    bare = re.sub(r"\\[{}]", "", escaped)
    assert bare.count("{") == bare.count("}")


HEADINGS = (
    "Abstract", "Artifact check-list (meta-information)", "Description", "Installation", "Experiment workflow",
    "Evaluation and expected results", "Experiment customization", "Notes",
)  # fmt: skip


def test_the_appendix_has_every_heading_is_balanced_and_short_whatever_the_outcomes_say() -> None:
    nasty = replace(whole(), summary="100 % of a_b & \\end{document} #1 {" * 40)
    outcomes = {f"logits-{number}_x": nasty for number in range(40)}
    text = write_appendix(outcomes, Facts(title="a_b 50%", nbytes=10**7, licence="CC-BY-4.0"))
    assert [heading for heading in HEADINGS if f"\\subsection*{{{heading}}}" not in text] == []
    assert text.count("\\end{document}") == 1
    opened, closed = re.findall(r"\\begin\{(\w+)\}", text), re.findall(r"\\end\{(\w+)\}", text)
    assert sorted(opened) == sorted(closed)
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert len(re.sub(r"\\\w+|[{}]", "", text)) < 8_000  # two pages of two columns hold about 9,000 letters
    rows = re.findall(r"^\\run\{logits", text, re.MULTILINE)
    assert f"{40 - len(rows)} more stand in index.html" in text


def test_the_table_of_the_appendix_is_as_long_as_two_pages_hold_and_cuts_between_words() -> None:
    """A table of 130 lines, of 13 and 36 letters, is what pdflatex was seen to put on two pages with all else."""
    for name, summary in (("n" * 200, "x"), ("run", "word " * 60), ("run", "\u6f22" * 90), ("run", "y" * 300)):
        outcomes = {f"{name}-{number}": replace(whole(), summary=summary) for number in range(99)}
        text = write_appendix(outcomes, Facts(title="t" * 300, nbytes=1, licence="mine"))
        rows = re.findall(r"^\\run\{(?!Run)(.*)\}\{(.*)\}$", text, re.MULTILINE)
        shown = [[re.sub(r"\\[A-Za-z]+|[{}]", "", cell) for cell in row] for row in rows]
        lines = sum(max(-(-len(left) // 13), -(-len(right) // 36)) for left, right in shown)
        assert 5 <= len(rows) < 99
        assert lines <= 130
    assert "word\\ldots{}}" in write_appendix({"run": replace(whole(), summary="word " * 60)}, FACTS)
    assert "1 more" not in write_appendix({"run": whole()}, FACTS)


FACTS = Facts(title="a", nbytes=1, licence="mine")


def test_a_letter_stays_what_it_was_or_is_given_by_its_number() -> None:
    shown = {
        "\u00e9\u0141\u00df\u00f1": "\\'{e}\\L{}\\ss{}\\~{n}", "e\u0301": "\\'{e}", "\u00ee": "\\^{\\i}",
        "\u2260": "\\ensuremath{\\ne}", "\u22601": "\\ensuremath{\\ne}1", "\u226e": "[U+226E]",
        "10\u207b\u2078": "10\\textsuperscript{\\ensuremath{-}}\\textsuperscript{8}", "H\u2082": "H\\textsubscript{2}",
        "\u00bd": "\\textonehalf{}", "\u2153": "[U+2153]", "\u6f22": "[U+6F22]", "\ufb01": "fi",
        "twin's": "twin's", "a,,b''c": "a,{},b'{}'c", "---": "-{}-{}-", "?`": "?{}\\textasciigrave{}",
    }  # fmt: skip
    assert {text: escape(text) for text in shown} == shown
    assert escape_code("a --b 'c'") == "a -{}-b \\textquotesingle{}c\\textquotesingle{}"


@pytest.mark.parametrize("word", ["m" * 90, "my_pkg.module.sub:Class", "GPU/very-long/path_of@host.20261127T144131"])
def test_a_long_word_may_break_wherever_a_line_may_end(word: str) -> None:
    pieces = escape(word).split("\\allowbreak{}")
    assert max(map(len, pieces)) <= 14
    assert "".join(pieces) == escape_code(word)
    assert "allowbreak" not in escape("a short word, and more of them")


def test_a_bundle_is_the_same_bytes_whenever_it_is_made(tmp_path: Path) -> None:
    whole().save(tmp_path / "suite" / "logits.outcome.json")
    (tmp_path / "mine.txt").write_text("a licence of one's own")
    for name in ("one.zip", "two.zip"):
        made = bundle_folder(tmp_path / "suite", tmp_path / name, scrub=False, licence=tmp_path / "mine.txt")
        assert made.named == ()
        os.utime(tmp_path / "suite" / "logits.outcome.json", (10**9, 10**9))
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    assert read(tmp_path / "one.zip")["LICENSE"] == b"a licence of one's own"


def test_a_zip_within_the_folder_that_it_packs_and_a_licence_that_is_not_there_are_refused(tmp_path: Path) -> None:
    suite = tmp_path / "suite"
    whole().save(suite / "logits.outcome.json")
    (tmp_path / "link").symlink_to("suite")
    for out in (suite / "out.zip", suite / "deep" / "out.zip", tmp_path / "link" / "out.zip"):
        with pytest.raises(RunnerError, match="lies in the folder that is packed"):
            bundle_folder(suite, out, scrub=False)
    with pytest.raises(RunnerError, match="choose another with --licence"):
        bundle_folder(suite, tmp_path / "out.zip", scrub=False, licence=tmp_path / "none")
    assert sorted(file.name for file in suite.iterdir()) == ["logits.outcome.json"]
