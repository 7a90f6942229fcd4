"""The stage with a network, a draft model or a head: it grows the tree best-first, pass by pass.

Before each of its passes it asks the stage below for guesses; a guess that it would have made
itself is a level of the tree for which it needs no further pass.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from engine.config import ModelStageConfig
from engine.drafting.frontier import Frontier
from engine.drafting.on_device import Noise, OnDevice
from engine.drafting.on_host import Expander, OnHost
from engine.drafting.stage import Drafter, Scored
from engine.economy import Economy, Step
from engine.kernels import triton_noise
from engine.passes import Record
from engine.scorer import TreeScorer
from engine.text import Text
from engine.tree import bushy_tree

_log = logging.getLogger(__name__)


class ModelDrafter:
    """A draft model or a head over its stage below; its cache holds the first committed tokens.

    Before drafting it feeds the committed tokens that it lacks, root included, in the first pass.
    """

    def __init__(
        self,
        config: ModelStageConfig,
        model: TreeScorer,
        below: Drafter,
        name: str,
        vocab_size: int,
    ) -> None:
        self.name, self.budget = name, config.budget
        self._config = config
        self._model = model
        self._below = below
        self._on_host = OnHost(config, model, name, vocab_size)
        self._expander: Expander = self._on_host
        has_rows = model.function.states is None  # and nothing that a step's host must see
        self._may_go_on = model.device.type == "cuda" and config.passes > 1 and has_rows
        self._prepare_device()

    def grow(self, step: Step, leaves: Sequence[int], budget: int) -> list[int]:
        """Expand the best nodes below `leaves` while a pass pays; recommend each text's `budget`.

        A step in which no pass is expected to pay is left to the stage below, and so is a text that
        has outgrown the model's window.
        """
        turn, below, texts = step.turn(self.name), self._below, step.tree.texts
        max_depths = [self._model.max_depth(text.tokens) for text in step.texts]
        frontier = Frontier(step, turn, max_depths)
        own = [leaf for leaf in leaves if max_depths[texts[leaf]] > 0]
        if not own or not turn.may_ask(self._num_missing(step, own)):
            return below.grow(step, leaves, min(budget, below.budget))
        if len(own) < len(leaves):
            below.grow(step, list(set(leaves).difference(own)), min(budget, below.budget))
        if not turn.evaluated:
            self._model.strips.rollback()
        left, nodes = self._config.passes, frontier.open_among(own)
        while left > 0 and (nodes := nodes or frontier.best(own, budget, self._config.width)):
            guesses = below.grow(step, nodes, below.budget)
            waiting = {*nodes, *frontier.open_among(guesses)}
            num_missing = self._num_missing(step, waiting)
            rows = turn.worth_evaluating(list(waiting), num_missing, budget)
            if not (rows := self._of_texts_read(frontier, rows)):
                break
            expansion = self._expander.expand(frontier, rows, left)
            left, nodes = left - expansion.num_passes, []
            if guesses:
                below.credit(step, guesses, expansion.confirmed)
            if expansion.scored is not None:
                below.learn(step, expansion.scored)
        return step.tree.best(budget, below=leaves)

    def learn(self, step: Step, scored: Scored) -> None:
        """Its own rows have told the stages below what it says; the target's tell what is right."""
        self._below.learn(step, scored)

    def credit(self, step: Step, guesses: Sequence[int], confirmed: set[int]) -> None:
        """All of them are its own, whoever named them first."""
        step.turn(self.name).count_guesses(len(guesses), len(confirmed.intersection(guesses)))

    def rehearsals(self, text: Text) -> Mapping[str, Callable[[int], object]]:
        """A pass of this stage's network, then those of the stages below."""

        def rehearse(num_rows: int) -> None:
            self._model.strips.rollback()
            step = Economy().step([text], [num_rows])  # which learns for nobody
            step.tree = bushy_tree(text.tokens[-1], num_rows)
            frontier = Frontier(step, step.turn(self.name), [num_rows])
            self._expander.expand(frontier, range(num_rows), most=1)

        self._prepare_device()
        return {self.name: rehearse, **self._below.rehearsals(text)}

    def scorers(self) -> Mapping[str, TreeScorer]:
        """This stage's network, then those of the stages below."""
        return {self.name: self._model, **self._below.scorers()}

    def go_on_on_device(self, record: Record, noise: Noise) -> None:
        """From now on all passes after a tree's first are run on the device; see `on_device`.

        Raises what `record` raises of what cannot be recorded.
        """
        self._expander = OnDevice(self._on_host, record, noise)

    def _prepare_device(self) -> None:
        """Have later passes recorded if the first ones are by now, where that is of use.

        To be called whenever passes may have come to be run in another way: they are timed then.
        """
        if not self._may_go_on or self._expander is not self._on_host:
            return
        if (record := self._model.runner.recorder) is None or not triton_noise.is_usable():
            return
        try:
            self.go_on_on_device(record, triton_noise.noise_of)
        except Exception as error:  # whatever a network may do that a graph cannot hold
            self._may_go_on = False
            _log.warning("the %s goes back to the host for each pass: %s", self.name, error)

    def _num_missing(self, step: Step, nodes: Iterable[int]) -> int:
        """How many committed tokens the model lacks of the texts of these nodes."""
        fed = {step.tree.texts[node] for node in nodes}
        return sum([self._model.num_missing(step.texts[text]) for text in fed])

    def _of_texts_read(self, frontier: Frontier, nodes: Sequence[int]) -> list[int]:
        """Those of these nodes whose texts the model has read, but for what goes with a tree.

        Of one that it has not it reads a chunk, one a step; meanwhile it drafts for the others.
        """
        step, texts, started = frontier.step, frontier.step.tree.texts, time.perf_counter()
        behind = {
            text
            for text in {texts[node] for node in nodes}
            if self._model.num_missing(step.texts[text]) > self._model.chunk
        }
        if behind and not frontier.behind:
            self._model.read(step.texts[min(behind)])
            self._model.wait()
            frontier.turn.read((time.perf_counter() - started) * 1e3)
        frontier.behind.update(behind)
        return [node for node in nodes if texts[node] not in behind]
