"""Prometheus: vLLM's names where they exist, `stagetree_` for what only a staged tree has.

Each application has a registry of its own. Buckets begin at 0.5 ms: a step of a small model on
good hardware is shorter than vLLM's first bucket.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from engine import Output, StageStats
from server.errors import ApiError
from server.record import RequestRecord

SECONDS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0),
)
LENGTHS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0, 12.0, 16.0, 32.0)
COUNTS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 128.0, 256.0)


class _Families:
    """Makes families in one registry, all of them labelled with the model's name."""

    def __init__(self, model: str) -> None:
        # `_created` series would be read as counts by scrapers that match on the prefix.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._model = model

    def gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ["model_name"], registry=self.registry).labels(self._model)

    def counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, ["model_name"], registry=self.registry).labels(self._model)

    def histogram(self, name: str, text: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
        family = Histogram(name, text, ["model_name"], buckets=buckets, registry=self.registry)
        return family.labels(self._model)

    def gauge_by(self, label: str, name: str, text: str) -> Gauge:
        return Gauge(name, text, ["model_name", label], registry=self.registry)

    def counter_by(self, label: str, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, ["model_name", label, *labels], registry=self.registry)

    def histogram_by(self, label: str, name: str, text: str) -> Histogram:
        labels = ["model_name", label]
        return Histogram(name, text, labels, buckets=COUNTS, registry=self.registry)


class _RequestFigures:
    """What is observed once per request, under vLLM's name and under ours."""

    def __init__(self, families: _Families) -> None:
        def both(vllm: str, own: str, text: str) -> tuple[Histogram, Histogram]:
            own_family = families.histogram(f"stagetree_{own}_seconds", text)
            return own_family, families.histogram(f"vllm:{vllm}_seconds", text)

        self.queue = both("request_queue_time", "queue", "Arrival to the request's turn.")
        self.first = both("time_to_first_token", "time_to_first_token", "Arrival to first token.")
        self.token = both(
            "request_time_per_output_token",
            "time_per_output_token",
            "Mean time per output token after the first.",
        )
        self.whole = both("e2e_request_latency", "request", "Arrival to last token.")
        self.acceptance = families.histogram(
            "stagetree_acceptance_length", "Mean tokens that a step emits.", LENGTHS
        )


class _StepFigures:
    """What every step adds; a draft, in vLLM's sense, is one such step."""

    def __init__(self, families: _Families) -> None:
        of_vllm = families.counter
        self.generated = of_vllm("vllm:generation_tokens", "Tokens replied.")
        self.drafts = of_vllm("vllm:spec_decode_num_drafts", "Steps that verified a draft.")
        self.draft_tokens = of_vllm("vllm:spec_decode_num_draft_tokens", "Draft nodes in trees.")
        self.accepted = of_vllm("vllm:spec_decode_num_accepted_tokens", "Draft tokens accepted.")
        self.per_position = families.counter_by(
            "position", "vllm:spec_decode_num_accepted_tokens_per_pos", "Accepted by depth."
        )
        self.seconds = families.histogram(
            "stagetree_step_seconds", "A text's share of a step; all of it where it was alone."
        )
        self.texts = families.histogram(
            "stagetree_step_texts", "Texts that shared a step, as each of them saw it.", COUNTS
        )
        self.target = families.counter("stagetree_target_seconds", "Time spent in the target.")
        self.nodes = families.histogram(
            "stagetree_tree_nodes", "Nodes of a text's verified tree, with its root.", COUNTS
        )


class _StageFamilies:
    """The families of which each stage has a series; `of` binds them to one stage."""

    def __init__(self, families: _Families, model: str) -> None:
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


class Metrics:
    """The figures of one application."""

    def __init__(self, model_name: str) -> None:
        families = _Families(model_name)
        self._model = model_name
        self._registry = families.registry
        self._running = families.gauge("vllm:num_requests_running", "Sequences in their seats.")
        self._waiting = families.gauge("vllm:num_requests_waiting", "Sequences awaiting a seat.")
        self._cache_usage = families.gauge_by(
            *("engine", "vllm:kv_cache_usage_perc"),
            "Share of the engine's room for tokens that texts fill, 0 to 1.",
        )
        self._seats = families.gauge_by(
            "engine", "stagetree_seats", "Texts that the engine can write at once; 0 if it is down."
        )
        self._engine_ready = families.gauge_by(
            "engine", "stagetree_engine_ready", "1 for an engine that can serve, else 0."
        )
        self._prompt_tokens = families.counter("vllm:prompt_tokens", "Prompt tokens taken in.")
        self._cache_queries = families.counter(
            "vllm:prefix_cache_queries", "Prompt tokens of sequences that looked in the cache."
        )
        self._cache_hits = families.counter(
            "vllm:prefix_cache_hits", "Of these, the ones that were found there."
        )
        self._success = families.counter_by(
            "finished_reason", "vllm:request_success", "Finished choices."
        )
        self._answers = families.counter_by(
            *("handler", "http_requests", "Answers by path, method and status."),
            *("method", "status"),
        )
        self._request = _RequestFigures(families)
        self._step = _StepFigures(families)
        self._stages = _StageFamilies(families, model_name)

    def exposition(self) -> bytes:
        """The text that a scraper reads."""
        return generate_latest(self._registry)

    def add_queue(self, num_running: Callable[[], int], num_waiting: Callable[[], int]) -> None:
        """Show the requests of a queue from now on, by asking whenever somebody looks."""
        self._running.set_function(num_running)
        self._waiting.set_function(num_waiting)

    def add_engine(
        self,
        engine: int,
        is_ready: Callable[[], bool],
        num_seats: Callable[[], int],
        usage: Callable[[], float],
    ) -> None:
        """Show an engine from now on, by asking whenever somebody looks."""
        self._engine_ready.labels(self._model, str(engine)).set_function(is_ready)
        self._seats.labels(self._model, str(engine)).set_function(num_seats)
        self._cache_usage.labels(self._model, str(engine)).set_function(usage)

    @contextmanager
    def request(self, record: RequestRecord) -> Iterator[None]:
        """Observe a request when it ends, well or badly; one that was refused leaves no trace."""
        try:
            yield
        except ApiError:
            raise
        except BaseException as error:
            reason = "error" if isinstance(error, Exception) else "abort"
            self._success.labels(self._model, reason).inc()
            raise
        else:
            self._observe_finished(record)

    def observe_answer(self, handler: str, method: str, status: int) -> None:
        """A request has been answered, by what is known under this path."""
        self._answers.labels(self._model, handler, method, str(status)).inc()

    def observe_start(self, record: RequestRecord) -> None:
        """A request's turn has come."""
        self._prompt_tokens.inc(record.num_prompt_tokens)
        for histogram in self._request.queue:
            histogram.observe(record.queue_seconds)

    def observe_prompt(self, num_tokens: int, num_cached: int) -> None:
        """A sequence's prompt has been read, but for what the cache had of it."""
        self._cache_queries.inc(num_tokens)
        self._cache_hits.inc(num_cached)

    def observe_first_token(self, record: RequestRecord) -> None:
        """A request's first token has arrived."""
        for histogram in self._request.first:
            histogram.observe(record.first_token_seconds)

    def observe_step(self, step: Output, num_kept: int) -> None:
        """A step has arrived, of whose tokens the reply keeps `num_kept`."""
        stats, figures = step.stats, self._step
        figures.generated.inc(num_kept)
        if stats.num_draft_tokens:
            figures.drafts.inc()
        figures.draft_tokens.inc(stats.num_draft_tokens)
        figures.accepted.inc(stats.num_accepted_drafts)
        for position in range(stats.num_accepted_drafts):
            figures.per_position.labels(self._model, str(position)).inc()
        figures.seconds.observe(stats.milliseconds / 1e3)
        figures.target.inc(stats.target_milliseconds / 1e3)
        figures.texts.observe(stats.num_texts)
        figures.nodes.observe(stats.num_nodes)
        for stage in stats.stages:
            self._stages.observe(stage)

    def _observe_finished(self, record: RequestRecord) -> None:
        for choice in record.choices:
            self._success.labels(self._model, choice.finish_reason or "error").inc()
        for histogram in self._request.whole:
            histogram.observe(record.last_token_at - record.arrived_at)
        if record.num_decode_tokens:
            for histogram in self._request.token:
                histogram.observe(record.seconds_per_token)
        self._request.acceptance.observe(record.stats.mean_acceptance_length)
