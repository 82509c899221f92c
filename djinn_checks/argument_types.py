"""What an argument of the command line may be; argparse says the sentence, and exits with 2."""

from __future__ import annotations

import argparse

from djinn_checks.devices import DEVICE_NAMES, is_device_name

_LAST_PORT = 65_535


def port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= _LAST_PORT:
        raise argparse.ArgumentTypeError(f"expected a port, 0 to {_LAST_PORT}, got {text}")
    return value


def host(text: str) -> str:
    try:
        text.encode("idna")
    except UnicodeError:
        raise argparse.ArgumentTypeError(f"expected an address or the name of a host, got {text!r}") from None
    return text


def device(text: str) -> str:
    if not is_device_name(text):
        raise argparse.ArgumentTypeError(f"expected {DEVICE_NAMES}, got {text!r}")
    return text


def whole(text: str) -> int:
    value = int(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected a whole number, more than 0, got {text}")
    return value


def cluster_name(text: str) -> str:
    kind, scheme, address = text.partition("://")
    if kind != "ray" or bool(scheme) != bool(address) or (address and not _is_address(address)):
        raise argparse.ArgumentTypeError(f"expected ray, or ray://HOST:PORT, got {text!r}")
    return text


def _is_address(text: str) -> bool:
    """Tell whether a text is HOST:PORT, with a port that there is."""
    name, colon, number = text.rpartition(":")
    is_port = number.isascii() and number.isdecimal() and len(number) <= 5 and 0 < int(number) <= _LAST_PORT
    return bool(name and colon and is_port and not any(letter.isspace() or letter in "/@" for letter in name))


def count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a whole number, 0 or more, got {text}")
    return value


def positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return value


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected seconds, more than 0, got {text}")
    return value


def whole_seconds(text: str) -> int:
    value = int(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected whole seconds, more than 0, got {text}")
    return value
