"""The one door for choosing: places in trees of texts cross it, with their paths.

The target's token after a node, what a draft offers there, what a table makes of a few tokens: all
are ranked here, by what their texts ask for and what lies before them. Rows may be of any texts.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from engine.candidates import Candidates
from engine.edits import EditedRow, edited
from engine.noise import noise_values
from engine.ranking import rank
from engine.request import EmittedToken
from engine.text import Text
from engine.tree import TokenTree


class Place(NamedTuple):
    """Where a token is to be chosen: after a node of a tree that hangs on a text."""

    text: Text
    tree: TokenTree
    node: int

    @property
    def position(self) -> int:
        """The index of that token in the model's whole input."""
        return self.text.root_position + self.tree.depths[self.node] + 1

    @property
    def edited_row(self) -> EditedRow:
        """What the logits there are edited by."""
        path = self.tree.path_tokens(self.node)
        return EditedRow(self.text.sampling.edits, self.text.tokens, path)


def places(texts: Sequence[Text], tree: TokenTree, nodes: Sequence[int]) -> list[Place]:
    """The places after nodes of a tree that hangs on these texts."""
    return [Place(texts[tree.texts[node]], tree, node) for node in nodes]


def candidates(places: Sequence[Place], logits: Tensor) -> Candidates:
    """What may follow at places, of which `logits` (places, vocabulary) are the rows."""
    samplings = [place.text.sampling for place in places]
    if any(sampling.edits for sampling in samplings):
        logits = edited(logits[:, : samplings[0].vocab_size], [each.edited_row for each in places])
    return rank(samplings, [place.position for place in places], logits)


def scores_of(place: Place, tokens: Sequence[int], logprobs: Sequence[float]) -> list[float]:
    """The scores of a few tokens at a place, given their log-probabilities.

    What filters would drop is not known, since the other tokens are not.
    """
    sampling = place.text.sampling
    if sampling.edits:
        row = torch.zeros(1, sampling.vocab_size)
        row[0, list(tokens)] = torch.tensor(logprobs)
        logprobs = edited(row, [place.edited_row])[0, list(tokens)].tolist()
    if sampling.params.is_greedy:
        return list(logprobs)
    noise = noise_values([sampling.noise], [place.position], [tokens]).tolist()
    temperature = sampling.params.temperature
    return [lp / temperature + g for lp, g in zip(logprobs, noise, strict=True)]


def chooser(
    texts: Sequence[Text], tree: TokenTree, logits: Tensor
) -> Callable[[Sequence[int]], Sequence[int]]:
    """The target's tokens after nodes of the tree, whose logits are rows (nodes, vocabulary).

    A CPU chooses for the nodes that are asked for alone; a GPU for all at once, to be waited for
    once.
    """
    if logits.is_cpu:
        return partial(_choose, texts, tree, logits)
    chosen = candidates(places(texts, tree, range(len(tree))), logits).best()
    return lambda nodes: [chosen[node] for node in nodes]


def _choose(
    texts: Sequence[Text], tree: TokenTree, logits: Tensor, nodes: Sequence[int]
) -> list[int]:
    rows = logits[nodes[0] : nodes[0] + 1] if len(nodes) == 1 else logits[list(nodes)]
    return candidates(places(texts, tree, nodes), rows).best()


def describe(
    logits: Tensor,
    rows: Sequence[int],
    token_ids: Sequence[int],
    origins: Sequence[str],
    num_logprobs: int | None,
) -> tuple[EmittedToken, ...]:
    """A noun for the token of each of these rows of `logits`, with log-probabilities if asked for.

    `logits` are (nodes, vocabulary); tokens and origins beyond the rows are left out.
    """
    chosen = list(zip(token_ids, origins, strict=False))[: len(rows)]
    if num_logprobs is None:
        return tuple([EmittedToken(token, origin) for token, origin in chosen])
    logprobs = logits[list(rows)].float().log_softmax(dim=-1)
    ids = torch.tensor(token_ids[: len(rows)], dtype=torch.long, device=logits.device)
    own = logprobs.gather(1, ids[:, None])
    top = logprobs.topk(num_logprobs, dim=-1)
    alternatives = [
        tuple(zip(ids, values, strict=True))
        for ids, values in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]
    return tuple(
        EmittedToken(token, origin, logprob, others)
        for (token, origin), (logprob,), others in zip(
            chosen, own.tolist(), alternatives, strict=True
        )
    )
