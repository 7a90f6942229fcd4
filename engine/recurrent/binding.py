"""Finds the layers of a network that keep a state, and lets our functions stand in for theirs.

transformers has no registry for such layers. A layer is known by the functions that its `forward`
names, and gets a `forward` of the same code over other functions: of this network alone. Ours hand
on to the stock ones whatever does not come from our cache. That the same names mean the same is
proven when a model is loaded (`Model.check_seam`).
"""

import inspect
from collections.abc import Callable
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

from engine.errors import ModelLoadError
from engine.recurrent.states import PassStates, Windows

_CONVOLUTION = "causal_conv1d_fn"
_RECURRENCES = ("torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule")
_NEEDED = {"update_conv_state": (_CONVOLUTION,), "update_recurrent_state": _RECURRENCES}
"""By what a layer says to the cache, the functions in which it must do that."""


def _convolved(
    stock: Callable[..., Tensor],
    inputs: Tensor | Windows,
    weight: Tensor,
    bias: Tensor | None = None,
    **kwargs: Any,
) -> Tensor:
    """The stock convolution at the end of each row's own window: (1, channels, rows)."""
    if not isinstance(inputs, Windows):
        return stock(inputs, weight, bias, **kwargs)
    activation = {name: kwargs[name] for name in ("activation",) if name in kwargs}
    return stock(inputs.inputs, weight, bias, **activation)[..., -1].T[None]


def _gated_delta(
    stock: Callable[..., tuple[Tensor, Tensor | None]],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    initial_state: Tensor | PassStates | None = None,
    use_qk_l2norm_in_kernel: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """The stock rule along each row's own path; no state, since the cache has it already."""
    if isinstance(initial_state, PassStates):
        return initial_state.gated_delta(query, key, value, g, beta, use_qk_l2norm_in_kernel), None
    return stock(
        query,
        key,
        value,
        g=g,
        beta=beta,
        initial_state=initial_state,
        use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel,
        **kwargs,
    )


_OURS: dict[str, Callable[..., Any]] = {
    _CONVOLUTION: _convolved,
    **dict.fromkeys(_RECURRENCES, _gated_delta),
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
    if forward is not None and any(set(_NEEDED[name]) - names for name in kept):
        known = {name for needed in _NEEDED.values() for name in needed}
        called = [forward.__globals__.get(name) for name in sorted(names - known)]
        others = [each.__name__ for each in called if inspect.isfunction(each)]
        told = f", but by {', '.join(others)}" if others else ""
        raise ModelLoadError(f"{kind.__name__} does not do that by functions known here{told}")
    return bool(kept)


def _forward(kind: type[nn.Module]) -> FunctionType | None:
    """What a class runs, beneath its decorators."""
    function = inspect.unwrap(kind.forward)
    return function if isinstance(function, FunctionType) else None


def _over_ours(kind: type[nn.Module]) -> FunctionType:
    """The same code, whose functions are ours where there is one."""
    forward = _forward(kind)
    assert forward is not None
    known = forward.__globals__
    ours = {name: partial(ours, known[name]) for name, ours in _OURS.items() if name in known}
    bound = FunctionType(
        forward.__code__,
        {**known, **ours},
        forward.__name__,
        forward.__defaults__,
        forward.__closure__,
    )
    bound.__kwdefaults__ = forward.__kwdefaults__
    return bound
