"""Finds the layers of a network that keep a state, and lets our functions stand in for theirs.

transformers has no registry for such layers. A layer is known by the functions that its `forward`
names, and gets a `forward` of the same code over other functions: of this network alone. Ours hand
on to the stock ones whatever does not come from our cache. That the same names mean the same is
proven when a model is loaded (`Model.check_seam`).
"""

import inspect
from collections.abc import Callable
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn

from engine.errors import ModelLoadError
from engine.recurrent.functions import convolution, gated_delta_rule, mamba2_scan, mamba2_step

_CONVOLUTION = "causal_conv1d_fn"
_DELTA = ("torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule")
_MAMBA2 = ("mamba2_chunk_scan", "mamba2_selective_state_update")
_NEEDED = {
    "update_conv_state": [{_CONVOLUTION}],
    "update_recurrent_state": [{*_DELTA}, {*_MAMBA2}],
}
"""By what a layer says to the cache, the functions, one set of them, in which it must do that."""
_ASKED = "get_conv_state"
"""What it must ask the cache for."""


_OURS: dict[str, Callable[..., Any]] = {
    _CONVOLUTION: convolution,
    **dict.fromkeys(_DELTA, gated_delta_rule),
    **dict(zip(_MAMBA2, (mamba2_scan, mamba2_step), strict=True)),
}


def bind(network: nn.Module) -> None:
    """Let the layers of a network that keep a state do it by our functions; again changes nothing.

    Raises ModelLoadError for one that does it by others.
    """
    for module in network.modules():
        if "forward" not in vars(module) and _is_linear(type(module)):
            module.forward = MethodType(_over_ours(type(module)), module)


def check_layers(room: ModuleType) -> None:
    """Refuse what keeps a state, in a module of transformers, by functions that are not known here.

    Raises ModelLoadError, also if nothing there is seen to keep one.
    """
    classes = [each for each in vars(room).values() if isinstance(each, type)]
    if not [each for each in classes if each.__module__ == room.__name__ and _is_linear(each)]:
        raise ModelLoadError("no layer of it is seen to keep a state")


def _is_linear(kind: type) -> bool:
    """Whether a layer keeps a state. Raises ModelLoadError if it does so by other functions."""
    forward = _forward(kind) if issubclass(kind, nn.Module) else None
    names = set(forward.__code__.co_names) if forward is not None else set()
    kept = [name for name in _NEEDED if name in names]
    if forward is not None and not all(any(each <= names for each in _NEEDED[n]) for n in kept):
        called = [forward.__globals__.get(name) for name in sorted(names - {*_OURS})]
        others = [each.__name__ for each in called if inspect.isfunction(each)]
        told = f", but by {', '.join(others)}" if others else ""
        raise ModelLoadError(f"{kind.__name__} does not do that by functions known here{told}")
    if kept and _ASKED not in names:
        raise ModelLoadError(
            f"{kind.__name__} asks its cache for the state in a way that is not known here: "
            "install another release of transformers, such as 5.23"
        )
    return bool(kept)


def _forward(kind: type[nn.Module]) -> FunctionType | None:
    """What a class runs, beneath its decorators."""
    function = inspect.unwrap(kind.forward)
    return function if isinstance(function, FunctionType) else None


def _beside(stock: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    """Ours, which is given the stock one first."""

    def call(*given: Any, **named: Any) -> Any:  # torch's compiler cannot follow a `partial`
        return ours(stock, *given, **named)

    return call


def _over_ours(kind: type[nn.Module]) -> FunctionType:
    """The same code, whose functions are ours where there is one."""
    forward = _forward(kind)
    assert forward is not None
    known = forward.__globals__
    ours = {name: _beside(known[name], ours) for name, ours in _OURS.items() if name in known}
    bound = FunctionType(
        forward.__code__,
        {**known, **ours},
        forward.__name__,
        forward.__defaults__,
        forward.__closure__,
    )
    bound.__kwdefaults__ = forward.__kwdefaults__
    return bound
