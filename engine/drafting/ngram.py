"""The n-gram stage: a Katz trigram table and a live look-up. No model, no pass, microseconds.

Below a draft model it is the paper's draft² (Spector & Ré, section 3.2): it guesses what the draft
will say next, so that one draft pass evaluates several levels. Alone it drafts for any target.
"""

import heapq
import math
from collections.abc import Sequence

from engine.config import NgramStageConfig
from engine.drafting.base import Context, StageWork
from engine.drafting.katz import KatzTable
from engine.drafting.lookup import SuffixLookup
from engine.tree import TokenTree

_EULER = 0.5772
_MATCH_DOUBT = 3.0
"""A match of m tokens is trusted m / (m + this): 0.5 for the shortest, 0.9 for a long one."""


class NgramDrafter:
    """Proposes by table and look-up together, best-first, ranked under the request's own noise."""

    def __init__(self, config: NgramStageConfig, table: KatzTable | None, name: str) -> None:
        self.budget = config.budget
        self.work = StageWork(name)
        self._children = config.children
        self._table = table
        self._lookup = SuffixLookup() if config.lookup else None

    def reset(self, prompt: Sequence[int]) -> None:
        """Index the prompt; earlier texts stay within reach."""
        if self._lookup is not None:
            self._lookup.start_text(prompt)

    def observe(self, tokens: Sequence[int]) -> None:
        """Index what a step has committed."""
        if self._lookup is not None:
            self._lookup.extend(tokens)

    def grow(
        self, context: Context, tree: TokenTree, leaves: Sequence[int], budget: int
    ) -> list[int]:
        """Add the at most `budget` likeliest nodes below `leaves` and recommend them all."""
        with self.work.timed():
            scores = tree.scores()
            # Of equal scores the shallower node goes first, whatever its index.
            queue = [
                (-scores[leaf] - estimate, tree.depths[leaf], leaf, token, estimate)
                for leaf in leaves
                for token, estimate in self._continuations(context, tree, leaf)
            ]
            heapq.heapify(queue)
            proposed: list[int] = []
            while queue and len(proposed) < budget:
                cost, depth, parent, token, estimate = heapq.heappop(queue)
                node = tree.add(parent, token, estimate, self.work.name)
                if node in proposed:  # a leaf may lie below another leaf
                    continue
                proposed.append(node)
                for token, estimate in self._continuations(context, tree, node):
                    heapq.heappush(queue, (cost - estimate, depth + 1, node, token, estimate))
        return proposed

    def take_work(self) -> list[StageWork]:
        """This stage's work; there is none below it."""
        return [self.work.take()]

    def _continuations(
        self, context: Context, tree: TokenTree, node: int
    ) -> list[tuple[int, float]]:
        """The likeliest next tokens after a node, with their log acceptance estimates."""
        if not context.can_extend(tree, node):
            return []
        self.work.num_passes += 1
        path = tree.path_tokens(node)
        found: dict[int, float] = {}
        if self._table is not None:
            found = self._from_table(context, path)
        if self._lookup is not None:
            tail = context.tokens[-self._lookup.max_match :] + path
            if (match := self._lookup.find(tail)) is not None:
                token, length = match
                trust = math.log(length / (length + _MATCH_DOUBT))
                found[token] = max(trust, found.get(token, trust))
        if len(found) <= self._children:
            return list(found.items())
        return heapq.nlargest(self._children, found.items(), key=lambda item: item[1])

    def _from_table(self, context: Context, path: Sequence[int]) -> dict[int, float]:
        assert self._table is not None
        last_two = (context.tokens[-2:] + list(path))[-2:]
        before, last = last_two if len(last_two) == 2 else (-1, last_two[-1])
        tokens, logprobs = self._table.continuations(before, last)
        if context.sampler.params.is_greedy:
            return dict(zip(tokens, logprobs, strict=True))
        position = context.root_position + len(path) + 1
        return _under_noise(context, position, tokens, logprobs)


def _under_noise(
    context: Context, position: int, tokens: Sequence[int], logprobs: Sequence[float]
) -> dict[int, float]:
    """Estimates of a few likely tokens once the position's noise is known.

    The noise decides among tokens: the estimate is the softmax of the perturbed log-probabilities.
    The best of the tokens not listed is itself Gumbel, around the logarithm of their mass.
    """
    temperature = context.sampler.params.temperature
    noise = context.sampler.noise.values(position, tokens)
    perturbed = [lp / temperature + g for lp, g in zip(logprobs, noise, strict=True)]
    missing = max(1e-6, 1.0 - sum(math.exp(lp) for lp in logprobs))
    rest = math.log(missing) / temperature + _EULER
    top = max(rest, *perturbed)
    total = math.exp(rest - top) + sum(math.exp(score - top) for score in perturbed)
    normaliser = top + math.log(total)
    return {t: score - normaliser for t, score in zip(tokens, perturbed, strict=True)}
