"""What a step tells of its tree to whoever asks: all of it, or a part with the whole path."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.accept import Acceptance
from engine.decoder import Decoder
from engine.economy.trace import trace_of
from engine.process.messages import Stepped, decode_event, encode
from engine.request import TARGET, GenerateRequest, Output, SamplingParams, Update
from engine.stats import MAX_TRACED_NODES, StepTrace
from engine.tree import TokenTree
from tests.engine.setups import model_stage, ngram, run, target_model, token_ids

GREEDY = SamplingParams(temperature=0.0)
PLAIN = GenerateRequest("r", (5, 9, 33), max_tokens=60, sampling=GREEDY, ignore_eos=True)
TRACED = replace(PLAIN, is_traced=True)
LAPS = {"growing": 1.0, "scoring": 2.0, "choosing": 0.5}


def decoder() -> Decoder:
    return Decoder(target_model(), model_stage(ngram(), "draft"))


def trace_in(step: Output) -> StepTrace:
    assert step.stats.trace is not None
    return step.stats.trace


def check_step(step: Output, last: int) -> None:
    """It tells the tree that was verified, and the way through it is what was emitted."""
    trace, emitted = trace_in(step), [token.token_id for token in step.tokens]
    assert (trace.tokens[0], trace.parents[0]) == (last, -1)
    assert len(trace.tokens) == step.stats.num_nodes
    assert all(parent < node for node, parent in enumerate(trace.parents))
    assert all(0 <= estimate <= 1 for estimate in trace.estimates)
    chosen = [*(trace.tokens[node] for node in trace.path), trace.bonus_token]
    assert emitted == chosen[: len(emitted)]
    origins = [*(trace.origins[node] for node in trace.path), TARGET]
    assert [token.origin for token in step.tokens] == origins[: len(emitted)]
    assert [trace.parents[node] for node in trace.path] == [0, *trace.path][: len(trace.path)]
    for stage in step.stats.stages:
        assert trace.origins.count(stage.name) == stage.num_proposed
    parts = trace.growing_milliseconds, trace.scoring_milliseconds, trace.choosing_milliseconds
    assert 0 < sum(parts) <= trace.milliseconds


def test_a_step_tells_the_tree_that_was_verified_and_the_way_through_it() -> None:
    """Red when a trace shows a node, a parent, an origin or a path that the step did not have."""
    steps, _ = run(decoder(), TRACED)
    last = TRACED.prompt[-1]
    for step in steps:
        check_step(step, last)
        assert trace_in(step).nodes_by_text == (step.stats.num_nodes,)
        last = step.tokens[-1].token_id
    assert max(len(trace_in(step).path) for step in steps) > 2


def test_each_text_of_a_step_is_shown_its_own_tree_and_the_sizes_of_the_others() -> None:
    """Red when a text is shown a neighbour's nodes, or is shown any without having asked."""
    requests = [
        replace(TRACED, request_id=str(number), prompt=(5, 9, number), speculation="always")
        for number in range(2)
    ]
    requests.append(replace(requests[0], request_id="untraced", is_traced=False))
    together = decoder()
    for request in requests:
        together.add(request)
    last = {request.request_id: request.prompt[-1] for request in requests}
    most = 0
    while together.is_busy:
        told = [each for each in together.step() if isinstance(each, Output)]
        traced = [step for step in told if step.request_id != "untraced"]
        assert all(step.stats.trace is None for step in told if step not in traced)
        for step in traced:
            check_step(step, last[step.request_id])
            sizes = trace_in(step).nodes_by_text
            assert sizes[trace_in(step).text] == step.stats.num_nodes
            assert len(sizes) == step.stats.num_texts
            most = max(most, len(sizes))
            last[step.request_id] = step.tokens[-1].token_id
    assert most == 3


def test_nobody_pays_for_what_nobody_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when a trace is made and thrown away."""

    def refuse(*_: object) -> None:
        raise AssertionError("a trace was made")

    monkeypatch.setattr("engine.economy.step.trace_of", refuse)
    steps, _ = run(decoder(), PLAIN)
    assert all(step.stats.trace is None for step in steps)
    monkeypatch.undo()
    assert token_ids(steps) == token_ids(run(decoder(), TRACED)[0])


@given(st.data())
def test_of_a_large_tree_a_part_is_told_with_the_whole_path(data: st.DataObject) -> None:
    """Red when a node is told without its parent, more than the limit are, or the path is cut."""
    tree = TokenTree(0, 0)
    grown, _ = tree.prune([])
    size = data.draw(st.integers(0, 3 * MAX_TRACED_NODES))
    parents = [0]
    for number in range(size):
        within = data.draw(st.integers(0, 7)) if number % 8 == 0 else number % 8
        parents.append(grown.add(parents[-1 - within % len(parents)], number + 1))
    pruned, _ = grown.prune(range(2, len(grown)))
    end = data.draw(st.sampled_from(range(pruned.roots[1])))
    path = tuple(pruned.path(end))
    told = trace_of(pruned, 0, Acceptance(path, 7), 4.0, LAPS)
    num_nodes = pruned.roots[1]
    assert len(told.tokens) == min(num_nodes, MAX_TRACED_NODES)
    assert told.nodes_by_text == (num_nodes, 1)
    by_token = {token: node for node, token in enumerate(told.tokens)}
    for node, parent in enumerate(told.parents[1:], start=1):
        whole = pruned.tokens.index(told.tokens[node], 1)
        assert told.tokens[parent] == pruned.tokens[pruned.parents[whole]] and parent < node
    kept = path[: MAX_TRACED_NODES - 1]
    assert told.path == tuple(by_token[pruned.tokens[node]] for node in kept)


def test_a_trace_crosses_between_the_processes() -> None:
    """Red when the wire drops it, or changes its numbers."""
    [*_, step], _ = run(decoder(), TRACED)
    told = decode_event(encode(Stepped((Update("r", step),))))
    assert isinstance(told, Stepped)
    assert told.updates[0].output == step
