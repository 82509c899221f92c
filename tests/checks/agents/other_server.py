"""Servers of another make, over HTTP on this machine."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from djinn_checks.attention import reproducible_attention
from djinn_checks.models.open import open_model


@contextlib.contextmanager
def serve_completions(spec: str) -> Iterator[str]:
    """Serve completions of a model and nothing else: no sessions, nothing kept from one to the next."""
    device = torch.device("cpu")
    module: Any = open_model(spec, dtype=torch.float32, device=device).resident(device)
    one_at_a_time = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        do_DELETE = do_GET  # noqa: N815

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/completions":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            ids = list(asked["prompt"])
            for _ in range(asked["max_tokens"]):
                with one_at_a_time:
                    logprobs = next_logprobs(module, ids)
                best = int(logprobs.argmax())
                ids.append(best)
                said = {
                    "token_logprobs": [float(logprobs[best])],
                    "top_logprobs": [{f" {best}": float(logprobs[best])}],
                }
                choice = {"text": f" {best}", "token_ids": [best], "logprobs": said}
                self.wfile.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
            self.wfile.write(b"data: [DONE]\n\n")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with _listening(Handler) as address:
        yield address


LISTS = {"/v1/sessions": {"sessions": [{"id": "a", "state": "IDLE"}]}, "/slots": [{"id": 0}]}


@contextlib.contextmanager
def serve_lists() -> Iterator[str]:
    """Serve lists of sessions and of slots, and refuse whatever is to be done with them."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200, json.dumps(LISTS[self.path]))

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            self._answer(501, "start it with what it needs")

        def _answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with _listening(Handler) as address:
        yield address


@contextlib.contextmanager
def _listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        serving.join()


@torch.no_grad()
def next_logprobs(module: Any, ids: list[int]) -> torch.Tensor:
    with reproducible_attention():
        logits = module(input_ids=torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits
    return torch.log_softmax(logits[0, -1].double(), dim=-1)
