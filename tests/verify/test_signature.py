"""A signed folder is its signer's and nobody else's, and each forgery is said for what it is."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from djinn_checks.errors import RunnerError
from djinn_checks.suite.manifest import MANIFEST, SIGNATURE, write_manifest
from djinn_checks.verify.finding import Kind
from djinn_checks.verify.folder import verify_folder
from djinn_checks.verify.signature import sign_folder, verify_signature
from tests.whole import whole

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "suite"
    whole().save(folder / "logits.outcome.json")
    for name in ("author", "stranger"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(tmp_path / name)]
        subprocess.run(make, check=True)
    public = (tmp_path / "author.pub").read_text()
    (tmp_path / "signers").write_text(f"author@example.org {public}")
    sign_folder(folder, tmp_path / "author")
    return folder


def found(folder: Path) -> tuple[Kind, str]:
    finding = verify_signature(folder, folder.parent / "signers")
    assert finding is not None
    return finding.kind, finding.why


def test_a_folder_that_its_author_signed_is_said_to_be_so(folder: Path) -> None:
    kind, why = found(folder)
    assert kind is Kind.AGREES
    assert "author@example.org" in why
    assert "SHA256:" in why
    assert not [one for one in verify_folder(folder, pages=False) if one.kind is Kind.DISAGREES]
    told = verify_signature(folder, None)
    assert told is not None
    assert told.kind is Kind.BELIEVED


def resign_as_stranger(folder: Path) -> None:
    sign_folder(folder, folder.parent / "stranger")


def change_manifest(folder: Path) -> None:
    (folder / "added.txt").write_text("added")
    write_manifest(folder)


def sign_for_something_else(folder: Path) -> None:
    (folder / SIGNATURE).unlink()
    sign = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(folder.parent / "author"), "-n", "git", str(folder / MANIFEST)]
    subprocess.run(sign, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("forge", "kind", "said"),
    [
        (resign_as_stranger, Kind.DISAGREES, "a signer who is not in"),
        (change_manifest, Kind.DISAGREES, "was changed or signed for something else"),
        (sign_for_something_else, Kind.DISAGREES, "was changed or signed for something else"),
        (lambda folder: (folder / SIGNATURE).unlink(), Kind.DISAGREES, "there is none"),
        (lambda folder: (folder / SIGNATURE).write_text("mine\n"), Kind.UNREADABLE, "no signature of ssh's"),
    ],
    ids=["another signer", "changed manifest", "another namespace", "removed", "rubbish"],
)
def test_each_forgery_is_said(folder: Path, forge: Callable[[Path], None], kind: Kind, said: str) -> None:
    forge(folder)
    assert found(folder)[0] is kind
    assert said in found(folder)[1]


def test_in_a_signed_folder_a_file_that_nobody_lists_disagrees(folder: Path) -> None:
    (folder / "notes.txt").write_text("added")
    assert [one.file for one in verify_folder(folder, pages=False) if one.kind is Kind.DISAGREES] == ["notes.txt"]


def test_without_the_tool_a_sentence_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RunnerError, match="ssh-keygen is not installed"):
        sign_folder(folder, folder.parent / "author")
    assert found(folder)[0] is Kind.UNREADABLE


def test_a_key_that_is_none_is_refused(folder: Path) -> None:
    with pytest.raises(RunnerError, match="there is no such key"):
        sign_folder(folder, folder / "absent")
    (folder.parent / "rubbish").write_text("no key\n")
    with pytest.raises(RunnerError, match="does not sign with it"):
        sign_folder(folder, folder.parent / "rubbish")
