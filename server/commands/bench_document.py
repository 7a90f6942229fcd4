"""The figures of `stagetree bench` as JSON, as `docs/benchmark.md` describes it."""

from collections.abc import Sequence
from dataclasses import asdict, replace

from engine.benchmark import Comparison, Mode, Workload
from server.commands.bench_tables import ALL

STAGED = "staged"
"""The second name, in the JSON and for `--mode`, of the mode that the configuration uses."""


def figures(
    modes: Sequence[Mode],
    workloads: Sequence[Workload],
    comparisons: Sequence[Comparison],
    configured: str | None,
) -> dict[str, object]:
    """What was compared, how it was sampled, and what came of it, whole and by category."""
    return {
        "modes": {mode.name: _mode(mode) for mode in modes},
        "temperatures": [
            {
                "temperature": workload.sampling.temperature,
                "top_k": workload.sampling.top_k,
                "top_p": workload.sampling.top_p,
                "num_tokens": comparison.num_tokens,
                "share_cut": comparison.share_cut,
                "num_diverged": comparison.num_diverged,
                "worst": {mode: name for mode, (name, _) in comparison.worst().items()},
                "pass_ms": comparison.pass_ms,
                "best": {name or ALL: asdict(best) for name, best in comparison.best.items()},
            }
            for workload, comparison in zip(workloads, comparisons, strict=True)
        ],
        "results": [result for each in comparisons for result in _results(each, configured)],
        "categories": [
            {"category": name, **asdict(result)}
            for each in comparisons
            for name, results in each.categories.items()
            for result in results
        ],
    }


def _mode(mode: Mode) -> dict[str, object]:
    stages = [{"name": stage.name, **asdict(stage)} for stage in mode.stages]
    return {"speculation": mode.speculation, "stages": stages}


def _results(comparison: Comparison, configured: str | None) -> list[dict[str, object]]:
    """One entry a mode, and that of the configured mode once more as `staged`."""
    again = [
        replace(result, mode=STAGED) for result in comparison.results if result.mode == configured
    ]
    return [asdict(result) for result in (*comparison.results, *again)]
