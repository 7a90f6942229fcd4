"""What is known of texts of one sort, greedy or sampled: costs, beliefs, an account per stage."""

from collections.abc import Mapping

from engine.economy.account import Account
from engine.economy.beliefs import Beliefs
from engine.economy.costs import Costs
from engine.economy.outcome import Outcome
from engine.economy.prices import HOST, Prices
from engine.economy.record import moved

_HOST_GUESS = {1: 0.1, 64: 0.6}
_CHOOSING_RATE = 0.05


class Experience:
    """Choosing a token costs more than choosing the likeliest: each sort has costs of its own.

    `choosing` are the milliseconds of one token's choice, `pause` those of the steps to come in
    which no stage is to be asked.
    """

    def __init__(self) -> None:
        self.costs = Costs()
        self.beliefs = Beliefs()
        self.accounts: dict[str, Account] = {}
        self.choosing = self.pause = 0.0
        self.costs.curve(HOST).replace(_HOST_GUESS)

    def time(self, measured: Mapping[str, Mapping[int, float]]) -> None:
        """Take these milliseconds by rows, of passes by their names, in place of what was known."""
        self.costs.forget()
        for name, milliseconds in {HOST: _HOST_GUESS, **measured}.items():
            self.costs.curve(name).replace(milliseconds)

    def start_text(self) -> None:
        """Another text may be of another sort: what was learnt now weighs less."""
        self.beliefs.fade()
        for account in self.accounts.values():
            account.start_text(self._plain)

    def account(self, name: str) -> Account:
        """The account of the stage of this name."""
        if (account := self.accounts.get(name)) is None:
            account = self.accounts[name] = Account()
            account.start_text(self._plain)
        return account

    def observe_host(self, outcome: Outcome, drafting: float) -> None:
        """Learn what a step took beside its passes: the choice of tokens, and all the rest."""
        load = self.costs.load
        choosing = outcome.choosing / load / len(outcome.reached)
        self.choosing = moved(self.choosing, choosing, _CHOOSING_RATE)
        host = outcome.total - outcome.choosing - outcome.target - drafting
        self.costs.curve(HOST).observe(outcome.num_nodes, host / load)

    @property
    def _plain(self) -> float:
        return Prices(self.costs).plain
