"""The stage without a network: sources of candidates, and one queue. Microseconds, and no pass.

Stages without a network that stand next to each other in a list, n-grams and recycled proposals,
are one drafter: at every node their claims compete, each believed as its own kind has fared. Below
a draft model this is the paper's draft² (Spector & Ré, section 3.2): it guesses what the draft will
say next, so that one draft pass evaluates several levels. Alone it drafts for any target.
"""

import heapq
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from engine.choosing import Place
from engine.drafting.lookup import MAX_MATCH
from engine.drafting.sources import CERTAIN, Claim, Source
from engine.drafting.stage import NoStage, Scored
from engine.economy import Step


class ModelFreeDrafter(NoStage):
    """Proposes what its sources name, best-first, with the name of the first that names it.

    Of a node's candidates the best `children` are kept.
    """

    def __init__(self, sources: Sequence[Source], budget: int, children: int) -> None:
        self.sources, self.budget, self.children = tuple(sources), budget, children

    def grow(self, step: Step, leaves: Sequence[int], budget: int) -> list[int]:
        """Add of each text the at most `budget` likeliest nodes below `leaves`; recommend them all.

        Nodes that are too unlikely to pay are left out, and no source is asked while it does not.
        """
        asked = [
            source
            for source in self.sources
            if source.is_of_use(step.texts) and step.turn(source.name).may_ask()
        ]
        if not asked:
            return []
        for source in asked:
            for text in step.texts:
                source.read(text)
        return _Growth(step, asked, self.children).grow(leaves, budget)

    def learn(self, step: Step, scored: Scored) -> None:
        """Let the sources that were asked in this step learn from what was scored."""
        for source in self.sources:
            if source.name in step.turns and (turn := step.turn(source.name)).num_passes:
                started = time.perf_counter()
                source.learn(scored)
                turn.learn((time.perf_counter() - started) * 1e3)

    def credit(self, step: Step, guesses: Sequence[int], confirmed: set[int]) -> None:
        """To every source what it proposed itself."""
        origins = step.tree.origins
        for name in dict.fromkeys(source.name for source in self.sources):
            if own := [node for node in guesses if origins[node] == name]:
                step.turn(name).count_guesses(len(own), len(confirmed.intersection(own)))


class _Candidate(NamedTuple):
    """A node that might be added: of equal scores the shallower one goes first.

    No two have the same `number`, so that what comes behind it is never compared.
    """

    cost: float
    depth: int
    number: int
    parent: int
    estimate: float
    source: Source
    claim: Claim


@dataclass(slots=True)
class _Growth:
    """One call of `grow`: what the sources list, and how long each stage took over it."""

    step: Step
    sources: Sequence[Source]
    children: int
    _numbers: Iterator[int] = field(default_factory=count)
    _seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def grow(self, leaves: Sequence[int], budget: int) -> list[int]:
        """The nodes that are worth it, the likeliest first."""
        started = time.perf_counter()
        step, tree = self.step, self.step.tree
        scores, num_texts = tree.scores(), len(step.texts)
        prospects = step.prospects(budget * num_texts)
        queue = [each for leaf in leaves for each in self._candidates(leaf, -scores[leaf], None)]
        heapq.heapify(queue)
        proposed: dict[int, None] = {}
        expected, left = float(num_texts), [budget] * num_texts
        while queue:
            best = heapq.heappop(queue)
            chance, place = math.exp(-best.cost), tree.texts[best.parent]
            if not left[place]:
                continue
            is_good = prospects.are_good(chance, len(proposed), expected)
            if not is_good and not step.texts[place].is_free:
                if not any(text.is_free for text in step.texts):
                    break
                continue
            node = tree.add(best.parent, best.claim.token, best.estimate, best.source.name)
            if node in proposed:  # a leaf may lie below another leaf
                continue
            proposed[node] = None
            expected += chance
            left[place] -= 1
            if left[place]:
                for candidate in self._candidates(node, best.cost, best):
                    heapq.heappush(queue, candidate)
        self._settle(time.perf_counter() - started)
        return list(proposed)

    def _candidates(self, node: int, cost: float, above: _Candidate | None) -> list[_Candidate]:
        """The likeliest next tokens after a node, whose score is -`cost`, `above` as a candidate.

        The claims of one token are one: that of the first source, as sure as the surest. Its kind
        tells whether another says so too, and whether one before it says otherwise.
        """
        step = self.step
        if not step.can_extend(node):
            return []
        depth = step.tree.depths[node]
        listed = self._listed(node, above)
        num_sayers = Counter([claim.token for _, claims in listed for claim in claims])
        surest: dict[int, float] = {}
        for _, claims in listed:
            for claim in claims:
                surest[claim.token] = max(claim.logprob, surest.get(claim.token, -math.inf))
        found: dict[int, _Candidate] = {}
        for source, claims in listed:
            is_other = bool(found)
            for claim in claims:
                if (token := claim.token) in found:
                    continue
                kind = (*claim.kind, num_sayers[token] > 1, is_other)
                estimate = step.claims.believe(node, token, kind, surest[token])
                price = cost - estimate
                number = next(self._numbers)
                found[token] = _Candidate(price, depth, number, node, estimate, source, claim)
        return heapq.nsmallest(self.children, found.values())

    def _listed(self, node: int, above: _Candidate | None) -> list[tuple[Source, Sequence[Claim]]]:
        """What each source claims after a node, of what the text's grammar allows there.

        A long match is followed without a search, and without asking the others at every token;
        after what is certain nobody is asked.
        """
        step, tree, seconds = self.step, self.step.tree, self._seconds
        text = step.texts[tree.texts[node]]
        place = Place(text, tree, node)
        if above is not None and (claim := above.source.follow(above.claim)) is not None:
            step.turn(above.source.name).num_passes += 1
            return [(above.source, [claim])] if place.allows(claim.token) else []
        tail = [*text.tokens[-MAX_MATCH:], *tree.path_tokens(node)]
        listed: list[tuple[Source, Sequence[Claim]]] = []
        for source in self.sources:
            started = time.perf_counter()
            claims = [each for each in source.claims(place, tail) if place.allows(each.token)]
            step.turn(source.name).num_passes += 1
            seconds[source.name] += time.perf_counter() - started
            if claims:
                listed.append((source, claims))
                if claims[0].logprob == CERTAIN:
                    break
        return listed

    def _settle(self, seconds: float) -> None:
        """Each stage bears what it took, and an equal part of what all of them did together."""
        names = dict.fromkeys(source.name for source in self.sources)
        shared = (seconds - sum(self._seconds.values())) / len(names)
        for name in names:
            self.step.turn(name).guess((self._seconds[name] + shared) * 1e3)
