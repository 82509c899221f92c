"""The server's own metrics, in Prometheus' format. Evidence beside what a check measures, never in its place."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from djinn_checks.engine.kv_mover import Moved
from djinn_checks.engine.kv_store import KvStore
from djinn_checks.engine.observer import Observer
from djinn_checks.engine.scheduler import Scheduler
from djinn_checks.engine.session import Session, State
from djinn_checks.engine.turn import TurnEnd

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Metrics(Observer):
    """Counts what the engine reports. The names all begin with `djinn_checks_`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._swaps = self._counter("kv_swaps", "Sessions whose KV left the device")
        self._restores = self._counter("kv_restores", "Sessions whose KV came back")
        self._swapped_bytes = self._counter("kv_swapped_bytes", "Bytes of KV that left the device")
        self._restored_bytes = self._counter("kv_restored_bytes", "Bytes of KV that came back")
        self._lost = self._counter("kv_digest_mismatches", "Sessions whose KV came back changed")
        self._prefilled = self._counter("prompt_tokens_prefilled", "Prompt tokens that were computed")
        self._reused = self._counter("prompt_tokens_reused", "Prompt tokens whose KV was still there")
        self._turns = self._counter("turns", "Requests that ended")
        self._swap_s = self._histogram("kv_swap_seconds", "Time of a swap-out, digest included")
        self._restore_s = self._histogram("kv_restore_seconds", "Time of a restore, memory and digest included")
        self._digest_s = self._histogram("kv_digest_seconds", "Time of a move that its digest took beyond its copies")
        self._queue_s = self._histogram("turn_queue_seconds", "Time that a request waited, restore excepted")
        self._first_s = self._histogram("turn_first_token_seconds", "Time from a turn's start to its first token")
        self._sessions = Gauge(
            "djinn_checks_sessions", "Open sessions by state", labelnames=("state",), registry=self.registry
        )
        self._device = self._gauge("kv_device_bytes", "KV on the device, bytes taken")
        self._device_limit = self._gauge("kv_device_limit_bytes", "Most KV on the device")
        self._host = self._gauge("kv_host_bytes", "Sleeping KV in the host pool")
        self._host_limit = self._gauge("kv_host_limit_bytes", "Size of the host pool")

    def text(self) -> bytes:
        """Return all metrics in the text format."""
        return generate_latest(self.registry)

    def swapped(self, session: Session, moved: Moved) -> None:
        self._swaps.inc()
        self._swapped_bytes.inc(moved.nbytes)
        self._swap_s.observe(moved.total_s)
        self._digest_s.observe(moved.digest_s)

    def restored(self, session: Session, moved: Moved, allocate_s: float) -> None:
        self._restores.inc()
        self._restored_bytes.inc(moved.nbytes)
        self._restore_s.observe(allocate_s + moved.total_s)
        self._digest_s.observe(moved.digest_s)

    def lost(self, session: Session) -> None:
        self._lost.inc()

    def turn_ended(self, end: TurnEnd) -> None:
        self._turns.inc()
        self._prefilled.inc(end.prefilled_tokens)
        self._reused.inc(end.reused_tokens)
        self._queue_s.observe(end.queue_s)
        self._first_s.observe(end.first_token_s)

    def look(self, scheduler: Scheduler, store: KvStore) -> None:
        counts = dict.fromkeys(State, 0)
        for session in scheduler.sessions.values():
            counts[session.state] += 1
        for state, count in counts.items():
            self._sessions.labels(state=str(state)).set(count)
        self._device.set(store.memory.taken_bytes)
        self._device_limit.set(store.memory.limit_bytes)
        self._host.set(store.pool.used_bytes)
        self._host_limit.set(store.pool.limit_bytes)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"djinn_checks_{name}", text, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"djinn_checks_{name}", text, registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"djinn_checks_{name}", text, buckets=_SECONDS, registry=self.registry)
