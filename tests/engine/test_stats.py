"""The statistics of steps and their fold."""

from hypothesis import given
from hypothesis import strategies as st

from engine.stats import SpeculationStats, StageStats, StepStats


@st.composite
def steps(draw: st.DrawFn) -> StepStats:
    num_nodes = draw(st.integers(1, 40))
    accepted = draw(st.integers(0, num_nodes - 1))
    stages = tuple(
        StageStats(name, draw(st.integers(0, 9)), draw(st.integers(0, 9)), num_passes=1)
        for name in draw(st.sets(st.sampled_from(["draft", "ngram"])))
    )
    return StepStats(num_nodes, accepted, 2.0, 1.0, stages)


@given(st.lists(steps(), min_size=1))
def test_the_fold_adds_up(all_steps: list[StepStats]) -> None:
    total = SpeculationStats.fold(all_steps)
    histogram = total.acceptance_histogram
    assert sum(histogram) == total.num_steps == len(all_steps)
    assert sum(j * count for j, count in enumerate(histogram)) == total.num_accepted_drafts
    emitted = sum(step.num_accepted_drafts + 1 for step in all_steps)
    assert abs(total.mean_acceptance_length - emitted / len(all_steps)) < 1e-9
    assert total.num_draft_tokens == sum(step.num_nodes - 1 for step in all_steps)
    for name, stage in total.stages.items():
        parts = [s for step in all_steps for s in step.stages if s.name == name]
        assert stage.num_proposed == sum(part.num_proposed for part in parts)
        assert stage.num_passes == len(parts)


def test_nothing_yet_is_zero_and_not_an_error() -> None:
    empty = SpeculationStats()
    assert empty.mean_acceptance_length == 0.0
    assert empty.draft_acceptance_rate == 0.0
