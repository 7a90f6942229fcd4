"""What is observed once per step, of the whole and of each stage."""

from collections.abc import Sequence

from prometheus_client import Counter, Histogram

from engine import Output, StageStats
from server.metrics.families import COUNTS, Families


class StepFigures:
    """What every step adds; a draft, in vLLM's sense, is one such step."""

    def __init__(self, families: Families, model: str) -> None:
        self._model = model
        self._stages = _StageFamilies(families, model)
        of_vllm = families.counter
        self._generated = of_vllm("vllm:generation_tokens", "Tokens replied.")
        self._drafts = of_vllm("vllm:spec_decode_num_drafts", "Steps that verified a draft.")
        self._draft_tokens = of_vllm("vllm:spec_decode_num_draft_tokens", "Draft nodes in trees.")
        self._accepted = of_vllm("vllm:spec_decode_num_accepted_tokens", "Draft tokens accepted.")
        self._per_position = families.counter_by(
            "position", "vllm:spec_decode_num_accepted_tokens_per_pos", "Accepted by depth."
        )
        self._known: list[Counter] = []
        self._seconds = families.histogram(
            "stagetree_step_seconds", "A text's share of a step; all of it where it was alone."
        )
        self._texts = families.histogram(
            "stagetree_step_texts", "Texts that shared a step, as each of them saw it.", COUNTS
        )
        self._target = families.counter("stagetree_target_seconds", "Time spent in the target.")
        self._nodes = families.histogram(
            "stagetree_tree_nodes", "Nodes of a text's verified tree, with its root.", COUNTS
        )

    def observe(self, step: Output, num_kept: int) -> None:
        """Add a step, of whose tokens the reply keeps `num_kept`."""
        stats = step.stats
        self._generated.inc(num_kept)
        if stats.num_draft_tokens:
            self._drafts.inc()
        self._draft_tokens.inc(stats.num_draft_tokens)
        self._accepted.inc(stats.num_accepted_drafts)
        for counter in self._positions(stats.num_accepted_drafts):
            counter.inc()
        self._seconds.observe(stats.milliseconds / 1e3)
        self._target.inc(stats.target_milliseconds / 1e3)
        self._texts.observe(stats.num_texts)
        self._nodes.observe(stats.num_nodes)
        for stage in stats.stages:
            self._stages.observe(stage)

    def _positions(self, count: int) -> Sequence[Counter]:
        """The series of the first so many, each of which is looked up once."""
        for position in range(len(self._known), count):
            self._known.append(self._per_position.labels(self._model, str(position)))
        return self._known[:count]


class _StageFamilies:
    """The families of which each stage has a series; `of` binds them to one stage."""

    def __init__(self, families: Families, model: str) -> None:
        def counter(what: str, text: str) -> Counter:
            return families.counter_by("stage", f"stagetree_stage_{what}", text)

        def histogram(what: str, text: str) -> Histogram:
            return families.histogram_by("stage", f"stagetree_step_{what}", text)

        self._model = model
        self._known: dict[str, tuple[list[Counter], list[Histogram]]] = {}
        self._counters = [
            counter("proposed", "Nodes of verified trees that the stage proposed."),
            counter("accepted", "Of these, the ones the target agreed with."),
            counter("guesses", "Nodes offered to the stage above."),
            counter("confirmed", "Of these, the ones that stage would have chosen."),
            counter("passes", "Draft passes, or look-ups of a stage with no model."),
            counter("seconds", "Time spent drafting."),
        ]
        self._histograms = [
            histogram("accepted", "Accepted tokens of the stage in one step."),
            histogram("passes", "Draft passes of the stage in one step."),
        ]

    def observe(self, stage: StageStats) -> None:
        """Add one stage's part in one step."""
        counters, (accepted, passes) = self._of(stage.name)
        proposed, agreed = stage.num_proposed, stage.num_accepted
        counts = (proposed, agreed, stage.num_guesses, stage.num_confirmed, stage.num_passes)
        for counter, amount in zip(counters, (*counts, stage.milliseconds / 1e3), strict=True):
            if amount:  # most are nothing, in most steps
                counter.inc(amount)
        accepted.observe(agreed)
        passes.observe(stage.num_passes)

    def _of(self, name: str) -> tuple[list[Counter], list[Histogram]]:
        if name not in self._known:
            self._known[name] = (
                [counter.labels(self._model, name) for counter in self._counters],
                [histogram.labels(self._model, name) for histogram in self._histograms],
            )
        return self._known[name]
