"""What tells where and by whom something was run, found in a text and replaced by stand-ins.

Looked for are the shapes that such things have (home folders and places of a site, a GPU's UUID, a serial number, a
MAC address, an address of the network, an e-mail address, a shell's prompt, a host or user that a JSON field names),
the names of the machine that the bundle is made on, and words that its maker gives. A name that is no such thing, as
of a person in a comment, is found only if it is given.
"""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from urllib.parse import unquote

_SITES = ("/scratch/", "/mnt/", "/data/", "/work/", "/lustre/", "/gpfs/", "/nfs/", "/srv/", "/media/", "/export/",
          "/projects/", "/net/")  # fmt: skip
_END = r"[^/\s\"'<>:;,)\\&]+"
_PATTERNS: tuple[tuple[str, tuple[str, ...], re.Pattern[str]], ...] = (
    ("home folder", ("/home/", "/Users/"), re.compile(rf"(?<![\w.~-])/(?:home|Users)/{_END}")),
    ("home folder", ("/root",), re.compile(r"(?<![\w.~/-])/root(?![\w.-])")),
    ("place of a site", _SITES, re.compile(rf"(?<![\w.~<-])(?:{'|'.join(_SITES)}){_END}")),
    (
        "GPU's UUID",
        ("GPU-", "MIG-"),
        re.compile(r"\b(?:GPU|MIG)-(?!0{8}-)[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"),
    ),
    (
        "MAC address",
        (":",),
        re.compile(r"(?<![0-9A-Fa-f:])(?!00:00:00)(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}(?![0-9A-Fa-f:])"),
    ),
    (
        "serial number",
        ("serial", "Serial", "SERIAL"),
        re.compile(r"(?:serial|Serial|SERIAL)(?:[_ ](?:number|Number))?[\"' :=]{1,8}(?!number-)(\w{6,32})\b"),
    ),
    ("network address", ("//",), re.compile(r"(?<=//)(?!127\.|0\.0\.0\.0)\d{1,3}(?:\.\d{1,3}){3}(?!\d)")),
    ("network address", (":",), re.compile(r"(?<![\d.])(?:10|172|192)(?:\.\d{1,3}){3}(?=:\d{2,5}\b)")),
    ("network address", ("ip-",), re.compile(r"\bip-\d{1,3}(?:-\d{1,3}){3}\b")),
    (
        "e-mail address",
        ("@",),
        re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?!example\.|[\w.-]*\.invalid\b|\dx\.)[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}\b"),
    ),
    ("shell prompt", ("@",), re.compile(r"(?<![\w.+-])[a-z_][\w-]{0,31}@[\w.-]{1,64}(?=:[~/])")),
)
"""What it is called, texts of which one stands wherever it does, and its shape; of a group, the group."""
_FIELD = re.compile(
    r"\"(?:hostname|host_name|host|node_name|nodename|fqdn|user|username|user_name|login)\\?\"\s*:\s*\\?\"([^\"\\]{2,64})"
)
_NOBODY = {
    "localhost", "127.0.0.1", "0.0.0.0", "root", "user", "admin", "ubuntu", "nobody", "host", "cpu", "cuda", "none",
    "unknown", "runner", "docker", "debian", "a host", "stand-in",
}  # fmt: skip
"""What a field or a machine may call a host or a user without naming one."""
_SHORTEST = 3
"""Of a name: shorter ones are parts of words."""
_KINDS_OF_STAND_IN = {
    "home folder": "~",
    "place of a site": "/place-{}",
    "GPU's UUID": "GPU-00000000-0000-0000-0000-{:012d}",
    "MAC address": "00:00:00:00:00:{:02x}",
    "serial number": "number-{}",
    "network address": "address-{}",
    "e-mail address": "name-{}@example.org",
    "shell prompt": "name-{}",
    "name of a host or user": "name-{}",
    "name that was given": "name-{}",
}


@dataclass(frozen=True, kw_only=True)
class Named:
    """Something that tells where or by whom it was run."""

    kind: str
    text: str
    place: str
    """The file, and the line."""


@dataclass(kw_only=True)
class Names:
    """What is looked for, and the stand-ins for what was found."""

    given: tuple[str, ...] = ()
    """Words of the bundle's maker."""
    machine: tuple[str, ...] = ()
    """Names of this machine and its user."""
    told: set[str] = field(default_factory=set)
    """Hosts and users that fields of the folder's own files name."""
    stand_ins: dict[str, str] = field(default_factory=dict)

    def learn(self, text: str) -> None:
        """Take the hosts and users that fields of a text name."""
        for variant in _variants(text):
            self.told |= {name for name in _FIELD.findall(variant) if _is_name(name)}

    def find(self, text: str, file: str) -> Iterator[Named]:
        """Return what a text names, each thing once a line, also where it is escaped as HTML, JSON or in an address."""
        seen: set[tuple[str, int]] = set()
        for variant in _variants(text):
            for kind, found, at in self._find(variant):
                line = variant.count("\n", 0, at) + 1
                if (found, line) not in seen:
                    seen.add((found, line))
                    yield Named(kind=kind, text=found, place=f"{file}, line {line}")

    def replace(self, text: str) -> str:
        """Return a text with stand-ins, the same one for the same thing wherever it stands."""
        for found in self.find(text, ""):
            if found.text not in self.stand_ins:
                number = len(self.stand_ins) + 1
                self.stand_ins[found.text] = _KINDS_OF_STAND_IN[found.kind].format(number)
        for name in sorted(self.stand_ins, key=len, reverse=True):
            text = text.replace(name, self.stand_ins[name])
        return text

    def _find(self, text: str) -> Iterator[tuple[str, str, int]]:
        for kind, marks, pattern in _PATTERNS:
            if any(mark in text for mark in marks):  # a hundred times as fast as the shape itself
                for match in pattern.finditer(text):
                    yield kind, match[match.lastindex or 0], match.start(match.lastindex or 0)
        words = [("name that was given", name) for name in self.given]
        words += [("name of a host or user", name) for name in {*self.machine, *self.told}]
        folded = text.lower()
        for kind, name in words:
            if name.lower() not in folded:
                continue
            whole = re.compile(rf"(?i)(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])")
            yield from ((kind, match[0], match.start()) for match in whole.finditer(text))


def look_around() -> tuple[str, ...]:
    """Return the names of this machine, of its user and of the user's home folder."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = ""
    host = socket.gethostname()
    home = str(Path.home())
    found = {host, host.partition(".")[0], user, *([home] if home.count("/") > 1 else [])}
    return tuple(sorted(name for name in found if _is_name(name)))


def list_words(names: Iterable[str]) -> tuple[str, ...]:
    """Return the words that a bundle's maker gave, without those that are empty."""
    return tuple(name for name in names if name.strip())


def _is_name(name: str) -> bool:
    return len(name) >= _SHORTEST and name.lower() not in _NOBODY and not name.isdigit()


def _variants(text: str) -> Iterator[str]:
    """Return a text as it is, and with what is escaped in it as HTML, JSON or in an address read."""
    yield text
    if "\\u" in text or "\\/" in text:
        yield re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text).replace("\\/", "/")
    if "&" in text:
        yield unescape(text)
    if "%" in text:
        yield unquote(text)
