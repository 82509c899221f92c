"""Text as LaTeX shows it: in ASCII, with the letters that it was written with, and able to break where it is long.

A letter that has no name here is given by its number, `[U+2603]`. None is put in place of another one that looks
alike: what is short of a stroke, as `=` for `≠`, or of its place, as `10-9` for `10⁻⁹`, would say something else.
"""

from __future__ import annotations

import re
import unicodedata

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "'": "'", "`": r"\textasciigrave{}",
    "\u00b5": r"\textmu{}", "\u03bc": r"\textmu{}", "\u00d7": r"\texttimes{}", "\u00b1": r"\textpm{}",
    "\u00f7": r"\textdiv{}", "\u00b0": r"\textdegree{}", "\u00b7": r"\textperiodcentered{}", "\u2022": r"\textbullet{}",
    "\u2013": "--", "\u2014": "---", "\u2010": "-", "\u2011": "-", "\u2212": r"\ensuremath{-}",
    "\u2026": r"\ldots{}", "\u2018": "`", "\u2019": "'", "\u201c": "``", "\u201d": r"''{}",
    "\u00ab": r"\guillemotleft{}", "\u00bb": r"\guillemotright{}", "\u201e": r"\quotedblbase{}",
    "\u00a7": r"\S{}", "\u00b6": r"\P{}", "\u2020": r"\dag{}", "\u00a9": r"\textcopyright{}",
    "\u00ae": r"\textregistered{}", "\u2122": r"\texttrademark{}", "\u20ac": r"\texteuro{}", "\u00a3": r"\pounds{}",
    "\u00df": r"\ss{}", "\u00e6": r"\ae{}", "\u00c6": r"\AE{}", "\u0153": r"\oe{}", "\u0152": r"\OE{}",
    "\u00f8": r"\o{}", "\u00d8": r"\O{}", "\u0142": r"\l{}", "\u0141": r"\L{}", "\u0131": r"\i{}",
    "\u00f0": r"\dh{}", "\u00d0": r"\DH{}", "\u00fe": r"\th{}", "\u00de": r"\TH{}", "\u0111": r"\dj{}",
    "\u0110": r"\DJ{}", "\u00bc": r"\textonequarter{}", "\u00bd": r"\textonehalf{}",
    "\u00be": r"\textthreequarters{}",
}  # fmt: skip
_MATHS = {
    "\u2265": "ge", "\u2264": "le", "\u2260": "ne", "\u2248": "approx", "\u2261": "equiv", "\u226a": "ll",
    "\u226b": "gg", "\u221d": "propto", "\u221e": "infty", "\u221a": "surd", "\u2211": "sum", "\u220f": "prod",
    "\u2208": "in", "\u2209": "notin", "\u2227": "wedge", "\u2228": "vee", "\u2205": "emptyset", "\u2192": "to",
    "\u2190": "leftarrow", "\u2191": "uparrow", "\u2193": "downarrow", "\u2194": "leftrightarrow",
    "\u21d2": "Rightarrow", "\u2016": "Vert", "\u0394": "Delta", "\u03a3": "Sigma", "\u03a9": "Omega",
    "\u2126": "Omega", "\u03b1": "alpha", "\u03b2": "beta", "\u03b3": "gamma", "\u03b4": "delta",
    "\u03b5": "varepsilon", "\u03b7": "eta", "\u03b8": "theta", "\u03bb": "lambda", "\u03c0": "pi", "\u03c1": "rho",
    "\u03c3": "sigma", "\u03c4": "tau", "\u03c6": "varphi", "\u03c7": "chi", "\u03c8": "psi", "\u03c9": "omega",
}  # fmt: skip
_SPECIAL |= {letter: f"\\ensuremath{{\\{name}}}" for letter, name in _MATHS.items()}
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0323": "d", "\u0327": "c", "\u0328": "k",
}  # fmt: skip
_JOINED = re.compile(r"--|,,|''|\?`|!`|``")
"""What the font would make one letter of."""
_WORD = re.compile(r"\S+")
_LONG, _PIECE = 12, 12
_AFTER = "_-./@:=,+\\&"
"""Where a long word may break."""
_BREAK, _APART = "\0", "\1"


def escape(text: str) -> str:
    """Return text as LaTeX shows it, in ASCII. A word that is too long for a line may break after a mark in it."""
    clean = "".join(" " if letter.isspace() else letter for letter in unicodedata.normalize("NFC", text))
    clean = "".join(letter for letter in clean if not unicodedata.category(letter).startswith("C"))
    broken = _WORD.sub(lambda found: _break_up(found[0]), _set_apart(clean))
    escaped = "".join(_escape(letter) for letter in broken)
    escaped = re.sub(f"{_BREAK}+(?=( |$))", "", escaped)
    return re.sub(f"{_BREAK}+", r"\\allowbreak{}", escaped).replace(_APART, "{}")


def escape_code(text: str) -> str:
    """Return what somebody may type, with the straight quotes that a shell knows; lines are never broken."""
    escaped = "".join(_escape(letter) for letter in _set_apart(text))
    return escaped.replace("'", r"\textquotesingle{}").replace(_BREAK, "").replace(_APART, "{}")


def _set_apart(text: str) -> str:
    while (apart := _JOINED.sub(lambda found: _APART.join(found[0]), text)) != text:
        text = apart
    return text


def _break_up(word: str) -> str:
    if len(word) <= _LONG:
        return word
    pieces, length = [], 0
    for place, letter in enumerate(word):
        pieces.append(letter)
        length += 1
        left = len(word) - place - 1
        if left > 1 and ((letter in _AFTER and length > 1) or length >= _PIECE):
            pieces.append(_BREAK)
            length = 0
    return "".join(pieces)


def _escape(letter: str) -> str:
    if letter in _SPECIAL:
        return _SPECIAL[letter]
    if " " <= letter <= "~" or letter in (_BREAK, _APART):
        return letter
    return _accent(letter) or _raise(letter) or f"[U+{ord(letter):04X}]{_BREAK}"


def _accent(letter: str) -> str:
    """Return a Latin letter with its accents; nothing for any other."""
    apart = unicodedata.normalize("NFD", letter)
    base, marks = apart[0], apart[1:]
    if not (base.isascii() and base.isalpha() and all(mark in _ACCENTS for mark in marks)):
        return ""
    shown = f"\\{base}" if base in "ij" and "\u0323" not in marks else base
    for mark in marks:
        shown = f"\\{_ACCENTS[mark]}{{{shown}}}"
    return shown


def _raise(letter: str) -> str:
    """Return a digit or a sign that stands high or low; and letters that are one in print, as the ligature fi."""
    kind, _, rest = unicodedata.decomposition(letter).partition(" ")
    named = {"<super>": "textsuperscript", "<sub>": "textsubscript", "<compat>": "", "<wide>": "", "<font>": ""}
    if kind not in named or "0020" in rest:
        return ""
    plain = unicodedata.normalize("NFKC", letter)
    shown = "".join(_SPECIAL.get(one, one if " " <= one <= "~" else "\0") for one in plain)
    if "\0" in shown:
        return ""
    return f"\\{named[kind]}{{{shown}}}" if named[kind] else shown
