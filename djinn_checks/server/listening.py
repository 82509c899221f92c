"""Where a server listens. Known in an instant, and so before what takes seconds to import or to load."""

from __future__ import annotations

import errno
import ipaddress
import socket

from djinn_checks.errors import ParamsError
from djinn_checks.server.options import ServeOptions


def is_loopback(host: str) -> bool:
    """Tell whether a name or an address is this machine's own, by itself and without asking anybody."""
    name = host.strip("[]").rstrip(".").lower()
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def listen(options: ServeOptions) -> socket.socket:
    """Return a socket that is bound to the address.

    Raises:
        ParamsError: it cannot be listened at.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        _see_loopback(options.host)
        listening.bind((options.host, options.port))
    except OSError as error:
        listening.close()
        remedy = "choose another, or --port 0 for a free one"
        if error.errno in (errno.ENETUNREACH, errno.EADDRNOTAVAIL) and is_loopback(options.host):
            remedy = "this machine, or this container, has no loopback interface that is up: `ip link set lo up`"
        raise ParamsError(
            f"--host {options.host} --port {options.port}: cannot be listened at ({error.strerror}); {remedy}"
        ) from error
    return listening


def _see_loopback(host: str) -> None:
    """See that who asks over loopback can be heard: one may listen at an interface that is down. Nothing is sent."""
    if is_loopback(host):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.connect((host, 1))
