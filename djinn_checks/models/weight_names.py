"""Weights by name: what is asked for under a name that holds none is told where it is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from djinn_checks.errors import NoWeightError
from djinn_checks.nearest import suggest


class NamedWeights(Mapping[str, Tensor]):
    """The same weights, with errors that name what was meant. A tied weight has its first name alone."""

    def __init__(self, weights: Mapping[str, Tensor], tied: Mapping[str, str]) -> None:
        """Wrap weights.

        Args:
            tied: names of parameters that are another's, and that other's.
        """
        self._weights = weights
        self._tied = tied
        self._names = frozenset(weights)

    def __contains__(self, name: object) -> bool:
        return name in self._names  # without making the tensor

    def __getitem__(self, name: str) -> Tensor:
        if name in self:
            return self._weights[name]
        if name in self._tied:
            raise NoWeightError(
                f"weight {name!r} is tied to {self._tied[name]!r}, and kept under that name alone; "
                "module.named_parameters() gives each weight once, and setting the first sets both"
            )
        hint = suggest(str(name), self._names, otherwise="their names are those of skeleton().named_parameters()")
        raise NoWeightError(f"the model has no weight {name!r}; {hint}")

    def __getattr__(self, name: str) -> Any:
        """Return what the weights tell beside themselves, such as where each lies in its file."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._weights, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)
