"""What drafters and the decoder ask: what to believe, whether a pass pays, which tree to verify.

A step emits 1 + the sum of its nodes' reach probabilities, as far as anyone can tell beforehand,
and takes its draft passes, the target's pass and the host's work. The economy maximises tokens per
millisecond, where the time of choosing a token, which each costs alike, makes no difference and is
left out. Plain decoding, a tree of the n-grams' guesses, a chain and a wide tree are all just
trees with so many nodes and passes, so they compete without any rule that tells them apart.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from engine.economy.calibration import Calibration, Kind
from engine.economy.costs import Costs
from engine.economy.guesses import Guesses
from engine.economy.outlook import Outlook
from engine.economy.passes import PassCount
from engine.economy.trials import Trials
from engine.tree import TokenTree

TARGET_PASS, HOST = "target", "host"
"""Names of two curves: the target's pass; all that is not a pass."""

_HOST_GUESS = {1: 0.1, 64: 0.6}
_USUAL_BACKLOG = 8
_SHORTEST_OUTLOOK = 64
_SMALLEST_FLOOR = 0.005
_NODE_MILLISECONDS = 0.01
_WIDE = 32
_RATE = 0.05
_NOTHING = 1e-9
"""A price for what is free, in milliseconds, so that rates stay finite."""


@dataclass(frozen=True, slots=True)
class Spending:
    """Milliseconds of one step, of its target pass and of the choice of its tokens.

    With them the rows of the pass and the nodes of the tree.
    """

    total: float
    target: float
    choosing: float
    num_rows: int
    num_nodes: int


@dataclass(slots=True)
class _Stage:
    """What is known of one model stage, and what it did in this step."""

    outlook: Outlook = field(default_factory=Outlook)
    trials: Trials = field(default_factory=Trials)
    has_run: bool = False
    pays: bool = False


class Economy:
    """Sizes trees by what they cost and what they bring; it outlives requests.

    Until a text begins, and for a text that asks to be drafted for always, everything is free: then
    the tree that pays best is the largest one, and stages use their limits fully.
    """

    def __init__(self, costs: Costs | None = None) -> None:
        # Choosing a token costs more than the most likely one: greedy texts have their own curves.
        self._costs = {True: costs or Costs(), False: costs or Costs()}
        self.expected_tokens = 1.0
        self.expected_milliseconds = 0.0
        self._is_free = True
        self._is_greedy = True
        self._calibrations = {True: Calibration(), False: Calibration()}
        self._stages: dict[tuple[str, bool], _Stage] = {}
        self._passes: dict[tuple[str, bool], PassCount] = {}
        self._guesses = {True: Guesses(), False: Guesses()}
        self._may_guess, self._guesser = True, ""
        self._choosing = {True: 0.0, False: 0.0}
        self._spent = self._drafting = self._guessing = 0.0
        self._num_emitted = self._num_left = 0

    def start_text(self, is_greedy: bool, is_free: bool) -> None:
        """Another text begins; greedy and sampled ones are two matters."""
        self._is_greedy, self._is_free = is_greedy, is_free
        self._num_emitted = 0
        self._calibration.start_text()
        self._guesses[is_greedy].start_text(self._plain_milliseconds)
        for stage in self._stages.values():
            stage.outlook.start_text()
            stage.trials.start_text()
        for passes in self._passes.values():
            passes.start_text()

    def start_step(self, num_left: int) -> None:
        """Another step begins, with so many tokens of the reply to come at most."""
        if not self.costs.curve(HOST).is_known:
            self.costs.curve(HOST).replace(_HOST_GUESS)
        self._num_left = num_left
        self._spent = self._drafting = self._guessing = 0.0
        self._may_guess = self._is_free or self._guesses[self._is_greedy].are_due()
        self._calibration.start_tree()
        for stage in self._stages.values():
            stage.outlook.start_tree()
            stage.has_run = stage.pays = False

    @property
    def costs(self) -> Costs:
        """What passes cost in texts like the one that began last."""
        return self._costs[self._is_greedy]

    @property
    def floor(self) -> float:
        """The least reach probability with which a node can pay for its row and its handling."""
        if self._is_free:
            return 0.0
        costs = self._milliseconds(TARGET_PASS, 1, _WIDE)
        price = (costs[-1] - costs[0]) / (_WIDE - 1) + _NODE_MILLISECONDS
        return max(_SMALLEST_FLOOR, price / self._plain_milliseconds)

    @property
    def may_guess(self) -> bool:
        """Whether the n-grams are to be asked in this step."""
        return self._may_guess

    def guess(self, name: str, milliseconds: float) -> None:
        """The n-grams, a stage of this name, have been asked, which took so long."""
        self._guesser = name
        self._guessing += milliseconds
        if not self._is_free:
            self._spent += milliseconds / self.costs.load

    def believe(self, node: int, token: int, kind: Kind, claim: float) -> float:
        """The log acceptance estimate of a stage's claim, a log probability, about a child."""
        believed = self._calibration.believe(node, token, kind, math.exp(claim))
        return math.log(min(max(believed, 1e-30), 1.0))

    def worth(self, kind: Kind) -> float:
        """The factor, at most 1, by which claims of this kind are discounted before all else."""
        return self._calibration.worth(kind)

    def put(self, name: str, node: int, likelihood: float, tokens: Sequence[int]) -> None:
        """A model stage ranks these tokens best below a node."""
        self._stage(name).outlook.put(node, likelihood, tokens)

    def worth_evaluating(
        self, name: str, tree: TokenTree, waiting: Sequence[int], backlog: int, budget: int
    ) -> list[int]:
        """The nodes, of those waiting, that the next pass of a stage should evaluate.

        None if no pass pays, unless it is time to try. `backlog` is the number of committed tokens
        that would go with the pass, `budget` the most nodes that can be verified.
        """
        if not waiting:
            return []
        stage = self._stage(name)
        scores = tree.scores()
        rows = sorted(waiting, key=lambda node: (-scores[node], node))
        known = sorted(map(math.exp, scores[1:]), reverse=True)[:budget]
        now = best_size(known, self._step_milliseconds(len(known)))[1]
        found = self._found(stage, tree, rows, scores)
        if count := self._count_that_pays(name, found, now, backlog):
            news = [chance for chances in found[:count] for chance in chances]
            after = sorted([*known, *news], reverse=True)[:budget]
            price = self._pass_price(name, backlog, count)
            steps = [ms + price for ms in self._step_milliseconds(len(after))]
            if best_size(after, steps)[1] >= now * (1 - 1e-9):
                stage.pays = True
                return sorted(rows[:count])
        price = self._price(name, 1)
        reading = self._price(name, backlog + 1) - price
        is_due = not stage.has_run and stage.trials.is_due(price, reading)
        return rows[:1] if is_due else []

    def spend(self, name: str, rows: int, milliseconds: float) -> None:
        """A stage has run one pass."""
        self.costs.observe(name, rows, milliseconds)
        self._stage(name).has_run = True
        self._spent += self.costs.curve(name)(rows)
        self._drafting += milliseconds

    def worth_growing(self, name: str, most: int) -> int:
        """How many passes a stage should run on its device behind its first one: 0 to `most`."""
        passes = self._passes.setdefault((name, self._is_greedy), PassCount())
        return most if self._is_free else passes.choose(most)

    def spend_growing(
        self, name: str, rows: int, passes: Sequence[Sequence[int]], milliseconds: float
    ) -> None:
        """A stage has run a pass over so many rows and, on its device, others over these nodes."""
        if not passes:
            self.spend(name, rows, milliseconds)
            return
        first = self.costs.curve(name)(rows)
        growing = max(0.0, milliseconds / self.costs.load - first)
        self._passes.setdefault((name, self._is_greedy), PassCount()).put(passes, growing)
        self._stage(name).has_run = True
        self._spent += first + growing
        self._drafting += milliseconds

    def choose(self, tree: TokenTree, nodes: Sequence[int]) -> list[int]:
        """The nodes worth verifying, of those proposed; with them their ancestors."""
        scores = tree.scores()
        order = sorted(nodes, key=lambda node: (-scores[node], node))
        reach = [math.exp(scores[node]) for node in order]
        size = best_size(reach, self._step_milliseconds(len(order)))[0] if order else 0
        self.expected_tokens = 1 + sum(reach[:size])
        passes = (self.costs.curve(name)(1 + size) for name in (TARGET_PASS, HOST))
        choosing = self._choosing[self._is_greedy] * self.expected_tokens
        self.expected_milliseconds = (self._spent + sum(passes) + choosing) * self.costs.load
        return sorted(order[:size])

    def learn(
        self,
        reached: Sequence[tuple[int, int]],
        spending: Spending,
        proposed: Sequence[str] = (),
        accepted: Sequence[str] = (),
    ) -> None:
        """A step is over: the nodes that the text reached, each with the target's token there.

        Of the nodes verified and of those accepted, the stages that proposed them.
        """
        self._calibration.learn(reached)
        self._num_emitted += len(reached)
        self.costs.observe(TARGET_PASS, spending.num_rows, spending.target)
        passes = spending.target + self._drafting + self._guessing
        host = spending.total - spending.choosing - passes
        choosing = spending.choosing / self.costs.load / len(reached)
        self._choosing[self._is_greedy] += _RATE * (choosing - self._choosing[self._is_greedy])
        self.costs.curve(HOST).observe(spending.num_nodes, host / self.costs.load)
        if not self._is_free:
            self._settle_guesses(spending, proposed.count(self._guesser), accepted)
        for (_, is_greedy), stage in self._stages.items():
            if is_greedy == self._is_greedy:
                stage.outlook.learn(reached)
                is_right = stage.outlook.is_right(reached[0][1])
                stage.trials.settle(spending.total, stage.has_run, is_right, stage.pays)
        for (name, is_greedy), counted in self._passes.items():
            if is_greedy == self._is_greedy:
                counted.learn(name, reached, accepted, spending.total / self.costs.load)

    def _settle_guesses(
        self, spending: Spending, num_guesses: int, accepted: Sequence[str]
    ) -> None:
        """What the n-grams' nodes brought in this step, less what asking and verifying took."""
        plain, nodes = self._plain_milliseconds, spending.num_nodes
        verifying = self._price(TARGET_PASS, nodes) + self._price(HOST, nodes) - plain
        hits, asking = accepted.count(self._guesser), self._guessing / self.costs.load
        saved = hits * plain - asking - verifying * num_guesses / max(1, nodes - 1)
        self._guesses[self._is_greedy].settle(spending.total, asking, saved, hits > 0)

    @property
    def _calibration(self) -> Calibration:
        return self._calibrations[self._is_greedy]

    @property
    def _plain_milliseconds(self) -> float:
        """A step without any draft."""
        return max(self._price(TARGET_PASS, 1) + self._price(HOST, 1), _NOTHING)

    def _stage(self, name: str) -> _Stage:
        return self._stages.setdefault((name, self._is_greedy), _Stage())

    def _found(
        self, stage: _Stage, tree: TokenTree, rows: Sequence[int], scores: Sequence[float]
    ) -> list[list[float]]:
        """The reach of the children that a pass may find, by row and rank.

        They are of use only where the target's token is none of the children known already.
        """
        found = []
        for node in rows:
            known = sum(math.exp(tree.estimates[child]) for child in tree.children(node))
            share = math.exp(scores[node]) * max(0.0, 1 - known)
            likelihood = math.exp(tree.estimates[node]) if node else 1.0
            found.append([share * chance for chance in stage.outlook.expect(likelihood)])
        return found

    def _count_that_pays(
        self, name: str, found: Sequence[Sequence[float]], now: float, backlog: int
    ) -> int:
        """Over how many rows a pass pays best where time is worth `now` tokens a millisecond.

        0 if it does not, even if the target's pass over what it finds were free.
        """
        first = min(backlog, _USUAL_BACKLOG) + 1
        surcharge = self._pass_price(name, backlog, 1) - self._price(name, first)
        best, most, gain = 0, 0.0, 0.0
        prices = self._milliseconds(name, first, len(found))
        for count, (chances, price) in enumerate(zip(found, prices, strict=True), start=1):
            gain += sum(chances)
            if (net := gain - now * (price + surcharge)) >= most:
                best, most = count, net
        return best

    def _pass_price(self, name: str, backlog: int, count: int) -> float:
        """Milliseconds of a pass over so many nodes.

        Of a long backlog only the share that falls on one of the steps to come: a text is thought
        to go on for as long as it has been going.
        """
        usual = min(backlog, _USUAL_BACKLOG)
        extra = self._price(name, backlog + 1) - self._price(name, usual + 1)
        num_steps = max(1, min(self._num_left, max(_SHORTEST_OUTLOOK, self._num_emitted)) / 2)
        return self._price(name, usual + count) + extra / num_steps

    def _step_milliseconds(self, budget: int) -> list[float]:
        """Milliseconds of the whole step by the number of draft nodes verified, from 0 on."""
        target = self._milliseconds(TARGET_PASS, 1, budget + 1)
        host = self._milliseconds(HOST, 1, budget + 1)
        return [self._spent + ours + others for ours, others in zip(target, host, strict=True)]

    def _milliseconds(self, name: str, start: int, count: int) -> list[float]:
        return [0.0] * count if self._is_free else self.costs.curve(name).table(start, count)

    def _price(self, name: str, rows: int) -> float:
        return 0.0 if self._is_free else self.costs.curve(name)(rows)


def best_size(reach: Iterable[float], milliseconds: Sequence[float]) -> tuple[int, float]:
    """How many of the likeliest nodes to verify, and the tokens per millisecond that promises.

    `reach` are the nodes' reach probabilities, falling, so that no node comes before its parent;
    `milliseconds[n]` is what the step takes with n of them.
    """
    size, tokens, best = 0, 1.0, 1 / max(milliseconds[0], _NOTHING)
    for count, chance in enumerate(reach, start=1):
        tokens += chance
        if (rate := tokens / max(milliseconds[count], _NOTHING)) > best:
            size, best = count, rate
    return size, best
