"""A pass in fewer and larger kernels, which torch's compiler makes layer by layer.

Compiled as a whole, a pass takes a compiler minutes: it is as long as the network is deep. But the
layers are alike: what is made of one serves them all, as long as nothing that the compiler sees
tells them apart but tensors. So each is given its own rows of the cache alone, and its number,
which it would look them up by, is an unknown. Nor do widths tell them apart: one row is a piece of
code, and any other number of rows another one.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from engine.kv_cache import PassRows
from engine.passes.function import PassFunction

_COMPILER, _MOST_COMPILED = "inductor", 256


class FusedFunction:
    """The same as `function`, whose `layers` are compiled when they are first run.

    Raises, then, what torch's compiler does.
    """

    def __init__(self, function: PassFunction) -> None:
        self._function = function
        layers = enumerate(function.layers)
        self._forwards = [(layer, _compiled(layer, number)) for number, layer in layers]

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The function's outputs."""
        with self._compiled_layers():
            return cast(tuple[Tensor, ...], self._function(*inputs))

    @contextmanager
    def _compiled_layers(self) -> Iterator[None]:
        """The network's layers are the compiled ones; elsewhere, in prompts, they are as ever."""
        # Every network has code of its own.
        limits = torch._dynamo.config.patch(
            allow_unspec_int_on_nn_module=True, recompile_limit=_MOST_COMPILED
        )
        with limits:
            for layer, forward in self._forwards:
                layer.forward = forward
            try:
                yield
            finally:
                for layer, _ in self._forwards:
                    del layer.forward


def _compiled(layer: nn.Module, number: int) -> Callable[..., Any]:
    """The layer's forward, compiled, over the rows of its own number."""
    compiled = torch.compile(layer.forward, backend=_COMPILER, fullgraph=True)

    def forward(*inputs: object, **named: object) -> Any:
        with _without_hooks(layer):
            return compiled(
                *(_of_layer(each, number) for each in inputs),
                **{name: _of_layer(each, number) for name, each in named.items()},
            )

    return forward


@contextmanager
def _without_hooks(layer: nn.Module) -> Iterator[None]:
    """Let what is inside a layer tell nobody of its outputs.

    Once it was asked for hidden states, transformers has every attention tell of itself through a
    context variable, which torch's compiler cannot follow. The layer itself goes on telling.
    """
    inside = [each for each in layer.modules() if each is not layer and each._forward_hooks]
    hooks = [each._forward_hooks for each in inside]
    for each in inside:
        each._forward_hooks = OrderedDict()
    try:
        yield
    finally:
        for each, own in zip(inside, hooks, strict=True):
            each._forward_hooks = own


def _of_layer(given: object, number: int) -> object:
    return given.of_layer(number) if isinstance(given, PassRows) else given
