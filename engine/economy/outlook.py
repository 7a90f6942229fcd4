"""What a draft pass is likely to find: how often a stage's choices of each rank were right."""

from collections.abc import Iterable, Sequence

from engine.economy.calibration import Record

_PRIOR = (0.5, 0.12, 0.06, 0.03)
_MEMORY, _WEIGHT = 1 - 1 / 64, 4.0
_KEPT_TRIALS = 12.0


class Outlook:
    """Hit rates of one stage by rank, and by how likely the node itself was thought to be.

    Confident stretches go on being confident, so what lies below a sure node is another matter
    than what lies below a doubtful one.
    """

    def __init__(self) -> None:
        self._records: dict[int, list[Record]] = {}
        self._listed: dict[int, tuple[int, Sequence[int]]] = {}
        self._expected: dict[int, list[float]] = {}

    def start_tree(self) -> None:
        """Another tree: nothing has been listed on it."""
        self._listed, self._expected = {}, {}

    def start_text(self) -> None:
        """Another text may be of another sort: what was learnt now weighs less."""
        for records in self._records.values():
            for record in records:
                record.fade(_KEPT_TRIALS)

    def expect(self, likelihood: float) -> list[float]:
        """By rank, the chance that the stage's choice below such a node is the target's."""
        grade = _grade(likelihood)
        expected = self._expected.get(grade)
        if expected is None:
            pairs = zip(self._at(grade), _PRIOR, strict=True)
            expected = [record.estimate(prior, _WEIGHT) for record, prior in pairs]
            self._expected[grade] = expected
        return expected

    def put(self, node: int, likelihood: float, tokens: Sequence[int]) -> None:
        """The stage lists these tokens below a node, best first."""
        self._listed[node] = _grade(likelihood), tokens

    def learn(self, reached: Iterable[tuple[int, int]]) -> None:
        """Settle what was listed at the nodes reached, each given with the target's token."""
        for node, chosen in reached:
            if node in self._listed:
                grade, tokens = self._listed[node]
                for record, token in zip(self._at(grade), tokens, strict=False):
                    record.count(0.0, token == chosen)

    def is_right(self, token: int) -> bool:
        """Whether the stage's first choice below the root was this token."""
        _, tokens = self._listed.get(0, (0, ()))
        return token in tokens[:1]

    def _at(self, grade: int) -> list[Record]:
        if grade not in self._records:
            self._records[grade] = [Record(_MEMORY) for _ in _PRIOR]
        return self._records[grade]


def _grade(likelihood: float) -> int:
    """Doubtful, likely, sure, or the root itself."""
    return (likelihood > 0.4) + (likelihood > 0.8) + (likelihood >= 1.0)
