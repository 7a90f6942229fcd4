"""The proof of fast passes: mistakes are refused in every precision, rounding is in none."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from engine.feed import packed
from engine.kv_cache import KVCache
from engine.loading import read_limits
from engine.model import Model
from engine.passes.function import MAX_WIDTH, Form, PassFunction, PassInputs
from engine.passes.proof import WrongPassError, prove
from tests.checkpoints import make_network

KINDS = ["llama", "gpt2", "mistral", "gemma2"]
PRECISIONS = [torch.float32, torch.bfloat16, torch.float16]
WIDTHS = (1, 2, 8, MAX_WIDTH)
Change = Callable[[PassInputs], PassInputs]


def shifted(inputs: PassInputs, row: int, by: int) -> PassInputs:
    """Ids, positions or slots (by row of `tokens`) that are off."""
    tokens = inputs.tokens.clone()
    tokens[row] += by
    return inputs._replace(tokens=tokens)


def blind(inputs: PassInputs) -> PassInputs:
    """The mask of causal order, as if the tree were a chain."""
    rows = packed([(2 << row) - 1 for row in range(inputs.width)])
    return inputs._replace(visible=rows, windowed=rows.clone())


MISTAKES: dict[str, Change] = {
    "a mask of causal order": blind,
    "no row sees itself": lambda inputs: inputs._replace(
        visible=inputs.visible & 0xFE, windowed=inputs.windowed & 0xFE
    ),
    "later positions": lambda inputs: shifted(inputs, 1, 1),
    "other ids": lambda inputs: shifted(inputs, 0, 1),
    "rows of the cache that are one further": lambda inputs: shifted(inputs, 2, -1),
    "a shorter text": lambda inputs: inputs._replace(prefix=inputs.prefix - 1),
    "nothing of the text": lambda inputs: inputs._replace(prefix=torch.zeros_like(inputs.prefix)),
}


class Mistaken:
    """A function's passes with changed inputs, in other arithmetic: rows are computed alone."""

    form: Form = "compiled"

    def __init__(self, function: PassFunction, rows: Sequence[Tensor], change: Change) -> None:
        self._function, self._rows, self._change = function, rows, change

    def padding(self, width: int) -> int:
        """None."""
        return 0

    def run(self, inputs: PassInputs, extra: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One row after the other."""
        tokens, prefix, visible, windowed = self._change(inputs)
        outputs = [
            self._function(
                tokens[:, row : row + 1],
                prefix,
                visible[row : row + 1],
                windowed[row : row + 1],
                *(each[:, row : row + 1] for each in extra),
                *self._rows,
            )
            for row in range(inputs.width)
        ]
        return tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))


def small_model(kind: str, precision: torch.dtype) -> Model:
    network = make_network(kind).to(precision)
    return Model(network, read_limits(network.config), 512, chunk=100)


def try_out(model: Model, change: Change) -> None:
    function = model._function()
    prove(Mistaken(function, model._cache.rows, change), function, model._example, WIDTHS)


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_what_rounds_otherwise_is_accepted(kind: str, precision: torch.dtype) -> None:
    """Red when the bound is below what another order of operations does."""
    try_out(small_model(kind, precision), lambda inputs: inputs)


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_in_any_precision(
    mistake: str, kind: str, precision: torch.dtype
) -> None:
    """Red when the bound is so wide that a wrong mask, position or row passes for rounding."""
    with pytest.raises(WrongPassError, match="of which rounding explains"):
        try_out(small_model(kind, precision), MISTAKES[mistake])


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_a_forgotten_window_is_refused(precision: torch.dtype) -> None:
    """Red when no node of the proof's tree lies a window below another."""
    with pytest.raises(WrongPassError):
        try_out(
            small_model("mistral", precision),
            lambda inputs: inputs._replace(windowed=inputs.visible),
        )


def test_the_verdict_and_the_cache_do_not_touch_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Red when the error depends on what a text left in the cache, or the text is lost by it."""
    bounds = []
    for fill in (0.0, 100.0):
        model = small_model("llama", torch.bfloat16)
        cache: KVCache = model._cache
        for rows in cache.rows:
            rows.fill_(fill)
        with pytest.raises(WrongPassError) as caught:
            try_out(model, MISTAKES["later positions"])
        bounds.append(str(caught.value))
        assert all(torch.equal(rows, torch.full_like(rows, fill)) for rows in cache.rows)
    assert bounds[0] == bounds[1]


def test_what_is_no_number_is_refused() -> None:
    """Red when a comparison with NaN counts as passed."""
    model = small_model("llama", torch.float32)
    function = model._function()

    class Nothing(Mistaken):
        def run(self, inputs: PassInputs, extra: Sequence[Tensor]) -> tuple[Tensor, ...]:
            return tuple(float("nan") * output for output in super().run(inputs, extra))

    with pytest.raises(WrongPassError, match="nan"):
        prove(
            Nothing(function, model._cache.rows, lambda inputs: inputs),
            *(function, model._example, (1,)),
        )
