"""How far a drafter's claims may be believed: counted, by kind of claim, while it drafts.

At every node that a text has reached, each child that some stage listed there is a trial, whether
or not it was verified, and the one that the target chose is a hit. To count verified nodes alone
would be to count those that looked good.
"""

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

Kind = tuple[Hashable, ...]
"""What sort of claim it is, such as (stage, rank in the stage's own order, who else says so)."""

_BROAD_MEMORY, _BROAD_WEIGHT = 1 - 1 / 64, 2.0
_NARROW_MEMORY, _NARROW_WEIGHT = 1 - 1 / 256, 6.0
_NUM_BINS = 12
_KEPT_TRIALS = 16.0


@dataclass(slots=True)
class Record:
    """Trials of claims of one kind, the probability that was claimed for them, and the hits."""

    memory: float
    trials: float = 0.0
    claimed: float = 0.0
    hits: float = 0.0

    def count(self, claim: float, is_hit: bool) -> None:
        """One more trial; older ones fade."""
        self.trials = self.memory * self.trials + 1
        self.claimed = self.memory * self.claimed + claim
        self.hits = self.memory * self.hits + is_hit

    def estimate(self, prior: float, weight: float) -> float:
        """The share of hits, where `prior` counts as much as `weight` trials."""
        return (weight * prior + self.hits) / (weight + self.trials)

    def fade(self, trials: float) -> None:
        """Weigh no more than so many trials from now on."""
        if self.trials > trials:
            share = trials / self.trials
            self.trials, self.claimed, self.hits = trials, share * self.claimed, share * self.hits


class Calibration:
    """From a claimed probability to a believed one, in two steps.

    All claims of a kind are first discounted by what such claims proved to be worth together; that
    is the prior for the claims of that kind which are about as confident. So a drafter that is
    always wrong is found out in a dozen trials, and one that is right says so bin by bin.
    """

    def __init__(self) -> None:
        self._broad: dict[Kind, Record] = {}
        self._narrow: dict[tuple[Kind, int], Record] = {}
        self._claims: dict[int, dict[tuple[int, Kind], tuple[float, Record, Record]]] = {}

    def start_tree(self) -> None:
        """Another tree: no claim has been made on it."""
        self._claims = {}

    def start_text(self) -> None:
        """Another text may be of another sort: what was learnt of kinds now weighs less."""
        for record in self._broad.values():
            record.fade(_KEPT_TRIALS)

    def believe(self, node: int, token: int, kind: Kind, claim: float) -> float:
        """The probability that the target chooses `token` at `node`, of which `claim` is claimed.

        The claim is put on record; made once more for the same node, it counts once.
        """
        broad = self._broad.get(kind)
        if broad is None:
            broad = self._broad[kind] = Record(_BROAD_MEMORY)
        place = (kind, confidence_bin(claim))
        narrow = self._narrow.get(place)
        if narrow is None:
            narrow = self._narrow[place] = Record(_NARROW_MEMORY)
        claims = self._claims.get(node)
        if claims is None:
            claims = self._claims[node] = {}
        claims[token, kind] = claim, broad, narrow
        return narrow.estimate(_worth(broad) * claim, _NARROW_WEIGHT)

    def worth(self, kind: Kind) -> float:
        """What claims of this kind proved to be worth together: a factor, at most 1."""
        broad = self._broad.get(kind)
        return 1.0 if broad is None else _worth(broad)

    def learn(self, reached: Iterable[tuple[int, int]]) -> None:
        """Settle the claims at the nodes that were reached, each given with the target's token."""
        for node, chosen in reached:
            for (token, _), (claim, broad, narrow) in self._claims.get(node, {}).items():
                broad.count(claim, token == chosen)
                narrow.count(claim, token == chosen)


def _worth(broad: Record) -> float:
    return min(1.0, (_BROAD_WEIGHT + broad.hits) / (_BROAD_WEIGHT + broad.claimed))


def confidence_bin(probability: float) -> int:
    """Bins of about equal width in log odds, fine where confident claims differ most: 0 to 11."""
    return _BIN_OF[min(int(probability * _STEPS), _STEPS)]


def _bin(probability: float) -> int:
    odds = math.log(max(probability, 1e-9) / max(1 - probability, 1e-9))
    return min(max(round(1.5 * odds) + 5, 0), _NUM_BINS - 1)


_STEPS = 256
_BIN_OF = [_bin((step + 0.5) / _STEPS) for step in range(_STEPS + 1)]
