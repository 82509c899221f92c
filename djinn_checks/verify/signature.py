"""A folder's manifest signed with an ssh key, and the signature checked: by ssh-keygen, which holds all cryptography.

The signature lies beside the manifest as `SHA256SUMS.sig`. It is made for a namespace of its own, so that one made for
a commit or a mail is none of a folder. Whose signatures count is a file of the reader's, in the form of ssh's allowed
signers: a name, and that person's public key.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from djinn_checks.bounded import MOST_BYTES, read_bytes
from djinn_checks.errors import RunnerError
from djinn_checks.suite.manifest import MANIFEST, SIGNATURE, write_manifest
from djinn_checks.verify.finding import Finding, agrees, believed, disagrees, unreadable

NAMESPACE = "djinn-checks-folder"
_TOOL = "ssh-keygen"
_LONGEST_S = 60.0
_MISSING = f"{_TOOL} is not installed; it comes with OpenSSH 8.2 and newer (Debian: openssh-client)"


def sign_folder(folder: Path, key: Path) -> Path:
    """Write the digests of all files of a folder, sign them, and return where the signature is.

    Args:
        key: a private key of ssh's, or the public one of a key that an agent holds.

    Raises:
        RunnerError: the folder cannot be read or written, the tool is missing, or it does not sign.
    """
    if shutil.which(_TOOL) is None:
        raise RunnerError(_MISSING)
    if not key.is_file():
        raise RunnerError(f"{key}: there is no such key; make one with `ssh-keygen -t ed25519 -f {key}`")
    write_manifest(folder)
    target = folder / SIGNATURE
    target.unlink(missing_ok=True)  # the tool asks before it writes over one
    ended = _run(["-Y", "sign", "-f", str(key.resolve()), "-n", NAMESPACE, str((folder / MANIFEST).resolve())])
    if ended.returncode or not target.is_file():
        raise RunnerError(f"{key}: {_TOOL} does not sign with it ({_said(ended)})")
    return target


def verify_signature(folder: Path, signers: Path | None) -> Finding | None:
    """Return what is found of a folder's signature; None if there is none, and nobody asked for one.

    Args:
        signers: whose signatures count; None: nobody said, and the signature is only told.
    """
    if not (folder / SIGNATURE).exists():
        return None if signers is None else disagrees(SIGNATURE, "signature", "there is none")
    if signers is None:
        return believed(SIGNATURE, "signature", "nobody said whose signature counts; name a file with --signers")
    if shutil.which(_TOOL) is None:
        return unreadable(SIGNATURE, "signature", _MISSING)
    try:
        manifest, signature = (read_bytes(folder / name, MOST_BYTES) for name in (MANIFEST, SIGNATURE))
        read_bytes(signers)
    except OSError as error:
        return unreadable(SIGNATURE, "signature", f"{error.filename}: {error.strerror}")
    if not signature.startswith(b"-----BEGIN SSH SIGNATURE-----"):
        return unreadable(SIGNATURE, "signature", "it is no signature of ssh's")
    place = str((folder / SIGNATURE).resolve())
    whole = _run(["-Y", "check-novalidate", "-n", NAMESPACE, "-s", place], manifest)
    if whole.returncode:
        why = f"it is none of this {MANIFEST}, which was changed or signed for something else"
        return disagrees(SIGNATURE, "signature", f"{why} ({_said(whole)})")
    found = _run(["-Y", "find-principals", "-s", place, "-f", str(signers.resolve())])
    names = found.stdout.decode("utf-8", "replace").split("\n")[0].split(",")
    key = _said(whole).rpartition("with ")[2]
    if found.returncode or not names[0]:
        return disagrees(SIGNATURE, "signature", f"it is of a signer who is not in {signers}: {key}")
    checked = _run(
        ["-Y", "verify", "-f", str(signers.resolve()), "-I", names[0], "-n", NAMESPACE, "-s", place], manifest
    )
    if checked.returncode:
        return disagrees(SIGNATURE, "signature", f"it does not count as one of {names[0]} ({_said(checked)})")
    return agrees(SIGNATURE, "signature", f"by {names[0]}, {key}")


def _run(arguments: Sequence[str], given: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run the tool; without something given it may ask the terminal for a passphrase."""
    try:
        return subprocess.run([_TOOL, *arguments], input=given, capture_output=True, check=False, timeout=_LONGEST_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunnerError(f"{_TOOL}: could not be run to its end ({error})") from error


def _said(ended: subprocess.CompletedProcess[bytes]) -> str:
    lines = (ended.stdout + ended.stderr).decode("utf-8", "replace").strip().splitlines()
    return "; ".join(line.strip() for line in lines)[:300] or f"exit code {ended.returncode}"
