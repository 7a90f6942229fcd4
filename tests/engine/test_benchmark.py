"""The benchmark's honesty: same texts, fresh look-ups, loops cut, figures that add up."""

import pytest

from engine import benchmark
from engine.api import Engine
from engine.benchmark import Mode, Workload, compare, modes_of
from engine.config import EngineConfig, ModelStageConfig, NgramStageConfig
from engine.request import SamplingParams
from tests.checkpoints import save_checkpoint

PROMPTS = [(5, 9, 33), (7, 8, 9, 10, 11)]
SAMPLED = Workload(PROMPTS, 20, SamplingParams(temperature=1.0, top_k=20, seed=4))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = save_checkpoint(tmp_path_factory.mktemp("target"))
    stages = [{"kind": "model", "model": str(folder), "budget": 12}, {"kind": "ngram"}]
    return Engine.load(EngineConfig.from_mapping({"model": str(folder), "stages": stages}))


def test_the_modes_go_from_plain_to_everything(engine: Engine) -> None:
    names = [mode.name for mode in modes_of(engine.stages)]
    assert names == ["plain", "chain", "tree", "ngram", "staged", "auto"]
    assert [mode.name for mode in modes_of(())] == ["plain"]
    assert [mode.name for mode in modes_of([NgramStageConfig()])] == ["plain", "ngram", "auto"]
    chain = modes_of(engine.stages)[1].stages[0]
    assert isinstance(chain, ModelStageConfig)
    assert (chain.children, chain.width, chain.budget) == (1, 1, chain.passes)


def test_every_mode_is_measured_on_the_same_tokens(engine: Engine) -> None:
    told: list[str] = []
    comparison = compare(engine, modes_of(engine.stages), SAMPLED, 2, told.append)
    assert sorted(told) == sorted(2 * ["plain", "chain", "tree", "ngram", "staged", "auto"])
    assert 20 < comparison.num_tokens <= 40
    results = {result.mode: result for result in comparison.results}
    plain, chain, staged = results["plain"], results["chain"], results["staged"]
    assert plain.ratio_to_plain == plain.step_cost == plain.acceptance_length == 1.0
    assert plain.draft_passes_per_step == 0
    # The draft is the target itself: with shared noise every draft token is accepted.
    assert chain.acceptance_length > 4
    assert chain.stages["draft"]["num_proposed"] == chain.stages["draft"]["num_accepted"]
    for result in results.values():
        assert result.ratio_low <= result.ratio_to_plain <= result.ratio_high
        assert result.tokens_per_second > 0
    assert set(staged.phases_ms) == {"target", "draft", "ngram", "other"}
    assert staged.nodes_per_step > chain.nodes_per_step > plain.nodes_per_step == 1


def test_a_mode_that_changes_the_text_is_an_error(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "_text", lambda engine, request: [1] * 20)
    with pytest.raises(RuntimeError, match="changed the text"):
        compare(engine, [Mode("plain", (), "off")], SAMPLED, 1)


def test_a_look_up_never_answers_from_an_earlier_repetition(engine: Engine) -> None:
    """A text without repetition: were the second run to remember the first, all would be copied."""
    workload = Workload([PROMPTS[0]], 30, SamplingParams(temperature=1.5, seed=9))
    modes = [Mode("plain", (), "off"), Mode("ngram", (NgramStageConfig(),))]
    ngram = compare(engine, modes, workload, 3).results[1]
    assert ngram.acceptance_length < 1.5


def test_a_text_is_cut_before_its_first_repeated_run() -> None:
    text = list(range(30))
    assert benchmark._length_without_loop(text) == 30
    assert benchmark._length_without_loop([*text, *text]) == 30 + 15
    assert benchmark._length_without_loop([7] * 40) == 16


def test_the_machine_is_named() -> None:
    assert {"hardware", "torch", "threads"} <= benchmark.machine().keys()
