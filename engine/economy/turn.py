"""One stage's part in one step: what it may do, what it did, and what came of it."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.economy.account import Account
from engine.economy.beliefs import Claims
from engine.economy.choice import NOTHING
from engine.economy.next_pass import NextPass
from engine.economy.outcome import Outcome
from engine.economy.prices import Prices
from engine.economy.record import moved_from_first
from engine.stats import StageStats
from engine.text import Text
from engine.tree import TokenTree


@dataclass(slots=True)
class Turn:
    """A stage's turn in a step, which it takes when it is asked; it ends with the step.

    `evaluated` are the nodes after which the stage's network has said what comes. The counts and
    the time are what `StageStats` tells of them. `pause` are the milliseconds for which the stage,
    having not been asked, need not be thought of.
    """

    name: str
    account: Account
    prices: Prices
    claims: Claims
    texts: Sequence[Text]
    tree: TokenTree
    evaluated: set[int] = field(default_factory=set)
    num_guesses: int = 0
    num_confirmed: int = 0
    num_passes: int = 0
    milliseconds: float = 0.0
    weighing: float = 0.0
    pause: float = math.inf
    _is_asked_on_trial: bool = False
    _is_trial: bool = False
    _has_run: bool = False
    _pays: bool = False
    _saving: float = 0.0
    _guessing: float = 0.0
    _guessed: frozenset[int] = frozenset()
    _passes: list[Sequence[int]] = field(default_factory=list)
    _num_that_pay: int | None = None
    _goes_on_trial: bool = False

    def may_ask(self, backlog: int = 0) -> bool:
        """Whether to ask the stage in this step: it may pay, or it is time to try.

        `backlog` is the number of committed tokens that would go with a pass of its network.
        """
        if any(text.is_free for text in self.texts):
            self.pause = 0.0
        elif self.pause > 0:
            self.pause = self.account.wait
            self._is_asked_on_trial = self.pause <= 0 and self.account.saved < 0
        return self.pause <= 0 or self._is_trial_due(backlog)

    def worth_evaluating(self, waiting: Sequence[int], backlog: int, budget: int) -> list[int]:
        """The nodes, of those waiting, that the stage's next pass should evaluate.

        None if no pass pays, unless it is time to try. `backlog` is the number of committed tokens
        that would go with the pass, `budget` the most nodes of each text that can be verified. What
        is free is always evaluated.
        """
        if self.prices.is_free or not waiting:
            return sorted(waiting)
        started = time.perf_counter()
        tree, texts = self.tree, self.texts
        scores = tree.scores()
        free = [node for node in waiting if texts[tree.texts[node]].is_free]
        # The best first; of equal ones that which was proposed first.
        rows = sorted(set(waiting).difference(free))
        rows.sort(key=scores.__getitem__, reverse=True)
        num_written = max(text.num_written for text in texts)
        num_left = max(text.num_left for text in texts)
        next_pass = NextPass(self.name, self.prices, backlog, num_written, num_left)
        count, saving = next_pass.weigh(self.claims, tree, scores, rows, budget)
        self._saving += saving
        self._pays = self._pays or saving > 0
        self.weighing += (time.perf_counter() - started) * 1e3
        if count or free or self._has_run or not self._is_trial_due(backlog):
            return sorted([*free, *rows[:count]])
        self._guessed = frozenset(tree.tokens[child] for child in tree.children(rows[0]))
        return rows[:1]

    def guess(self, milliseconds: float) -> None:
        """The stage, which has no network, has been asked, and that took so long."""
        self.prices.spend(milliseconds)
        self._guessing += milliseconds
        self.milliseconds += milliseconds

    def learn(self, milliseconds: float) -> None:
        """The stage, which has no network, has learnt from rows that were scored: so long.

        By whoever scored them, so it is a part of what a tree's nodes cost the host.
        """
        self._guessing += milliseconds
        self.milliseconds += milliseconds

    def run(self, rows: int, milliseconds: float, passes: Sequence[Sequence[int]] = ()) -> None:
        """The stage has run a pass over so many rows, and on its device others over these nodes."""
        self._has_run = True
        self.milliseconds += milliseconds
        if not passes:
            self.prices.spend_pass(self.name, rows, milliseconds)
            return
        load, first = self.prices.costs.load, self.prices.costs.curve(self.name)(rows)
        each = max(0.0, milliseconds / load - first) / len(passes)
        self.account.pass_milliseconds = moved_from_first(self.account.pass_milliseconds, each)
        self.prices.spend(milliseconds)
        self._passes = [*passes]

    def read(self, milliseconds: float) -> None:
        """The stage has read some of a text, which took so long; drafts are no dearer by it."""
        self.prices.drafting += milliseconds
        self.milliseconds += milliseconds

    def num_to_go_on(self, most: int) -> int:
        """How many passes to run on the device behind the first one: 0 to `most`."""
        if self.prices.is_free:
            return most
        account = self.account
        self._num_that_pay = best = account.num_that_pay(most)
        self._goes_on_trial = best < most and account.going_on.is_due(account.pass_milliseconds)
        return best + self._goes_on_trial

    def count_guesses(self, num_taken: int, num_confirmed: int) -> None:
        """The stage above has taken so many guesses, and would itself have made some of them."""
        self.num_guesses += num_taken
        self.num_confirmed += num_confirmed

    def settle(self, outcome: Outcome) -> None:
        """The step is over: the account learns what came of it."""
        account, load = self.account, self.prices.costs.load
        is_trial, worth = self._is_trial and self._has_run, 0.0
        if is_trial:
            is_right = any(
                self.claims.is_right(self.name, root, token) and token not in self._guessed
                for root, token in outcome.at_roots
            )
            worth = is_right * self.prices.token / self.prices.trial(self.name)
        account.drafting.settle(outcome.total, self._has_run, is_trial, worth, self._pays)
        self._settle_asking(outcome, load)
        per_token = outcome.total / load / len(outcome.reached)
        account.token_milliseconds = moved_from_first(account.token_milliseconds, per_token)
        brought = outcome.brought_by(self.name, self._passes)
        account.settle_passes(brought)
        if self._num_that_pay is not None:
            tried = brought[self._num_that_pay :]
            price = max(len(tried) * account.pass_milliseconds, NOTHING)
            worth = sum(tried) * account.token_milliseconds / price
            account.going_on.settle(
                outcome.total / load, bool(tried), self._goes_on_trial, worth, pays=False
            )

    def stats(self, share: float, num_proposed: int, num_accepted: int) -> StageStats:
        """As the noun that leaves the engine, with what became of the stage's proposals.

        Of a text that bears such a share of the time; guesses and passes are those of all texts.
        """
        return StageStats(
            self.name,
            num_proposed,
            num_accepted,
            self.num_guesses,
            self.num_confirmed,
            self.num_passes,
            share * self.milliseconds,
        )

    def _settle_asking(self, outcome: Outcome, load: float) -> None:
        """What asking cost: for guesses against what they brought, else against its promise."""
        price, brought, extra = self.weighing / load, self._saving, 0.0
        if self._guessing:
            share = outcome.proposed.count(self.name) / max(1, len(outcome.proposed))
            extra = share * (self.prices.verifying(outcome.num_nodes) - self.prices.plain)
            hits = outcome.accepted.count(self.name)
            price, brought = self._guessing / load, hits * self.prices.token
        account, is_asked = self.account, price > 0 and not self.prices.is_free
        if is_asked:
            account.settle_asking(price, brought - extra - price)
        is_trial = is_asked and self._is_asked_on_trial
        worth = brought / max(price + extra, NOTHING)
        account.asking.settle(outcome.total, is_asked, is_trial, worth, is_asked and worth > 1)

    def _is_trial_due(self, backlog: int) -> bool:
        price = self.prices(self.name, 1)
        reading = self.prices(self.name, backlog + 1) - price
        wait = self.account.drafting.wait(price, reading)
        self.pause = min(self.pause, wait)
        self._is_trial = wait <= 0
        return self._is_trial
