"""Draft passes that follow one another on the device, without the host between them.

    pass 1    fed by the host as ever: what the model lacks of the text, the root, guesses of the
              stage below; its logits stay on the device
    pass 2..  each evaluates the best candidates that there are, wherever they hang, up to `width`:
              choice, forward pass and ranking are one recorded graph, replayed pass by pass
    then      one copy brings back every row with its children, and the host puts them into the
              shared tree, where the economy believes and chooses as ever

So the host pays for a pass by the time of a replay. What it cannot do between the passes is done
more simply here: scores are the model's own log probabilities, calibrated by rank alone, and
children are ranked among a row's likeliest tokens. That decides what is evaluated, never a text.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from engine.config import ModelStageConfig
from engine.drafting.children import GUESS_WEIGHT
from engine.economy import Step
from engine.filters import EVERY, Filters, keep
from engine.geometry import MAX_WIDTH, NUM_BYTES
from engine.noise import as_int64
from engine.parts import packed
from engine.passes import DeviceArrays, PassInputs, Record
from engine.request import SamplingParams
from engine.rows import Rows
from engine.scorer import TreeScorer

Noise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of a seed (1,), positions (rows,) and tokens (rows, tokens), all int64: float32 like the last."""

_NUM_RANKED = 64
"""Of a row's likeliest tokens are ranked: the filters and the noise are for these alone."""
_NUM_STOPS = 32
_FIRST_WIDTHS = (1, 4, 16, MAX_WIDTH)
_NO_ONE = -1
_SMALLEST = math.log(1e-30)


@dataclass(frozen=True, slots=True)
class Row:
    """A row that was evaluated on the device, with its children, best first.

    `parent` is the index of its parent's row: rows of the first pass count from 0 in their order,
    those of later ones go on behind `MAX_WIDTH`. `value` is the log probability of its token there.
    """

    index: int
    parent: int
    token: int
    value: float
    tokens: list[int]
    values: list[float]


@dataclass(frozen=True, slots=True)
class Found:
    """What a phase found: the children of the first pass's rows, and the rows of each later pass.

    `tokens` and `values`, log probabilities, are the first pass's children, by row and best first;
    `opinions` are its rows' own log probabilities by their parents' rows, where these are of the
    same pass and were expanded. `carried` is what rows hand down, by their index.
    """

    tokens: list[list[int]]
    values: list[list[float]]
    opinions: list[float]
    passes: list[list[Row]]
    carried: Tensor

    @property
    def rows(self) -> list[Row]:
        """Of all later passes, in the order of the cache's rows."""
        return [row for rows in self.passes for row in rows]


class DevicePasses:
    """The passes of one stage after its first, on the device of its model; it may run two or more.

    `record` turns what runs a pass into what replays it; `noise` is the sampler's. Everything that
    a pass reads or writes stays in place, so that it can be a graph: a row's figures lie at its
    index (see `Row`), a candidate is the child of some rank of some row.
    """

    @torch.inference_mode()
    def __init__(
        self,
        config: ModelStageConfig,
        model: TreeScorer,
        vocab_size: int,
        record: Record,
        noise: Noise,
    ) -> None:
        self.most_passes = config.passes - 1
        self._model, self._noise = model, noise
        self._vocab_size = vocab_size
        self._width = config.width
        self.children = min(config.children, vocab_size, _NUM_RANKED)
        num_rows = MAX_WIDTH + self.most_passes * config.width
        device, long = model.device, torch.int64
        self._told = DeviceArrays(
            device,
            figures=(long, (7, 1)),
            stops=(long, (_NUM_STOPS,)),
            sampling=(torch.float32, (5, 1)),
            rows=(long, (4, MAX_WIDTH)),
            scores=(torch.float32, (MAX_WIDTH,)),
            worths=(torch.float32, (self.children,)),
            sight=(torch.uint8, (MAX_WIDTH, NUM_BYTES)),
        )
        self._found = DeviceArrays(
            device,
            tokens=(long, (num_rows, self.children)),
            values=(torch.float32, (num_rows, self.children)),
            chosen=(long, (num_rows,)),
            opinions=(torch.float32, (MAX_WIDTH,)),
        )
        self._ranks = torch.arange(max(_NUM_RANKED, MAX_WIDTH, config.width), device=device)
        self._bytes = torch.arange(NUM_BYTES, device=device)
        self._bits = torch.tensor([1 << bit for bit in range(8)], dtype=torch.uint8, device=device)
        self._first_only = (self._bytes == 0).to(torch.uint8)
        self._candidates = torch.full((num_rows * self.children,), -math.inf, device=device)
        self._depths = torch.zeros(num_rows, dtype=long, device=device)
        self._sight = torch.zeros(num_rows, NUM_BYTES, dtype=torch.uint8, device=device)
        self._carried = torch.zeros(
            num_rows, model.function.carry_size, dtype=model.dtype, device=device
        )
        self._num_columns = torch.zeros(1, dtype=long, device=device)
        self._next_row = torch.full((1,), MAX_WIDTH, dtype=long, device=device)
        self._logits = torch.zeros(MAX_WIDTH, vocab_size, dtype=model.dtype, device=device)
        self._told.here["sampling"][:] = 1.0
        self._told.send()
        self._begin = {width: record(partial(self._rank_first, width)) for width in _FIRST_WIDTHS}
        self._candidates.fill_(-math.inf)  # nothing to choose: what is recorded writes no row
        self._advance = record(self._evaluate_best)

    def fits(self, step: Step, nodes: Sequence[int]) -> bool:
        """Whether passes can go on from a first one over these nodes.

        Not from wide ones or full trees, nor where a tree is deeper than a layer's window, nor for
        a text whose logits are edited along paths, or filtered by what is not known here, nor for
        several texts.
        """
        if len(step.texts) > 1:
            return False
        own, text = self._own(step), step.texts[0]
        num_columns = len(own.nodes) + len(nodes) + self.most_passes * self._width
        deepest = max(step.tree.depths[node] for node in nodes) + self.most_passes
        return (
            len(nodes) <= MAX_WIDTH
            and num_columns <= 8 * NUM_BYTES - MAX_WIDTH
            and len(text.stop_ids) <= _NUM_STOPS
            and text.sampling.is_plain
            and not 0 < self._model.limits.window <= deepest
        )

    def _own(self, step: Step) -> Rows:
        """The rows of the step's text."""
        return self._model.strips.of(step.texts[0])

    @torch.inference_mode()
    def run(
        self,
        step: Step,
        nodes: Sequence[int],
        expanded: Sequence[int],
        logits: Tensor,
        max_depth: int,
        worths: Sequence[float],
        num_passes: int,
    ) -> Found:
        """Go on for so many passes, 0 to `most_passes`, after the first, which gave these logits.

        `nodes` are the rows that it added to the model's, of which `expanded` get children. No
        row is evaluated at `max_depth` or below, nor below an end of the text. `worths` are the
        factors by which children are discounted, by rank.
        """
        width = min(width for width in _FIRST_WIDTHS if width >= len(nodes))
        self._logits[: len(nodes)].copy_(logits[:, : self._vocab_size])
        if self._model.function.carry_size:
            carried = self._own(step).carried
            self._carried[: len(nodes)].copy_(torch.stack([carried[node] for node in nodes]))
        self._tell(step, nodes, expanded, max_depth)
        self._told.here["worths"][:] = np.log(worths)
        self._told.send()
        self._begin[width]()
        for _ in range(num_passes):
            self._advance()
        return self._fetch(len(nodes), num_passes)

    def _tell(
        self,
        step: Step,
        nodes: Sequence[int],
        expanded: Sequence[int],
        max_depth: int,
    ) -> None:
        """What the device has to know of this text, this tree and the rows of the first pass."""
        text, tree = step.texts[0], step.tree
        here, count, params = self._told.here, len(nodes), text.sampling.params
        own = self._own(step)
        first = len(own.nodes) - count
        here["figures"][:, 0] = (
            own.prefix,
            text.root_position + 1,
            first,
            first + count,
            max_depth - 1,
            as_int64(params.seed),
            own.first,
        )
        here["stops"][:] = _NO_ONE
        here["stops"][: len(text.stop_ids)] = list(text.stop_ids)
        here["sampling"][:, 0] = _sampling(params)
        place = {node: row for row, node in enumerate(nodes)}
        parents = [place.get(tree.parents[node], _NO_ONE) for node in nodes]
        rows = here["rows"]
        rows[:2] = _NO_ONE
        rows[3] = False
        rows[0, :count] = parents
        rows[1, :count] = [tree.tokens[node] for node in nodes]
        rows[2, :count] = [tree.depths[node] for node in nodes]
        rows[3, [place[node] for node in expanded]] = True
        scores = tree.scores()
        here["scores"][:count] = [
            scores[node] if parent == _NO_ONE else tree.estimates[node]
            for node, parent in zip(nodes, parents, strict=True)
        ]
        here["sight"][:count] = packed(tree.ancestor_mask(own.nodes)[first:]).numpy()

    def _rank_first(self, width: int) -> None:
        """List the children of the first pass's rows; forget those of an earlier phase."""
        told, places = self._told.there, self._ranks[:width]
        _, _, first, num_columns, _, _, _ = told["figures"]
        parents, tokens, depths, is_expanded = told["rows"][:, :width]
        ranked, chances = self._rank(self._logits[:width], depths)
        above = parents.clamp(min=0)
        is_below = (parents >= 0) & (is_expanded[above] > 0)
        is_token = ranked[above] == tokens[:, None]
        opinions = chances[above].masked_fill(~is_token, -math.inf).amax(dim=-1)
        guesses = told["scores"][:width]
        mixed = (1 - GUESS_WEIGHT) * opinions.exp() + GUESS_WEIGHT * guesses.exp()
        own = torch.where(is_below, mixed.log().clamp(min=_SMALLEST), guesses)
        sight = told["sight"][:width]
        columns = first + places
        is_above = (sight[:, columns >> 3] >> (columns & 7)) & 1 > 0
        scores = own.expand_as(is_above).masked_fill(~is_above, 0.0).sum(dim=-1)
        self._candidates.fill_(-math.inf)
        self._depths[:width] = depths
        self._sight[:width] = sight
        self._num_columns.copy_(num_columns)
        self._next_row.fill_(MAX_WIDTH)
        self._found.there["opinions"][:width] = opinions.masked_fill(~is_below, -math.inf)
        children = self._list(places, ranked, chances, depths, scores, is_expanded == 0)
        is_fed = (places[:, None, None] == parents) & (children[..., None] == tokens)
        candidates = self._candidates.view(-1, self.children)[:width]
        candidates.masked_fill_(is_fed.any(dim=-1), -math.inf)

    def _evaluate_best(self) -> None:
        """One pass over the best candidates, whose children become candidates.

        Where there are too few, a row of padding sees the first row behind the prefix and goes
        where nobody looks.
        """
        found = self._found.there
        prefix, _, _, _, _, _, begin = self._told.there["figures"]
        scores, chosen = self._candidates.topk(self._width)
        is_idle = scores == -math.inf
        self._candidates.index_fill_(0, chosen, -math.inf)
        above = chosen // self.children
        depths = self._depths[above] + 1
        columns = self._num_columns + self._ranks[: self._width]
        own = (columns[:, None] >> 3 == self._bytes) * self._bits[columns & 7][:, None]
        sight = self._sight[above] | own
        seen = torch.where(is_idle[:, None], self._first_only, sight)
        ids = found["tokens"].flatten()[chosen].masked_fill(is_idle, 0)
        positions = prefix - begin + depths.masked_fill(is_idle, 0)
        slots = (prefix + columns).masked_fill(is_idle, self._model.strips.spare.first)
        places = (begin.expand_as(ids), prefix.expand_as(ids))
        given = torch.stack([ids, slots, positions, *places])
        inputs = PassInputs(given, seen, seen, self._ranks[: self._width])
        logits, carried = self._model.forward_on_device(inputs, self._carried[above])
        rows = self._next_row + self._ranks[: self._width]
        self._depths.index_copy_(0, rows, depths)
        self._sight.index_copy_(0, rows, sight)
        self._carried.index_copy_(0, rows, carried)
        found["chosen"].index_copy_(0, rows, chosen.masked_fill(is_idle, _NO_ONE))
        ranked, chances = self._rank(logits[:, : self._vocab_size], depths)
        self._list(rows, ranked, chances, depths, scores, is_idle)
        # A recorder may run this a few times more than there are rows for.
        self._next_row.add_(self._width).clamp_(max=len(self._depths) - self._width)
        self._num_columns += (~is_idle).sum()

    def _rank(self, logits: Tensor, depths: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest tokens of every row and their log probabilities, (rows, tokens) each.

        Filtered, and under the noise of the position after the row's, as the sampler does it; a
        token that is filtered out has minus infinity, and so has one whose logit is no number.
        """
        _, first_position, _, _, _, seed, _ = self._told.there["figures"]
        amplitude, temperature, top_k, *others = self._told.there["sampling"][..., None]
        filters = Filters(None, top_k.long(), *others)
        clean = logits.nan_to_num(nan=-math.inf, neginf=-math.inf)
        best = clean.topk(min(_NUM_RANKED, logits.shape[-1]))
        scaled = best.values / temperature  # in float32, as its tensors are
        kept = keep(scaled, filters)
        noise = self._noise(seed, first_position + depths, best.indices)
        chances = kept.addcmul(amplitude, noise).log_softmax(dim=-1)
        return best.indices, chances.nan_to_num(nan=-math.inf, neginf=-math.inf)

    def _list(
        self,
        rows: Tensor,
        ranked: Tensor,
        chances: Tensor,
        depths: Tensor,
        scores: Tensor,
        is_shut: Tensor,
    ) -> Tensor:
        """Note the best children of rows, (rows, children), which become candidates.

        Not those of rows that are shut, nor those that may not be evaluated themselves.
        """
        told, found = self._told.there, self._found.there
        best = chances.topk(self.children)
        tokens = ranked.gather(-1, best.indices)
        is_end = (tokens[..., None] == told["stops"]).any(dim=-1)
        is_shut = is_shut | (depths >= told["figures"][4])
        worth = scores[:, None] + best.values + told["worths"]
        worth = worth.masked_fill(is_shut[:, None] | is_end, -math.inf)
        found["tokens"].index_copy_(0, rows, tokens)
        found["values"].index_copy_(0, rows, best.values)
        self._candidates.view(-1, self.children).index_copy_(0, rows, worth)
        return tokens

    def _fetch(self, num_first: int, num_passes: int) -> Found:
        """Wait for the device, and read what it found."""
        found = self._found.fetch()
        end = MAX_WIDTH + num_passes * self._width
        tokens, values = found["tokens"][:end].tolist(), found["values"][:end].tolist()
        chosen = found["chosen"][:end].tolist()

        def row(index: int) -> Row:
            parent, rank = divmod(chosen[index], self.children)
            token, value = tokens[parent][rank], values[parent][rank]
            return Row(index, parent, token, value, tokens[index], values[index])

        passes = [
            [row(index) for index in range(start, start + self._width) if chosen[index] != _NO_ONE]
            for start in range(MAX_WIDTH, end, self._width)
        ]
        opinions = found["opinions"][:num_first].tolist()
        return Found(tokens[:num_first], values[:num_first], opinions, passes, self._carried)


def _sampling(params: SamplingParams) -> tuple[float, ...]:
    """How much noise there is, the temperature, top-k, top-p, and min-p as a logarithm."""
    if params.is_greedy:
        return 0.0, 1.0, EVERY, math.inf, -math.inf
    return (
        1.0,
        params.temperature,
        params.top_k or EVERY,
        params.top_p if params.top_p < 1 else math.inf,
        math.log(params.min_p) if params.min_p > 0 else -math.inf,
    )
