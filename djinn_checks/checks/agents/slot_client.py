"""Speaks with llama-server about its slots: each session has one, which is saved to a file and restored from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from djinn_checks.checks.agents.client import LOGPROBS, AgentClient
from djinn_checks.checks.agents.reply import Reply, SessionRecord
from djinn_checks.checks.agents.streams import read_llama
from djinn_checks.errors import InstrumentError, NoRouteError, WrongAdapterError


class SlotClient(AgentClient):
    """llama-server, started with a folder for slots (--slot-save-path). Each session has a slot of its own."""

    has_sessions = True
    own_route = "/slots"

    def __init__(self, address: str, **options: Any) -> None:
        super().__init__(address, **options)
        self._slots: dict[str, int] = {}
        self._records: dict[str, SessionRecord] = {}

    async def turn(self, session: str, prompt: Sequence[int], max_tokens: int, *, logprobs: bool = True) -> Reply:
        body = {
            "prompt": list(prompt),
            "n_predict": max_tokens,
            "temperature": 0,
            "n_probs": LOGPROBS if logprobs else 0,
            "cache_prompt": True,
            "id_slot": await self._slot(session),
            "return_tokens": True,
            "stream": True,
        }
        return await self._reply("/completion", body, read_llama)

    async def sleep(self, session: str) -> None:
        path, name = f"/slots/{await self._slot(session)}", f"{session}.bin"
        try:
            saved = await self._call("POST", f"{path}?action=save", {"filename": name})
        except NoRouteError as error:
            raise self._wrong_adapter(f"POST {path}?action=save", error) from error
        written, seconds = self._read_moved(saved, "n_written", "save_ms")
        if not written:
            raise WrongAdapterError(
                f"{self.address}{path}?action=save: expected a session's KV in a file, got n_written 0; is the folder "
                "that it was started with (--slot-save-path) there, and may it write to it?"
            )
        await self._request("POST", f"{path}?action=erase")
        before = self._records[session]
        self._records[session] = SessionRecord(
            swaps=(before.swaps or 0) + 1,
            restores=before.restores,
            swapped_bytes=(before.swapped_bytes or 0) + written,
            restored_bytes=before.restored_bytes,
            swap_s=seconds,
            kept_bytes=written,
        )

    async def wake(self, session: str) -> None:
        path = f"/slots/{await self._slot(session)}?action=restore"
        restored = await self._call("POST", path, {"filename": f"{session}.bin"})
        before, (read, seconds) = self._records[session], self._read_moved(restored, "n_read", "restore_ms")
        self._records[session] = replace(
            before,
            restores=(before.restores or 0) + 1,
            restored_bytes=(before.restored_bytes or 0) + read,
            restore_s=seconds,
        )

    async def close(self, session: str) -> None:
        slot = self._slots.pop(session, None)
        if slot is not None:
            await self._request("POST", f"/slots/{slot}?action=erase")

    async def record(self, session: str) -> SessionRecord | None:
        return self._records.get(session)

    async def _slot(self, session: str) -> int:
        if session not in self._slots:
            known = self._read_slots(await self._call("GET", "/slots"))
            free = sorted(known - set(self._slots.values()))
            if not free:
                raise InstrumentError(
                    f"{self.address}: all {len(known)} slots are taken; start it with more (--parallel), or check "
                    "fewer agents"
                )
            self._slots[session] = free[0]
            self._records[session] = SessionRecord(swaps=0, restores=0)
        return self._slots[session]

    def _read_slots(self, said: Any) -> set[int]:
        try:
            return {int(slot["id"]) for slot in said}
        except (KeyError, TypeError, ValueError) as error:
            raise self._odd("/slots", "a list of slots, each with its id", said) from error

    def _read_moved(self, said: Any, nbytes: str, ms: str) -> tuple[int, float | None]:
        """Return the bytes that were written or read, and the seconds that it took, if they are said."""
        try:
            took_ms = (said.get("timings") or {}).get(ms)
            return int(said[nbytes]), None if took_ms is None else float(took_ms) / 1e3
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise self._odd("/slots", f"{nbytes}, as of llama-server", said) from error

    def _odd(self, path: str, expected: str, said: Any) -> InstrumentError:
        return InstrumentError(f"{self.address}{path}: expected {expected}, got {str(said)[:200]}")
