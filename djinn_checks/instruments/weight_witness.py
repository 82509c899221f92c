"""Sees the weights at the point of use, from outside the system that put them there.

A `TorchFunctionMode` is shown every torch function (linear, embedding, addmm, mul, an index into an
expert tensor ...) before it runs, and global module hooks say which modules are running. When a function
gets an `nn.Parameter` that belongs to the innermost running module, the witness notes its name, where its
bytes lie and a digest of them, computed where they lie. Where the resident model's weights are known, a tensor that no
module owns is noted too if it has the shape of one of them, or of several end to end: a copy made for one call, a
weight in a wrapper's own module, gate and up as one. Its bytes then say which weight it is.

Why this is valid. The digest is enqueued right before the function that uses the weight, on the same
stream and reading the same address, so it sees what the function sees: a copy that had not arrived, or one
that was overwritten too early, changes it. And the pigeonhole argument needs no word from the system: if U
bytes of weights were each present, bit for bit, when they were used, and no more than H < U bytes of device memory held
such weights at any moment (`held_memory`), then at least U - H bytes are written from one forward to the next.
Weights that lie in host memory (`memory_place`) are in neither figure: the device reads them over the link, which
shows in the link's counters and not in any address.

Where it is blind.
- It sees calls from Python to torch, in the thread that enters it and in every thread that calls a module. A compiled
  graph, a replayed CUDA graph or a kernel of the system's own: no use is seen, and the evidence is None, never a zero.
- It proves that bytes were written, not where they came from: a system that keeps a second copy of the
  model on the device passes here, and is for the peak device memory to find.
- Memory that was given back to an allocator and comes back with its old bytes in it counts as written anew.
- A system can see that it is watched, as it sees any mode and any hook; `QuietWitness` shows neither.
- Weights with equal bytes (tied embeddings, norms that are all ones) count once: one copy could serve
  all of them. So do not look for the sum of all parameters in `used_bytes`.
- A parameter that is used counts with all of its bytes, since all of them were there: of an expert tensor
  also the experts that no token was routed to. An expert with a parameter of its own that no token was
  routed to is not used and does not count, for the reference as for the system.
- Functions that only move or describe a weight are no use. A view counts if the running module itself owns
  the parameter, so that an engine may pack the weights of a whole block in a hook of that block. Of all others
  that are no arithmetic nobody can tell what they do with it: they count where nothing else was done with a weight.
- A weight in a form of the system's own (padded, packed, encoded) is not told by its name: it is seen where it is used
  in the reference's form, or it is `unseen`.
- A compiled function is let be, and what it uses is not seen.
- What a class of tensors or a mode of the system's own does with what it is given is not seen: it may put another
  tensor in its place. So a weight that is right counts there, and one that is wrong accuses nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from djinn_checks.errors import SystemContractError
from djinn_checks.instruments.memory_place import PlaceOf, find_place
from djinn_checks.instruments.weight_evidence import How, WeightEvidence
from djinn_checks.instruments.weight_uses import (
    CONSUMES,
    CONVERTS,
    DESCRIBES,
    MOVES,
    VIEWS,
    Digests,
    Frame,
    UseLog,
    function_name,
    has_other_modes,
    is_parameter,
    owned_name,
    tensors_in,
)

__all__ = ["QuietWitness", "WeightEvidence", "WeightWitness"]


@dataclass
class _Thread:
    """What is running in one thread, innermost last."""

    running: list[tuple[nn.Module, Frame]] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    beside: Frame = field(default_factory=dict)
    """What is used while no module runs."""
    eyes: _Eyes | None = None
    """Opened by the outermost module, in a thread other than the one that entered the witness."""

    @property
    def frame(self) -> Frame:
        return self.running[-1][1] if self.running else self.beside


class _Eyes(TorchFunctionMode):
    """Shows the witness one thread's functions."""

    def __init__(self, look: Callable[..., Any]) -> None:
        super().__init__()
        self._look = look

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.compiler.is_compiling():  # else it would be compiled as well
            return func(*args, **(kwargs or {}))
        return self._look(func, args, kwargs or {})


class WeightWitness:
    """Watches the weights of one forward.

    >>> with WeightWitness() as witness:
    ...     model(ids)
    >>> evidence = witness.evidence()

    Enter it around one forward, in the thread that runs it. It changes no result; it takes one read of
    every weight, and synchronizes with the device only in `evidence`.
    """

    def __init__(
        self,
        reference: WeightEvidence | None = None,
        *,
        place_of: PlaceOf = find_place,
        digests: Digests | None = None,
    ) -> None:
        """Watch, and hold the weights against those of `reference`, the same forward of the resident model.

        Without a reference every weight counts as exact.

        Args:
            place_of: tells where memory lies; its default asks the driver.
            digests: keeps digests from one witness to the next, of a model whose weights do not change.
        """
        self._log = UseLog(reference, place_of=place_of, digests=digests)
        self._here = threading.local()
        self._threads: list[_Thread] = []

    def __enter__(self) -> Self:
        self._hooks = [
            module_hooks.register_module_forward_pre_hook(self._enter_module),
            module_hooks.register_module_forward_hook(self._leave_module, always_call=True),
        ]
        self._eyes = _Eyes(self._look)
        self._thread.eyes = self._eyes
        self._eyes.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exc: object) -> None:
        self._eyes.__exit__(*exc)  # type: ignore[no-untyped-call]
        for hook in self._hooks:
            hook.remove()
        for thread in self._threads:
            while thread.running:
                self._log.close(thread.running.pop()[1])
            self._log.close(thread.beside)

    def evidence(self) -> WeightEvidence | None:
        """Return what was seen since the witness was made; None if no weight was seen in use."""
        return self._log.evidence()

    @property
    def _thread(self) -> _Thread:
        if not hasattr(self._here, "thread"):
            self._here.thread = _Thread()
            self._threads.append(self._here.thread)
        found: _Thread = self._here.thread
        return found

    def _enter_module(self, module: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling():
            return
        thread = self._thread
        if not thread.running:
            thread.names = {id(inner): name for name, inner in module.named_modules()}
        thread.running.append((module, {}))
        if thread.eyes is None:
            thread.eyes = _Eyes(self._look)
            thread.eyes.__enter__()  # type: ignore[no-untyped-call]

    def _leave_module(self, module: nn.Module, args: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        thread = self._thread
        while thread.running:
            left, frame = thread.running.pop()
            self._log.close(frame)
            if left is module:
                break
        if not thread.running and thread.eyes is not self._eyes and thread.eyes is not None:
            thread.eyes.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            thread.eyes = None
            self._log.close(thread.beside)

    def _look(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = function_name(func)
        if name == "__getitem__" and any(picked.ndim for picked in tensors_in(args[1:], {})):
            name = "index"  # rows picked by a list of them are no view
        if name in MOVES or name in DESCRIBES:
            return func(*args, **kwargs)
        if name in CONVERTS:
            result = func(*args, **kwargs)
            parameter = next(filter(is_parameter, tensors_in(args, kwargs)), None)
            if parameter is not None and isinstance(result, Tensor) and result.dtype != parameter.dtype:
                self._note(parameter, name)  # into another dtype is arithmetic; else it is a move
            return result
        tensors = tensors_in(args, kwargs)
        for tensor in tensors:
            if is_parameter(tensor) or (name in CONSUMES):
                self._note(tensor, name)
        result = func(*args, **kwargs)
        if name in CONSUMES and any(type(tensor) is nn.Parameter and tensor.is_meta for tensor in tensors):
            self._refuse_without_bytes(tensors, result)
        return result

    def _refuse_without_bytes(self, tensors: list[Tensor], result: Any) -> None:
        """Some functions compute with a weight on `meta` as if it had bytes: what they give is memory as it was found.

        Raises:
            SystemContractError: such a weight was used, and nothing of the system's can have put another in its place.
        """
        if not isinstance(result, Tensor) or result.is_meta or has_other_modes():
            return
        thread = self._thread
        module = thread.running[-1][0] if thread.running else None
        weight = next(tensor for tensor in tensors if type(tensor) is nn.Parameter and tensor.is_meta)
        leaf = owned_name(module, weight, direct_only=False) if module is not None else None
        name = ".".join(filter(None, (thread.names.get(id(module), ""), leaf))) or f"one of shape {list(weight.shape)}"
        raise SystemContractError(
            f"a forward used the weight {name}, which is on 'meta' and has no bytes: what comes of it is memory as it "
            "was found; put it in its place, a tied one under each of its names"
        )

    def _note(self, tensor: Tensor, function: str) -> None:
        """Note a use, once per module call."""
        thread = self._thread
        name = None
        if is_parameter(tensor) and thread.running:
            module = thread.running[-1][0]
            name = owned_name(module, tensor, direct_only=function in VIEWS)
            prefix = thread.names.get(id(module), "")
            name = f"{prefix}.{name}" if prefix and name is not None else name
        if name is not None:
            self._log.note_weight(tensor, name, thread.frame, _how(function))
        elif function in CONSUMES:
            self._log.note_if_known(tensor, thread.frame)


def _how(function: str) -> How:
    if function in CONSUMES or function in CONVERTS:
        return How.ARITHMETIC
    return How.VIEW if function in VIEWS else How.GIVEN


class QuietWitness:
    """Watches one forward with neither a function mode nor a module hook: a system that looks for these sees none.

    A `TorchDispatchMode` is shown the operators below the functions, with the tensors that they read, and knows a
    weight of the reference by its bytes alone. So it can accuse and cannot name: what is wrong, or used in a shape of
    its own, is `unseen` here. It sees the thread that enters it.
    """

    def __init__(self, reference: WeightEvidence, *, place_of: PlaceOf = find_place) -> None:
        """Watch, and look for the weights of `reference`, the same forward of the resident model."""
        self._log = UseLog(reference, place_of=place_of)
        self._frame: Frame = {}
        self._mode = _Operators(self._look)

    def __enter__(self) -> Self:
        self._mode.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exc: object) -> None:
        self._mode.__exit__(*exc)  # type: ignore[no-untyped-call]

    def evidence(self) -> WeightEvidence | None:
        """Return what was seen; None if no weight was seen in use."""
        return self._log.evidence()

    def _look(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        name = func._schema.name.rpartition("::")[2]
        converts = name == "_to_copy" and kwargs.get("dtype") not in (None, args[0].dtype)  # arithmetic, else a move
        if name not in CONSUMES and not converts:
            return
        for tensor in tensors_in(args, kwargs):
            self._log.note_if_known(tensor, self._frame)
        self._log.close(self._frame)


class _Operators(TorchDispatchMode):
    """Shows the witness one thread's operators."""

    def __init__(self, look: Callable[..., None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._look = look

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._look(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))
