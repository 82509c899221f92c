"""Every exception that djinn-checks raises on purpose.

    DjinnChecksError
    ├── ParamsError              a parameter that cannot be right; raised before any model loads
    ├── ModelError               a model that cannot be had
    │   ├── ModelNotFoundError       no such file, package or name
    │   ├── ModelCorruptError        found, but its bytes are not what they should be
    │   ├── ModelUnsupportedError    found and whole, and of a kind that no check can decide about
    │   └── NoWeightError            a weight was asked for by a name that the model does not keep it under
    ├── EngineError              the reference engine cannot do what was asked
    │   ├── CapacityError            the device budget is too small for the model
    │   ├── CopyError                a copy failed; raised in the forward that needed its bytes
    │   ├── CodecError               bytes that cannot be encoded, or do not decode to what they were
    │   ├── ConcurrentForwardError   two threads inside one streamed model
    │   ├── HooksError               hooks installed twice, removed twice, or used after removal
    │   └── KvError                  a session's KV cache cannot be kept, moved or used as asked
    │       ├── KvCapacityError          it does not fit the device budget or the host pool
    │       ├── KvDigestError            its bytes came back changed
    │       └── TransitionError          a session was asked to go from one state to one that does not follow
    ├── SystemUnavailableError   a system that cannot run here
    │   ├── SystemNotInstalledError  its package is missing
    │   └── SystemRefusedError       it says no to the model, the budget or the machine, in words of its own
    ├── SystemContractError      a system whose `open` gives nothing that can be called
    ├── ServerError              a request that the agent server does not answer
    │   ├── RequestError             it cannot be right: unknown field, prompt too long
    │   │   └── WrongModelError          it names a model that is not served
    │   ├── UnknownSessionError      it names a session that is not there
    │   ├── SessionClosedError       its session was closed before it had ended
    │   └── BusyError                too many sessions or waiting requests; later it may be answered
    ├── ServerKilledError        a server under check that a signal ended before it listened
    ├── AgentLostError           an agent that fell asleep could not go on
    ├── InstrumentError          a measurement that could not be taken
    │   └── NoRouteError             the server under check has no such route
    ├── WrongAdapterError        a server that is not of the kind that it is said to be
    ├── UnfinishedError          a check that crashed or never began, where a verdict was to be shown
    ├── OutcomeError             an outcome file that cannot be read
    └── RunnerError              the suite cannot be run as asked
        ├── LostError                a host of a cluster, or what looks after a job there, is gone or silent
        ├── StoppedError             the suite was told to stop while a host was waited for
        └── IncompleteError          part of it could not be done, and the rest is done

A message names the thing, what was expected, what came instead, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterable


class DjinnChecksError(Exception):
    """Base of every error that this package raises on purpose."""


class ParamsError(DjinnChecksError, ValueError):
    """A parameter has an unknown name, a wrong type or an impossible value."""


class ModelError(DjinnChecksError):
    """A model cannot be loaded."""


class ModelNotFoundError(ModelError, FileNotFoundError):
    """No model answers to that name."""


class ModelCorruptError(ModelError):
    """A model's files are there, but their content is not what it should be."""


class ModelUnsupportedError(ModelError):
    """A model is there and whole, and of a kind that no check can decide about: quantized, no causal language model,
    one that writes its own weights while it computes. It says nothing about the system, and nothing crashed."""


class NoWeightError(ModelError, KeyError):
    """The model keeps no weight under that name."""

    def __str__(self) -> str:
        return str(self.args[0])  # a KeyError would quote it


class EngineError(DjinnChecksError, RuntimeError):
    """The reference engine cannot do what was asked."""


class CapacityError(EngineError):
    """The device budget is too small for the model."""


class CopyError(EngineError):
    """A copy into the ring failed. Raised in the forward that needed the bytes."""


class CodecError(EngineError):
    """Bytes cannot be encoded, or do not decode to what they were, or there is no such codec here."""


class ConcurrentForwardError(EngineError):
    """A second thread entered a streamed model while a forward was running."""


class HooksError(EngineError):
    """Hooks were installed twice, removed twice, or used after their removal."""


class KvError(EngineError):
    """A session's KV cache cannot be kept, moved or used as asked."""


class KvCapacityError(KvError):
    """A session's KV cache does not fit the device budget or the host pool."""


class KvDigestError(KvError):
    """A session's KV bytes are not what they were when they left the device.

    Attributes:
        session_id: the session, which must not be continued.
    """

    def __init__(self, session_id: str, message: str) -> None:
        super().__init__(message)
        self.session_id = session_id


class TransitionError(KvError):
    """A session was asked to go from one state to one that does not follow it."""


class ServerError(DjinnChecksError):
    """The agent server does not answer a request."""


class RequestError(ServerError, ValueError):
    """A request that cannot be right; asking again does not help."""


class WrongModelError(RequestError):
    """A request names a model that is not the one that is served."""


class UnknownSessionError(ServerError, LookupError):
    """No open session has that name."""


class SessionClosedError(ServerError):
    """Another request closed the session in the middle of this one."""


class BusyError(ServerError):
    """Too many sessions or waiting requests; the same request may be answered later."""


class SystemUnavailableError(DjinnChecksError, RuntimeError):
    """A system cannot run on this machine: wrong hardware."""


class SystemNotInstalledError(SystemUnavailableError, ImportError):
    """A system cannot run because its package is not installed."""


class ServerKilledError(DjinnChecksError, RuntimeError):
    """A server under check was ended by a signal before it listened: nothing is known of it."""


class SystemRefusedError(SystemUnavailableError):
    """A system says no to what it was asked to run, when it is built or opened. The message is its own."""


class AgentLostError(DjinnChecksError):
    """An agent that fell asleep could not go on: a claim that failed, not a check."""


class InstrumentError(DjinnChecksError, RuntimeError):
    """A measurement could not be taken. The evidence is missing, which is never a pass."""


class NoRouteError(InstrumentError):
    """The server under check answers that it has no such route."""


class WrongAdapterError(DjinnChecksError):
    """A server is not of the kind that the check was told: it lacks the routes of that kind."""


class SystemContractError(DjinnChecksError):
    """A system gave something else than what it has to give."""


class UnfinishedError(DjinnChecksError):
    """A check crashed, or its system said no before anything ran, so a notebook has no verdict to show."""


class OutcomeError(DjinnChecksError, ValueError):
    """An outcome cannot be read: not JSON, another schema, or no outcome at all."""


class RunnerError(DjinnChecksError):
    """The suite cannot be run as asked."""


class LostError(RunnerError):
    """A host of a cluster, or what looks after a job there, is gone, does not answer, or gave back something else."""

    def __init__(self, kind: str, reason: str) -> None:
        """Take the type of the failure that an outcome names, and a sentence."""
        super().__init__(reason)
        self.kind = kind


class StoppedError(RunnerError):
    """The suite was told to stop while a host was waited for."""


class IncompleteError(RunnerError):
    """Part of what was asked could not be done; the rest is done.

    Attributes:
        done: what was done, for those who asked.
    """

    def __init__(self, problems: Iterable[str], done: Iterable[str]) -> None:
        super().__init__("; ".join(problems))
        self.done = tuple(done)
