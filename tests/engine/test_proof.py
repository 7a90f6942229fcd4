"""The proof of fast passes: mistakes are refused in every precision, rounding is in none."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.geometry import MAX_WIDTH
from engine.kv_cache import KVCache
from engine.loading import read_limits
from engine.masks import Extent, PackedMasks
from engine.model import Model
from engine.parts import packed
from engine.passes.function import Form, PassFunction, PassInputs
from engine.passes.proof import WrongPassError, prove
from tests.checkpoints import make_network

KINDS = ["llama", "gpt2", "mistral", "gemma2", "mixtral"]
PRECISIONS = [torch.float32, torch.bfloat16, torch.float16]
WIDTHS = (1, 2, 8, MAX_WIDTH)
Change = Callable[[PassInputs], PassInputs]


def shifted(inputs: PassInputs, row: int, by: int) -> PassInputs:
    """Ids, slots, positions, or where texts begin and end (by row of `rows`) that are off."""
    rows = inputs.rows.clone()
    rows[row] += by
    return inputs._replace(rows=rows)


def without_text(inputs: PassInputs) -> PassInputs:
    """All rows are the first of their texts."""
    rows = inputs.rows.clone()
    rows[4] = rows[3]
    return inputs._replace(rows=rows)


def from_the_top(inputs: PassInputs) -> PassInputs:
    """All texts begin at the top of the cache."""
    rows = inputs.rows.clone()
    rows[3] = 0
    return inputs._replace(rows=rows)


def blind(inputs: PassInputs) -> PassInputs:
    """The mask of causal order, as if the tree were a chain."""
    rows = packed([(2 << row) - 1 for row in range(inputs.width)])
    return inputs._replace(visible=rows, windowed=rows.clone())


MISTAKES: dict[str, Change] = {
    "a mask of causal order": blind,
    "no row sees itself": lambda inputs: inputs._replace(
        visible=inputs.visible & 0xFE, windowed=inputs.windowed & 0xFE
    ),
    "later positions": lambda inputs: shifted(inputs, 2, 1),
    "other ids": lambda inputs: shifted(inputs, 0, 1),
    "rows of the cache that are one further": lambda inputs: shifted(inputs, 1, -1),
    "a shorter text": lambda inputs: shifted(inputs, 4, -1),
    "a text that begins one row too late": lambda inputs: shifted(inputs, 3, 1),
    "the rows of another text": from_the_top,
    "nothing of the text": without_text,
    "logits of other rows": lambda inputs: inputs._replace(scored=inputs.scored.sort().values),
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
        rows, visible, windowed, scored = self._change(inputs)
        outputs = [
            self._function(
                rows[:, row : row + 1],
                visible[row : row + 1],
                windowed[row : row + 1],
                torch.zeros(1, dtype=torch.long),
                *self._function.grouping(rows[:, row : row + 1]),
                *(each[:, row : row + 1] for each in extra),
                *self._rows,
            )
            for row in range(inputs.width)
        ]
        logits, *others = (torch.cat(parts) for parts in zip(*outputs, strict=True))
        return logits[scored], *others


def small_model(kind: str, precision: torch.dtype, max_model_len: int = 512, **shape: int) -> Model:
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2} if kind == "mixtral" else {}
    network = make_network(kind, **{**experts, **shape}).to(precision)
    return Model(network, read_limits(network.config), max_model_len, chunk=100)


def try_out(model: Model, change: Change) -> None:
    function = model.function
    prove(Mistaken(function, model.strips.tensors, change), function, model._example, WIDTHS)


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


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize("window", [1500, 2500])
def test_a_wide_window_that_the_text_does_not_know_of_is_refused(
    window: int, precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when no trial reads more rows than a window of thousands, or they are all alike."""
    model = small_model(
        *("mistral", precision, 4096), sliding_window=window, max_position_embeddings=8192
    )
    seen = PackedMasks._seen

    def without_window(masks: PackedMasks, window: int | None, extent: Extent, row: int) -> Tensor:
        position, first, prefix = masks.places
        places = torch.stack([position.clamp(max=0), first, prefix])
        return seen(replace(masks, places=places), window, extent, row)

    class Endless(Mistaken):
        def run(self, inputs: PassInputs, extra: Sequence[Tensor]) -> tuple[Tensor, ...]:
            with monkeypatch.context() as patch:
                patch.setattr(PackedMasks, "_seen", without_window)
                return super().run(inputs, extra)

    function = model.function
    passes = Endless(function, model.strips.cache.rows, lambda inputs: inputs)
    with pytest.raises(WrongPassError, match=f"reads {max(2000, window * 5 // 4)}"):
        prove(passes, function, model._example, WIDTHS)
    prove(
        Mistaken(function, model.strips.cache.rows, lambda inputs: inputs),
        *(function, model._example, WIDTHS),
    )


@pytest.mark.parametrize("seed", range(3))
def test_experts_that_rounding_chooses_are_no_mistake(seed: int) -> None:
    """Red when each row must be right, also one for which two experts are worth the same."""
    model = small_model(
        *("mixtral", torch.bfloat16),
        seed=seed,
        num_hidden_layers=12,
        hidden_size=64,
        num_local_experts=16,
    )
    try_out(model, lambda inputs: inputs)


def test_a_verdict_is_certain_only_where_rounding_is_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Red when what a network's own rounding may have done is remembered as a mistake."""
    for factor, is_certain in ((4.0, True), (1e9, False)):
        monkeypatch.setattr("engine.passes.proof._FACTOR", factor)
        with pytest.raises(WrongPassError) as caught:
            try_out(small_model("llama", torch.float32), MISTAKES["other ids"])
        assert caught.value.is_certain == is_certain


def test_passes_may_be_off_by_what_their_function_is_off_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Red when a network that rounds a lot, as one in 8 bits, is refused its own figures, or may
    make mistakes for that."""
    monkeypatch.setattr("engine.passes.proof._LARGEST", 0.0)
    model = small_model("llama", torch.bfloat16)
    try_out(model, lambda inputs: inputs)
    with pytest.raises(WrongPassError, match="of which rounding explains"):
        try_out(model, MISTAKES["later positions"])


def test_the_verdict_and_the_cache_do_not_touch_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Red when the error depends on what a text left in the cache, or the text is lost by it."""
    bounds = []
    for fill in (0.0, 100.0):
        model = small_model("llama", torch.bfloat16)
        cache: KVCache = model.strips.cache
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
    function = model.function

    class Nothing(Mistaken):
        def run(self, inputs: PassInputs, extra: Sequence[Tensor]) -> tuple[Tensor, ...]:
            return tuple(float("nan") * output for output in super().run(inputs, extra))

    with pytest.raises(WrongPassError, match="nan"):
        prove(
            Nothing(function, model.strips.cache.rows, lambda inputs: inputs),
            *(function, model._example, (1,)),
        )
