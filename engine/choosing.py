"""The one door for choosing: places in trees of texts cross it, with their paths.

The target's token after a node, what a draft offers there, what a table makes of a few tokens: all
are ranked here, by what their texts ask for and what lies before them. Rows may be of any texts.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from engine.candidates import Candidates
from engine.edits import EditedRow, edited
from engine.noise import noise_values
from engine.ranking import choose, picked, rank
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
        return len(self.text.tokens) + self.tree.depths[self.node]

    @property
    def edited_row(self) -> EditedRow:
        """What the logits there are edited by."""
        path = self.tree.path_tokens(self.node)
        sampling = self.text.sampling
        return EditedRow(sampling.edits, self.text.tokens, path, sampling.grammar)

    @property
    def only(self) -> int | None:
        """The only token that the text's grammar lets follow, if it has one that lets but one."""
        if (grammar := self.text.sampling.grammar) is None:
            return None
        [following] = grammar.following(self.text.tokens, [self.tree.path_tokens(self.node)])
        return following.only

    def allows(self, token: int) -> bool:
        """Whether the text's grammar, if it has one, lets a token follow."""
        grammar = self.text.sampling.grammar
        path = self.tree.path_tokens(self.node)
        return grammar is None or grammar.allows(self.text.tokens, path, token)


def places(texts: Sequence[Text], tree: TokenTree, nodes: Sequence[int]) -> list[Place]:
    """The places after nodes of a tree that hangs on these texts."""
    return [Place(texts[tree.texts[node]], tree, node) for node in nodes]


def possible(texts: Sequence[Text], tree: TokenTree, nodes: Sequence[int]) -> Sequence[int]:
    """Those of some nodes that the texts can come to: a grammar rules out others, and all below.

    With the nodes' own ancestors these nodes must form a tree.
    """
    places = {
        node: Place(texts[tree.texts[node]], tree, tree.parents[node])
        for node in sorted(nodes)
        if texts[tree.texts[node]].sampling.grammar is not None
    }
    for text in {tree.texts[node] for node in places}:
        paths = [tree.path_tokens(each.node) for n, each in places.items() if tree.texts[n] == text]
        if (grammar := texts[text].sampling.grammar) is not None:
            grammar.following(texts[text].tokens, paths)  # all at once
    dead: set[int] = set()
    for node, place in places.items():
        if place.node in dead or not place.allows(tree.tokens[node]):
            dead.add(node)
    return [node for node in nodes if node not in dead] if dead else nodes


def candidates(places: Sequence[Place], logits: Tensor) -> Candidates:
    """What may follow at places, of which `logits` (places, vocabulary) are the rows."""
    samplings = [place.text.sampling for place in places]
    if any(sampling.is_edited for sampling in samplings):
        logits = _edited(places, logits)
    return rank(samplings, [place.position for place in places], logits)


def _edited(places: Sequence[Place], logits: Tensor) -> Tensor:
    """Their logits (places, vocabulary) as the edits of each leave them."""
    vocab_size = places[0].text.sampling.vocab_size
    return edited(logits[:, :vocab_size], [each.edited_row for each in places])


def scores_of(place: Place, tokens: Sequence[int], logprobs: Sequence[float]) -> list[float]:
    """The scores of a few tokens at a place, given their log-probabilities.

    What filters would drop is not known, since the other tokens are not.
    """
    sampling = place.text.sampling
    if sampling.is_edited:
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

    def chosen_after(nodes: Sequence[int]) -> list[int]:
        asked = places(texts, tree, nodes)
        samplings = [place.text.sampling for place in asked]
        positions = [place.position for place in asked]
        if not any([sampling.is_edited for sampling in samplings]):
            return choose(samplings, positions, logits, nodes)
        rows = _edited(asked, picked(logits, nodes))
        return choose(samplings, positions, rows, range(len(nodes)))

    if logits.is_cpu:
        return chosen_after
    chosen = chosen_after(range(len(tree)))
    return lambda nodes: [chosen[node] for node in nodes]


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
