"""What an engine knows of what trees cost and bring, whatever text they are grown for.

A step emits 1 + the sum of its nodes' reach probabilities, as far as anyone can tell beforehand,
and takes its draft passes, the target's pass and the host's work. The economy maximises tokens per
millisecond, where the time of choosing a token, which each costs alike, makes no difference and is
left out. Plain decoding, a tree of the n-grams' guesses, a chain and a wide tree are all just
trees with so many nodes and passes, so they compete without any rule that tells them apart.
"""

from collections.abc import Mapping, Sequence

from engine.economy.costs import Costs
from engine.economy.experience import Experience
from engine.economy.step import Step
from engine.text import Text


class Economy:
    """Sizes trees by what they cost and what they bring; it outlives texts.

    For a text that asks to be drafted for always, everything is free: then the tree that pays best
    is the largest one, and stages use their limits fully.
    """

    def __init__(self) -> None:
        self._experiences = {is_greedy: Experience() for is_greedy in (True, False)}

    def step(self, texts: Sequence[Text], max_depths: Sequence[int]) -> Step:
        """A step of texts, none of whose nodes may lie deeper than these.

        A step of several is one of sampled texts if any of them is.
        """
        experience = self._experiences[all([text.is_greedy for text in texts])]
        if any([not text.num_written for text in texts]):
            experience.start_text()
            # It may soon be in steps of the other sort.
            for each in self._experiences.values():
                each.pause = 0.0
        return Step(texts, max_depths, experience)

    def costs(self, is_greedy: bool = True) -> Costs:
        """What passes cost in greedy texts, or in sampled ones."""
        return self._experiences[is_greedy].costs

    def time(self, is_greedy: bool, measured: Mapping[str, Mapping[int, float]]) -> None:
        """Take these milliseconds by rows, of passes by their names, in place of what was known."""
        self._experiences[is_greedy].time(measured)
