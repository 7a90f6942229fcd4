"""The benchmark's honesty: same texts, fresh look-ups, loops cut, figures that add up."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine import benchmark
from engine.api import Engine
from engine.benchmark import (
    Mode,
    Run,
    Workload,
    compare,
    configured_mode,
    measure,
    modes_by_size,
    modes_of,
    ratio_interval,
    resized,
)
from engine.benchmark.curves import best_size_of
from engine.config import (
    EngineConfig,
    HeadStageConfig,
    ModelStageConfig,
    NgramStageConfig,
    RecycleStageConfig,
)
from engine.errors import ConfigError
from engine.request import GenerateRequest, SamplingParams
from engine.stats import StepStats
from tests.checkpoints import (
    make_head_weights,
    make_network,
    save_checkpoint,
    save_head_checkpoint,
)
from tests.test_floors import MESSAGES, WEB, imported_by

PROMPTS = [(5, 9, 33), (7, 8, 9, 10, 11)]
SAMPLED = Workload(PROMPTS, 20, SamplingParams(temperature=1.0, top_k=20, seed=4))
HEAD, DRAFT, NGRAM = HeadStageConfig("a-head"), ModelStageConfig("a-draft"), NgramStageConfig()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def engine(target: Path) -> Engine:
    stages = [{"kind": "model", "model": str(target), "budget": 12}, {"kind": "ngram"}]
    given = {"model": str(target), "stages": stages, "dtype": "float32"}
    return Engine.load(EngineConfig.from_mapping(given))


def names(modes: list[Mode]) -> list[str]:
    return [mode.name for mode in modes]


def test_the_modes_go_from_plain_to_everything() -> None:
    modes = modes_of([DRAFT, NGRAM])
    assert names(modes) == ["plain", "chain", "tree", "ngram", "staged-draft", "auto"]
    assert modes[0] == Mode("plain", (), "off")
    assert modes[1].stages == (replace(DRAFT, budget=4, passes=4, width=1, children=1),)
    assert modes[2].stages == (DRAFT,)
    assert modes[4].stages == (DRAFT, NGRAM)
    assert modes[5] == Mode("auto", (DRAFT, NGRAM), "auto")
    limits = [replace(DRAFT, budget=64), NGRAM]
    assert modes_of([DRAFT, NGRAM], limits=limits)[5] == Mode("auto", tuple(limits), "auto")


def test_an_alternative_stands_in_the_place_of_the_first_stage() -> None:
    """Red when an alternative is stacked on the stage that it should replace."""
    modes = {mode.name: mode for mode in modes_of([HEAD, NGRAM], [DRAFT])}
    assert list(modes) == [
        "plain",
        "chain",
        "tree",
        "chain-draft",
        "tree-draft",
        "ngram",
        "staged-head",
        "staged-draft",
        "auto",
    ]
    assert modes["tree"].stages == (HEAD,)
    assert modes["tree-draft"].stages == (DRAFT,)
    assert isinstance(modes["chain"].stages[0], HeadStageConfig)
    assert modes["staged-head"].stages == modes["auto"].stages == (HEAD, NGRAM)
    assert modes["staged-draft"].stages == (DRAFT, NGRAM)


def test_fewer_stages_leave_modes_out() -> None:
    assert names(modes_of(())) == ["plain"]
    assert names(modes_of([NGRAM])) == ["plain", "ngram", "auto"]
    both = modes_of([NGRAM, RecycleStageConfig()])
    assert names(both) == ["plain", "ngram", "recycle", "ngram+recycle", "auto"]
    assert [len(mode.stages) for mode in both] == [0, 1, 1, 2, 2]
    assert names(modes_of([HEAD])) == ["plain", "chain", "tree", "auto"]
    above_ngrams = modes_of([NGRAM], [DRAFT])
    assert names(above_ngrams)[1:3] == ["chain-draft", "tree-draft"]
    assert above_ngrams[4].stages == (DRAFT, NGRAM)


def test_drafters_of_one_kind_are_numbered() -> None:
    modes = names(modes_of([DRAFT, NGRAM], [ModelStageConfig("another")]))
    assert {"chain", "chain-draft2", "staged-draft", "staged-draft2"} <= set(modes)


def test_a_stage_that_is_its_own_alternative_is_measured_once() -> None:
    assert names(modes_of([DRAFT, NGRAM], [DRAFT])) == names(modes_of([DRAFT, NGRAM]))


@pytest.mark.parametrize(
    ("stages", "name"),
    [
        ([HEAD, NGRAM], "staged-head"),
        ([DRAFT, DRAFT, NGRAM], "staged-draft"),
        ([DRAFT], "tree"),
        ([NGRAM], "ngram"),
        ([], None),
    ],
)
def test_the_configured_mode_is_the_one_with_all_its_stages(
    stages: list[ModelStageConfig | NgramStageConfig], name: str | None
) -> None:
    assert configured_mode(modes_of(stages, [ModelStageConfig("other")]), stages) == name


def test_sizes_replace_those_of_every_model_and_head() -> None:
    config = EngineConfig("target", stages=(HEAD, NGRAM), alternatives=(DRAFT,))
    sized = resized(config, budget=7, passes=3)
    assert sized.stages == (replace(HEAD, budget=7, passes=3), NGRAM)
    assert sized.alternatives == (replace(DRAFT, budget=7, passes=3),)
    small = replace(config, stages=(replace(HEAD, budget=5, passes=1), replace(NGRAM, budget=3)))
    assert resized(small, None, None).stages == small.stages
    free = EngineConfig("m", (NgramStageConfig(), RecycleStageConfig()))
    assert [stage.budget for stage in resized(free, 12, None).stages] == [12, 12]
    large = replace(config, stages=(replace(HEAD, budget=64), replace(NGRAM, budget=48)))
    cut = (replace(HEAD, budget=16, passes=2), replace(NGRAM, budget=8))
    assert resized(large, None, None).stages == cut
    with pytest.raises(ConfigError, match=r"lower its budget"):
        resized(config, budget=2000, passes=None)


def test_every_mode_is_measured_on_the_same_tokens(engine: Engine) -> None:
    told: list[str] = []
    modes = modes_of(engine.config.stages)
    comparison = compare(engine, modes, SAMPLED, 2, told.append)
    assert told[:6] == names(modes)
    assert told[6:] == [*names(modes)[1:], "plain"]
    assert 20 < comparison.num_tokens <= 40
    results = {result.mode: result for result in comparison.results}
    plain, chain, staged = results["plain"], results["chain"], results["staged-draft"]
    assert plain.ratio_to_plain == plain.ratio_low == plain.ratio_high == 1
    assert plain.step_cost == plain.acceptance_length == plain.nodes_per_step == 1
    assert plain.draft_passes_per_step == 0
    # The draft is the target itself: with shared noise every draft token is accepted.
    assert chain.acceptance_length > 4
    assert chain.stages["draft"]["num_proposed"] == chain.stages["draft"]["num_accepted"]
    assert 3 < chain.draft_passes_per_step <= 4
    assert set(staged.phases_ms) == {"target", "draft", "ngram", "other"}
    assert staged.nodes_per_step > chain.nodes_per_step
    for result in results.values():
        assert result.ratio_low <= result.ratio_to_plain <= result.ratio_high
        assert result.tokens_per_second > 0
        accepted = sum(stage["accepted_per_step"] for stage in result.stages.values())
        assert result.acceptance_length == pytest.approx(1 + accepted)
        # What does not pay is not run by `auto`.
        is_used = result.mode != "auto"
        assert all(ms > 0 or not is_used for ms in result.phases_ms.values())


def test_alternatives_are_loaded_by_nobody_but_a_benchmark(target: Path) -> None:
    """Red when serving needs the weights of a drafter that it does not use."""
    absent = [{"kind": "head", "model": str(target / "absent")}]
    config = EngineConfig.from_mapping({"model": str(target), "alternatives": absent})
    assert Engine.load(config).config.stages == ()


def test_a_head_is_measured_as_the_alternative_to_a_draft(engine: Engine, tmp_path: Path) -> None:
    """Red when the target keeps no features for a mode whose head reads them."""
    head = save_head_checkpoint(tmp_path / "head", *make_head_weights(make_network()))
    modes = modes_of(engine.config.stages, [ModelStageConfig(str(head))])
    chosen = [mode for mode in modes if mode.name in {"plain", "chain-head", "staged-head"}]
    assert len(chosen) == 3
    results = compare(engine, chosen, SAMPLED, 1).results
    assert results[1].draft_passes_per_step > 1
    assert list(results[2].stages) == ["head", "ngram"]


def test_a_mode_that_changes_the_text_is_an_error(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "_text", lambda engine, request: (1,) * 20)
    with pytest.raises(RuntimeError, match="changed the text"):
        compare(engine, [Mode("plain", (), "off")], SAMPLED, 1)


def test_texts_without_a_second_token_cannot_be_timed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "_text", lambda engine, request: (2,))
    with pytest.raises(ConfigError, match="give prompts that go on"):
        compare(engine, [Mode("plain", (), "off")], SAMPLED, 1)


def test_a_look_up_never_answers_from_an_earlier_repetition(engine: Engine) -> None:
    """A text without repetition: were the second run to remember the first, all would be copied."""
    workload = Workload([PROMPTS[0]], 30, SamplingParams(temperature=1.5, seed=9))
    modes = [Mode("plain", (), "off"), Mode("ngram", (NgramStageConfig(),))]
    ngram = compare(engine, modes, workload, 3).results[1]
    assert ngram.acceptance_length < 1.5


def test_a_lone_prompt_is_read_anew_by_every_run(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when the time to the first token is that of a prompt already in the cache."""
    cached: list[int] = []
    add = Engine.add

    def spy(self: Engine, request: GenerateRequest) -> None:
        add(self, request)
        [text] = self._decoder._seats
        cached.append(self._decoder.target.strips.known(text.seat, text))

    monkeypatch.setattr(Engine, "add", spy)
    compare(engine, [Mode("plain", (), "off")], replace(SAMPLED, prompts=PROMPTS[1:]), 2)
    assert cached == [0, 0, 0]


def test_a_text_is_cut_before_its_first_repeated_run(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = list(range(30))
    assert measure.length_without_loop(text) == 30
    assert measure.length_without_loop([*text, *text]) == 30 + 15
    assert measure.length_without_loop([7] * 40) == 16
    written = measure._text(engine, next(measure._requests(SAMPLED, PROMPTS)))
    monkeypatch.setattr(measure, "length_without_loop", lambda text: 5)
    one_prompt = replace(SAMPLED, prompts=PROMPTS[:1])
    comparison = compare(engine, [Mode("plain", (), "off")], one_prompt, 1)
    assert comparison.num_tokens == 5
    assert comparison.share_cut == pytest.approx(1 - 5 / len(written))
    whole = compare(engine, [Mode("plain", (), "off")], replace(one_prompt, with_loops=True), 1)
    assert (whole.num_tokens, whole.share_cut) == (len(written), 0)


def test_of_several_sizes_each_runs_once_and_plain_every_time(engine: Engine) -> None:
    """Red when sizes cost as many rounds as speeds do, or their τ is that of another size."""
    config = replace(engine.config, stages=(NGRAM, RecycleStageConfig()))
    modes, configured = modes_by_size(config, [6, 1, 6], None)
    ways = ["ngram", "recycle", "ngram+recycle"]
    sized = [f"{way}/{size}" for way in ways for size in (1, 6)]
    assert names(modes) == ["plain", *sized, "auto"] and configured == "ngram+recycle/6"
    assert [mode.way for mode in modes[1:3]] == ["ngram", "ngram"]
    assert [stage.budget for stage in modes[-2].stages] == [6, 6]
    assert modes[-1].stages == config.stages
    told: list[str] = []
    comparison = compare(engine, modes, SAMPLED, 3, told.append)
    assert [told.count(name) for name in names(modes)] == [3, *[1] * 6, 3]
    assert sorted(comparison.pass_ms) == [1, 2, 7]
    results = {result.mode: result for result in comparison.results}
    assert results["ngram+recycle/1"].nodes_per_step <= 2
    assert 2 < results["ngram+recycle/6"].nodes_per_step <= 7
    best = comparison.best[""]
    assert best.share == pytest.approx(results["auto"].ratio_to_plain / best.ratio)
    assert best.ratio_low <= best.ratio <= best.ratio_high
    one, none = modes_by_size(config, [3], None), modes_by_size(config, [], None)
    assert [mode.size for mode in (*one[0], *none[0])] == [0] * 10
    assert (one[1], none[1]) == ("ngram+recycle", "ngram+recycle")


def run_of(steps: Sequence[tuple[int, int]], seconds: Sequence[float], num_texts: int = 1) -> Run:
    """Of each entry so many steps with so many accepted tokens in all, in so much time."""
    entries = [
        [StepStats(1, accepted // count + (at < accepted % count), 1.0, 1.0) for at in range(count)]
        for count, accepted in steps
    ]
    return Run(
        [0.1] * len(steps),
        [*seconds],
        [step for entry in entries for step in entry],
        num_steps=[len(entry) for entry in entries],
        num_texts=num_texts,
    )


@pytest.mark.parametrize("num_texts", [1, 4])
def test_the_best_is_what_tokens_a_step_and_pass_times_say(num_texts: int) -> None:
    """Red when a size is taken for its tokens alone, or a pass over the wrong rows is counted."""
    sizes = [Mode("n/2", (NGRAM,), size=2), Mode("n/8", (NGRAM,), size=8)]
    modes = [Mode("plain", (), "off"), *sizes, Mode("auto", (NGRAM,), "auto")]
    passes = {num_texts: [2.0, 1.0, 3.0], 3 * num_texts: [2.5] * 3, 9 * num_texts: [4.0] * 3}
    runs = {
        "plain": [run_of([(30, 0), (30, 0)], [3.0, 3.0], num_texts)] * 3,
        "n/2": [run_of([(15, 15), (25, 5)], [9, 9], num_texts)],
        "n/8": [run_of([(10, 20), (10, 20)], [1, 1], num_texts)],
        "auto": [run_of([(20, 10), (20, 10)], [2.0, 2.5], num_texts)] * 3,
    }
    best = best_size_of(modes, runs, passes)
    assert best is not None and best.mode == "n/8"
    assert best.ratio == pytest.approx(3 * 2 / 4)
    assert best.share == pytest.approx(6 / 4.5 / 1.5)
    assert best.ratio_low < best.ratio < best.ratio_high
    dear = {**passes, 9 * num_texts: [9.0] * 3}
    found = best_size_of(modes, runs, dear)
    assert found is not None and found.mode == "n/2"
    assert found.ratio == pytest.approx(60 / 40 * 2 / 2.5)
    nothing = {width: [width / num_texts] * 3 for width in passes}
    found = best_size_of(modes, runs, nothing)
    assert found is not None and (found.mode, found.ratio) == ("plain", 1.0)
    assert best_size_of([modes[0], modes[-1]], runs, {}) is None


def test_texts_at_once_are_of_one_category_and_as_they_are_alone(engine: Engine) -> None:
    """Red when a text is written alone after all, in strange company, or differently in company."""
    config = replace(engine.config, stages=(), max_running=2)
    pair = Engine.load(config)
    prompts = [(start, start + 1, 33) for start in range(1, 13)]
    workload = replace(SAMPLED, prompts=prompts, categories=["a", "b", "b"] * 4, num_texts=2)
    modes = [Mode("plain", (), "off"), Mode("ngram", (NGRAM,)), Mode("auto", (NGRAM,), "auto")]
    comparison = compare(pair, modes, workload, 2)
    assert set(comparison.categories) == {"a", "b"}
    passages, _ = measure.passages_of(pair, workload)
    together = measure._in_company(passages, 2)
    pairs = list(zip(together[::2], together[1::2], strict=True))
    assert {(one.category, two.category) for one, two in pairs} == {("a", "a"), ("b", "b")}
    assert all(len(one.text) == len(two.text) for one, two in pairs)
    run = measure.run_mode(pair, modes[0], together, 2)
    assert len(run.seconds) == len(pairs) and {step.num_texts for step in run.steps} == {2}
    with pytest.raises(ConfigError, match="there are no 2 replies of one category"):
        compare(pair, modes, replace(workload, categories=list("abcdefghijkl")), 1)


def test_lessons_teach_and_are_not_counted(engine: Engine) -> None:
    """Red when what is warm is measured cold, or lessons are among the figures."""
    workload = Workload([PROMPTS[0]], 30, SamplingParams(temperature=1.5, seed=9))
    modes = [Mode("plain", (), "off"), Mode("ngram", (NgramStageConfig(),))]
    cold, warm = (
        compare(engine, modes, replace(workload, lessons=lessons), 1)
        for lessons in ([], [PROMPTS[0]])
    )
    # The lesson is the very text that follows.
    assert warm.results[1].acceptance_length > 2 > cold.results[1].acceptance_length
    assert warm.num_tokens == cold.num_tokens


def simulated(
    random: np.random.Generator, num_repetitions: int, num_prompts: int
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of plain and of a mode twice as fast, where prompts, runs and pairs all vary."""
    each, rounds = (num_repetitions, num_prompts), (num_repetitions, 1)
    text = random.normal(0, 0.3, num_prompts) + random.normal(0, 0.1, rounds)
    # The mean of exp(gain) is 1, so that the ratio of whole times is 2.
    gain = random.normal(-(0.15**2) / 2, 0.15, num_prompts)
    plain, mode = (random.normal(0, 0.05, each) + random.normal(0, 0.03, rounds) for _ in range(2))
    return np.exp(text + plain), np.exp(text + gain + mode) / 2


@pytest.mark.parametrize(("num_repetitions", "num_prompts"), [(5, 8), (3, 12), (7, 12)])
def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says(
    num_repetitions: int, num_prompts: int
) -> None:
    """Red for a spread of repetitions alone (it forgets the prompts) and for one of all pairs."""
    random = np.random.default_rng(5)
    intervals = [
        ratio_interval(*simulated(random, num_repetitions, num_prompts)) for _ in range(200)
    ]
    coverage = np.mean([low <= 2 <= high for low, high in intervals])
    width = np.median([high - low for low, high in intervals])
    assert 0.88 <= coverage <= 0.99
    assert width < 0.6


def test_the_interval_is_the_same_every_time_and_ignores_a_machine_that_slows_down() -> None:
    plain, mode = simulated(np.random.default_rng(6), 5, 8)
    slower = np.array([[1.0], [3.0], [1.0], [9.0], [2.0]])
    assert ratio_interval(plain, mode) == ratio_interval(plain, mode)
    assert ratio_interval(plain * slower, mode * slower) == pytest.approx(
        ratio_interval(plain, mode)
    )
    assert ratio_interval(plain, plain) == (1, 1)


def test_the_machine_is_named() -> None:
    assert {"hardware", "torch", "threads"} <= benchmark.machine().keys()


def test_it_runs_without_a_server() -> None:
    """Red when measuring needs a package that only serving needs."""
    assert not imported_by("engine.benchmark") & (MESSAGES | WEB)
