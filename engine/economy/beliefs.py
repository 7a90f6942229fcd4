"""How far a drafter may be believed: counted, by kind of claim, while it drafts.

At every node that a text has reached, each child that some stage listed there is a trial, whether
or not it was verified, and the one that the target chose is a hit. To count verified nodes alone
would be to count those that looked good.
"""

import math
from collections.abc import Hashable, Iterable, Sequence

from engine.economy.record import Record

Kind = tuple[Hashable, ...]
"""What sort of claim it is, such as (stage, rank in the stage's own order, who else says so)."""

_BROAD_MEMORY, _BROAD_WEIGHT = 1 - 1 / 64, 2.0
_NARROW_MEMORY, _NARROW_WEIGHT = 1 - 1 / 256, 6.0
_NUM_BINS = 12
_KEPT_CLAIMS, _KEPT_HITS = 16.0, 12.0

_RANK_PRIORS = (0.5, 0.12, 0.06, 0.03)
_RANK_MEMORY, _RANK_WEIGHT = 1 - 1 / 64, 4.0


class Beliefs:
    """What all steps so far have taught: the worth of claims, and what passes find.

    All claims of a kind are first discounted by what such claims proved to be worth together; that
    is the prior for the claims of that kind which are about as confident. So a drafter that is
    always wrong is found out in a dozen trials, and one that is right says so bin by bin.

    What a pass is likely to find is known by stage, by rank, and by how likely the node itself was
    thought to be: confident stretches go on being confident.
    """

    def __init__(self) -> None:
        self._broad: dict[Kind, Record] = {}
        self._narrow: dict[tuple[Kind, int], Record] = {}
        self._ranks: dict[tuple[str, int], list[Record]] = {}

    def fade(self) -> None:
        """Another text may be of another sort: what was learnt of kinds now weighs less."""
        for record in self._broad.values():
            record.fade(_KEPT_CLAIMS)
        for records in self._ranks.values():
            for record in records:
                record.fade(_KEPT_HITS)

    def worth(self, kind: Kind) -> float:
        """What claims of this kind proved to be worth together: a factor, at most 1."""
        broad = self._broad.get(kind)
        return 1.0 if broad is None else _worth(broad)

    def of_claims(self, kind: Kind, claim: float) -> tuple[Record, Record]:
        """The records of all claims of a kind, and of those about as confident as this one."""
        broad = self._broad.get(kind)
        if broad is None:
            broad = self._broad[kind] = Record(_BROAD_MEMORY)
        place = kind, confidence_bin(claim)
        narrow = self._narrow.get(place)
        if narrow is None:
            narrow = self._narrow[place] = Record(_NARROW_MEMORY)
        return broad, narrow

    def of_ranks(self, stage: str, grade: int) -> list[Record]:
        """The records of a stage's choices below nodes of a grade, by rank."""
        found = self._ranks.get((stage, grade))
        if found is None:
            found = self._ranks[stage, grade] = [Record(_RANK_MEMORY) for _ in _RANK_PRIORS]
        return found


class Claims:
    """What stages claim in one step, by node of its tree; settled by what the text reaches."""

    __slots__ = ("_beliefs", "_claims", "_expected", "_ranked")

    def __init__(self, beliefs: Beliefs) -> None:
        self._beliefs = beliefs
        self._claims: dict[int, dict[tuple[int, Kind], tuple[float, Record, Record]]] = {}
        self._ranked: dict[int, dict[str, tuple[int, Sequence[int]]]] = {}
        self._expected: dict[tuple[str, int], tuple[list[float], float]] = {}

    def believe(self, node: int, token: int, kind: Kind, claim: float) -> float:
        """The log probability, as believed, that the target chooses `token` at `node`.

        `claim` is the log probability that is claimed. It is put on record; made once more for the
        same node, it counts once.
        """
        claimed = math.exp(claim)
        broad, narrow = self._beliefs.of_claims(kind, claimed)
        claims = self._claims.get(node)
        if claims is None:
            claims = self._claims[node] = {}
        claims[token, kind] = claimed, broad, narrow
        believed = narrow.estimate(_worth(broad) * claimed, _NARROW_WEIGHT)
        return math.log(min(max(believed, 1e-30), 1.0))

    def worth(self, kind: Kind) -> float:
        """The factor, at most 1, by which claims of this kind are discounted before all else."""
        return self._beliefs.worth(kind)

    def rank(self, stage: str, node: int, likelihood: float, tokens: Sequence[int]) -> None:
        """A stage ranks these tokens best below a node, whose own likelihood is given."""
        self._ranked.setdefault(node, {})[stage] = _grade(likelihood), tokens

    def expect(self, stage: str, likelihood: float) -> tuple[list[float], float]:
        """The chance that the stage's choice below such a node is the target's: by rank, in all."""
        key = stage, _grade(likelihood)
        expected = self._expected.get(key)
        if expected is None:
            pairs = zip(self._beliefs.of_ranks(*key), _RANK_PRIORS, strict=True)
            chances = [record.estimate(prior, _RANK_WEIGHT) for record, prior in pairs]
            expected = self._expected[key] = chances, sum(chances)
        return expected

    def is_right(self, stage: str, root: int, token: int) -> bool:
        """Whether the stage's first choice below a root was this token."""
        _, tokens = self._ranked.get(root, {}).get(stage, (0, ()))
        return token in tokens[:1]

    def settle(self, reached: Iterable[tuple[int, int]]) -> None:
        """Learn from the nodes that the text reached, each given with the target's token."""
        for node, chosen in reached:
            for (token, _), (claim, broad, narrow) in self._claims.get(node, {}).items():
                broad.count(claim, token == chosen)
                narrow.count(claim, token == chosen)
            for stage, (grade, tokens) in self._ranked.get(node, {}).items():
                records = self._beliefs.of_ranks(stage, grade)
                for record, token in zip(records, tokens, strict=False):
                    record.count(0.0, token == chosen)


def _worth(broad: Record) -> float:
    return min(1.0, (_BROAD_WEIGHT + broad.hits) / (_BROAD_WEIGHT + broad.claimed))


def _grade(likelihood: float) -> int:
    """Doubtful, likely, sure, or the root itself."""
    return (likelihood > 0.4) + (likelihood > 0.8) + (likelihood >= 1.0)


def confidence_bin(probability: float) -> int:
    """Bins of about equal width in log odds, fine where confident claims differ most: 0 to 11."""
    return _BIN_OF[min(int(probability * _STEPS), _STEPS)]


def _bin(probability: float) -> int:
    odds = math.log(max(probability, 1e-9) / max(1 - probability, 1e-9))
    return min(max(round(1.5 * odds) + 5, 0), _NUM_BINS - 1)


_STEPS = 256
_BIN_OF = [_bin((step + 0.5) / _STEPS) for step in range(_STEPS + 1)]
