"""What is checked: a system takes a model and a budget of device memory and gives back something to call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Self

from djinn_checks.errors import ParamsError
from djinn_checks.systems.named import import_named

if TYPE_CHECKING:
    import torch

    from djinn_checks.models.open import Model

ENTRY_POINT_GROUP = "djinn_checks.systems"


class System(ABC):
    """One system under check, opened on one model.

    Building it is cheap and reads no weights; what can be refused is refused there. `open` loads the
    weights, `close` gives everything back. A system may say what it plans and what it claims to have
    moved; whether that is true is for the check's instruments to find out.
    """

    name: ClassVar[str]
    encodes: ClassVar[bool] = False
    """Weights travel in fewer bytes than they have, so plan and claim speak of bytes on the wire."""

    def __init__(self, model: Model, *, device: torch.device, budget_bytes: int) -> None:
        """Plan for `model` with at most `budget_bytes` of its weights on `device` at any time.

        Raises:
            CapacityError: the budget cannot hold what the system needs.
            SystemUnavailableError: the system cannot run on this machine.
        """
        self.model = model
        self.device = device
        self.budget_bytes = budget_bytes

    @abstractmethod
    def open(self) -> Any:
        """Load the weights and return the callable model, with the signature of a Hugging Face causal LM."""

    def predicted_bytes_per_pass(self) -> int | None:
        """Return the bytes that one forward will move to the device by plan, or None if there is no plan."""
        return None

    def claimed_bytes(self) -> int | None:
        """Return the bytes that the system claims to have moved since `open`, or None if it keeps no count."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Free the device memory. Closing twice does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def system_names() -> list[str]:
    """Return the names of the systems that are registered, installed or not."""
    return sorted({entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)})


def find_system(name: str) -> type[System]:
    """Return the system class registered under `name` in the entry point group `djinn_checks.systems`.

    Args:
        name: or `module:Class`, for one that nobody has registered; looked for in the working folder last.

    Raises:
        ParamsError: no such system is registered; there is no such module, or no such system in it. What the module
            itself raises while it is imported comes through as it is.
    """
    if ":" in name:
        named = import_named(name)
        if not (isinstance(named, type) and issubclass(named, System)):
            raise ParamsError(f"system: {name!r} is no class that derives from djinn_checks.System; write one so")
        return named
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name == name:
            found: type[System] = entry.load()
            return found
    raise ParamsError(
        f"system: unknown name {name!r}; registered: {', '.join(system_names())}. "
        f"Give your own as module:Class, or register it in the entry point group {ENTRY_POINT_GROUP!r}"
    )
