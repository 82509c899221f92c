"""The arguments of `djinn-checks serve`. Needs no torch: the command line reads them before it knows what is asked."""

from __future__ import annotations

import argparse
from pathlib import Path

from djinn_checks.argument_types import device, host, port, positive, whole
from djinn_checks.devices import DEVICE_NAMES, DTYPE_NAMES
from djinn_checks.server.options import ServeOptions


def add_serve_arguments(serve: argparse.ArgumentParser) -> None:
    """Add every option of `ServeOptions`, with its default."""
    default = ServeOptions()
    serve.add_argument("--model", help="smollm2, random:<shape>, a hub id or a folder")
    serve.add_argument("--host", type=host, help=f"address to listen at ({default.host}: this machine only)")
    serve.add_argument(
        "--allow-host", dest="allow_hosts", type=host, action="append", metavar="NAME", help="another name of it, if a "
        "proxy on this machine passes on the name that was asked for (repeatable)"
    )  # fmt: skip
    serve.add_argument("--port", type=port, help="0: a free one (%(default)s)")
    serve.add_argument("--device", type=device, help=DEVICE_NAMES)
    serve.add_argument("--dtype", choices=DTYPE_NAMES, help="float16, on a CPU float32")
    serve.add_argument("--kv-device-gb", type=positive, metavar="GB", help="most KV on the device (%(default)g)")
    serve.add_argument("--host-swap-pool-gb", type=positive, metavar="GB", help="most KV asleep (%(default)g)")
    serve.add_argument("--spill-folder", type=Path, help="for sleeping KV that does not fit the pool")
    serve.add_argument("--idle-s", type=positive, metavar="S", help="sleep after so much idleness (%(default)g)")
    serve.add_argument("--ttl-s", type=positive, metavar="S", help="close unused sessions (%(default)g)")
    serve.add_argument("--session-tokens", type=whole, metavar="N", help="most tokens of a session (%(default)s)")
    serve.add_argument("--max-sessions", type=whole, metavar="N", help="most open sessions (%(default)s)")
    serve.add_argument("--seed", type=int, help="of random weights (%(default)s)")
    serve.add_argument(
        "--no-recording",
        dest="recording",
        action="store_false",
        help="decode without CUDA graphs, by the module itself",
    )
    serve.set_defaults(**vars(default))
