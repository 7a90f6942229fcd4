"""What drafters and the decoder ask: what to believe, whether a pass pays, which tree to verify.

A step emits 1 + the sum of its nodes' reach probabilities, as far as anyone can tell beforehand,
and takes its draft passes, the target's pass and the host's work. The economy maximises tokens per
millisecond, where the time of choosing a token, which each costs alike, makes no difference and is
left out. Plain decoding, a tree of the n-grams' guesses, a chain and a wide tree are all just
trees with so many nodes and passes, so they compete without any rule that tells them apart.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.economy.calibration import Calibration, Kind
from engine.economy.costs import Costs
from engine.economy.guesses import Guesses
from engine.economy.sizes import NOTHING, Prospects, best_size
from engine.economy.stage import Stage
from engine.tree import TokenTree

TARGET_PASS, HOST = "target", "host"
"""Names of two curves: the target's pass; all that is not a pass."""

_HOST_GUESS = {1: 0.1, 64: 0.6}
_USUAL_BACKLOG = 8
_SHORTEST_OUTLOOK = 64
_SMALLEST_REACH = 0.005
_NODE_MILLISECONDS = 0.01
_RATE = 0.05


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
class _Experience:
    """What is known of texts of one sort.

    Choosing a token costs more than choosing the likeliest one: greedy texts and sampled ones have
    costs of their own too.
    """

    costs: Costs
    calibration: Calibration = field(default_factory=Calibration)
    guesses: Guesses = field(default_factory=Guesses)
    stages: dict[str, Stage] = field(default_factory=dict)
    choosing: float = 0.0


class Economy:
    """Sizes trees by what they cost and what they bring; it outlives requests.

    Until a text begins, and for a text that asks to be drafted for always, everything is free: then
    the tree that pays best is the largest one, and stages use their limits fully.
    """

    def __init__(self, costs: Costs | None = None) -> None:
        self._experiences = {
            is_greedy: _Experience(costs or Costs()) for is_greedy in (True, False)
        }
        self._experience = self._experiences[True]
        self.expected_tokens = 1.0
        self.expected_milliseconds = 0.0
        self._is_free = True
        self._spent = self._drafting = 0.0
        self._num_emitted = self._num_left = 0

    def start_text(self, is_greedy: bool, is_free: bool) -> None:
        """Another text begins; greedy and sampled ones are two matters."""
        self._experience, self._is_free = self._experiences[is_greedy], is_free
        self._num_emitted = 0
        plain = self._plain_milliseconds
        self._experience.calibration.start_text()
        self.guesses.start_text(plain)
        for stage in self._experience.stages.values():
            stage.start_text(plain)

    def start_step(self, num_left: int) -> None:
        """Another step begins, with so many tokens of the reply to come at most."""
        if not self.costs.curve(HOST).is_known:
            self.costs.curve(HOST).replace(_HOST_GUESS)
        self._num_left = num_left
        self._spent = self._drafting = 0.0
        self.guesses.start_step(self._is_free)
        self._experience.calibration.start_tree()
        for stage in self._experience.stages.values():
            stage.start_step()

    @property
    def costs(self) -> Costs:
        """What passes cost in texts like the one that began last."""
        return self._experience.costs

    @property
    def guesses(self) -> Guesses:
        """Whether the n-grams are to be asked; they tell what it took."""
        return self._experience.guesses

    def prospects(self, budget: int) -> Prospects:
        """What it costs to grow a tree to at most so many draft nodes, up to now alone."""
        if self._is_free:
            return Prospects([0.0] * (budget + 1), 0.0, 0.0)
        return Prospects(self._step_milliseconds(budget), _NODE_MILLISECONDS, _SMALLEST_REACH)

    def may_draft(self, name: str, backlog: int) -> bool:
        """Whether to weigh a pass of a stage in this step: it may pay, or it is time to try.

        `backlog` is the number of committed tokens that would go with the pass.
        """
        return self._is_free or self._stage(name).may_weigh or self._is_trial_due(name, backlog)

    def believe(self, node: int, token: int, kind: Kind, claim: float) -> float:
        """The log acceptance estimate of a stage's claim, a log probability, about a child."""
        believed = self._experience.calibration.believe(node, token, kind, math.exp(claim))
        return math.log(min(max(believed, 1e-30), 1.0))

    def worth(self, kind: Kind) -> float:
        """The factor, at most 1, by which claims of this kind are discounted before all else."""
        return self._experience.calibration.worth(kind)

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
        if self._is_free or not waiting:
            return sorted(waiting)
        started = time.perf_counter()
        stage, scores = self._stage(name), tree.scores()
        rows = sorted(waiting, key=lambda node: (-scores[node], node))
        count, saving = self._weighed(name, tree, rows, scores, backlog, budget)
        stage.weigh((time.perf_counter() - started) * 1e3, saving)
        if count or stage.has_run or not self._is_trial_due(name, backlog):
            return sorted(rows[:count])
        stage.guessed = frozenset(tree.tokens[child] for child in tree.children(rows[0]))
        return rows[:1]

    def _weighed(
        self,
        name: str,
        tree: TokenTree,
        rows: Sequence[int],
        scores: Sequence[float],
        backlog: int,
        budget: int,
    ) -> tuple[int, float]:
        """Over how many rows a pass should go, 0 if it does not pay; the milliseconds it saves."""
        known = sorted(map(math.exp, scores[1:]), reverse=True)[:budget]
        now = best_size(known, self._step_milliseconds(len(known)))[1]
        found = self._stage(name).found(tree, rows, scores)
        count = self._count_that_pays(name, found, now, backlog)
        if not count:
            return 0, 0.0
        news = [chance for chances in found[:count] for chance in chances]
        after = sorted([*known, *news], reverse=True)[:budget]
        price = self._pass_price(name, backlog, count)
        steps = [ms + price for ms in self._step_milliseconds(len(after))]
        size, rate = best_size(after, steps)
        return (count, steps[size] * (rate / now - 1)) if rate >= now * (1 - 1e-9) else (0, 0.0)

    def spend(self, name: str, rows: int, milliseconds: float) -> None:
        """A stage has run one pass."""
        self.costs.observe(name, rows, milliseconds)
        self._stage(name).has_run = True
        self._spent += self.costs.curve(name)(rows)
        self._drafting += milliseconds

    def worth_growing(self, name: str, most: int) -> int:
        """How many passes a stage should run on its device behind its first one: 0 to `most`."""
        return most if self._is_free else self._stage(name).passes.choose(most)

    def spend_growing(
        self, name: str, rows: int, passes: Sequence[Sequence[int]], milliseconds: float
    ) -> None:
        """A stage has run a pass over so many rows and, on its device, others over these nodes."""
        if not passes:
            self.spend(name, rows, milliseconds)
            return
        first = self.costs.curve(name)(rows)
        growing = max(0.0, milliseconds / self.costs.load - first)
        stage = self._stage(name)
        stage.passes.put(passes, growing)
        stage.has_run = True
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
        choosing = self._experience.choosing * self.expected_tokens
        self.expected_milliseconds = (self._spent + sum(passes) + choosing) * self.costs.load
        self.expected_milliseconds += self.guesses.milliseconds
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
        self._experience.calibration.learn(reached)
        self._num_emitted += len(reached)
        self.costs.observe(TARGET_PASS, spending.num_rows, spending.target)
        weighing = sum(stage.weighing for stage in self._experience.stages.values())
        passes = spending.target + self._drafting + self.guesses.milliseconds + weighing
        host = spending.total - spending.choosing - passes
        choosing = spending.choosing / self.costs.load / len(reached)
        self._experience.choosing += _RATE * (choosing - self._experience.choosing)
        self.costs.curve(HOST).observe(spending.num_nodes, host / self.costs.load)
        for name, stage in self._experience.stages.items():
            stage.settle(spending.total, self.costs.load, reached)
            stage.passes.learn(name, reached, accepted, spending.total / self.costs.load)
        if not self._is_free:
            plain, nodes = self._plain_milliseconds, spending.num_nodes
            verifying = self._price(TARGET_PASS, nodes) + self._price(HOST, nodes) - plain
            self.guesses.settle(
                spending.total, plain, verifying, self.costs.load, proposed, accepted
            )

    @property
    def _plain_milliseconds(self) -> float:
        """A step without any draft."""
        return max(self._price(TARGET_PASS, 1) + self._price(HOST, 1), NOTHING)

    def _stage(self, name: str) -> Stage:
        stages = self._experience.stages
        if name not in stages:
            stages[name] = Stage()
            stages[name].start_text(self._plain_milliseconds)
        return stages[name]

    def _is_trial_due(self, name: str, backlog: int) -> bool:
        price = self._price(name, 1)
        return self._stage(name).trials.is_due(price, self._price(name, backlog + 1) - price)

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
        spent = self._spent + self.guesses.milliseconds / self.costs.load
        return [spent + ours + others for ours, others in zip(target, host, strict=True)]

    def _milliseconds(self, name: str, start: int, count: int) -> list[float]:
        return [0.0] * count if self._is_free else self.costs.curve(name).table(start, count)

    def _price(self, name: str, rows: int) -> float:
        return 0.0 if self._is_free else self.costs.curve(name)(rows)
