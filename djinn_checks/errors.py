"""Every exception that djinn-checks raises on purpose.

    DjinnChecksError
    ├── ParamsError              a parameter that cannot be right; raised before any model loads
    ├── ModelError               a model that cannot be had
    │   ├── ModelNotFoundError       no such file, package or name
    │   └── ModelCorruptError        found, but its bytes are not what they should be
    ├── EngineError              the reference engine cannot do what was asked
    │   ├── CapacityError            the device budget is too small for the model
    │   ├── CopyError                a copy failed; raised in the forward that needed its bytes
    │   ├── ConcurrentForwardError   two threads inside one streamed model
    │   └── HooksError               hooks installed twice, removed twice, or used after removal
    ├── SystemUnavailableError   a system that cannot run here
    │   └── SystemNotInstalledError  its package is missing
    ├── InstrumentError          a measurement that could not be taken
    ├── OutcomeError             an outcome file that cannot be read
    └── RunnerError              the suite cannot be run as asked

A message names the thing, what was expected, what came instead, and what to do about it.
"""

from __future__ import annotations


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


class EngineError(DjinnChecksError, RuntimeError):
    """The reference engine cannot do what was asked."""


class CapacityError(EngineError):
    """The device budget is too small for the model."""


class CopyError(EngineError):
    """A copy into the ring failed. Raised in the forward that needed the bytes."""


class ConcurrentForwardError(EngineError):
    """A second thread entered a streamed model while a forward was running."""


class HooksError(EngineError):
    """Hooks were installed twice, removed twice, or used after their removal."""


class SystemUnavailableError(DjinnChecksError, RuntimeError):
    """A system cannot run on this machine: wrong hardware."""


class SystemNotInstalledError(SystemUnavailableError, ImportError):
    """A system cannot run because its package is not installed."""


class InstrumentError(DjinnChecksError, RuntimeError):
    """A measurement could not be taken. The evidence is missing, which is never a pass."""


class OutcomeError(DjinnChecksError, ValueError):
    """An outcome cannot be read: not JSON, another schema, or no outcome at all."""


class RunnerError(DjinnChecksError):
    """The suite cannot be run as asked."""
