"""Prometheus: vLLM's names where they exist, `stagetree_` for what only a staged tree has.

Each application has a registry of its own. Buckets begin at 0.5 ms: a step of a small model on
good hardware is shorter than vLLM's first bucket.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from engine import Step, StepStats
from server.errors import ApiError
from server.record import RequestRecord

SECONDS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0),
)
LENGTHS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0, 12.0, 16.0, 32.0)
COUNTS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 128.0, 256.0)


class Metrics:
    """The figures of one application; `model_name` labels every one of them."""

    def __init__(self, model_name: str) -> None:
        # `_created` series would be read as counts by scrapers that match on the prefix.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._model = model_name
        self._registry = CollectorRegistry()
        self.running = self._gauge("vllm:num_requests_running", "Requests being decoded.")
        self.waiting = self._gauge("vllm:num_requests_waiting", "Requests waiting their turn.")
        self.cache_usage = self._gauge(
            "vllm:kv_cache_usage_perc", "Share of the window the running sequence fills, 0 to 1."
        )
        self._create_token_counters()
        self._create_request_histograms()
        self._create_step_metrics()

    def exposition(self) -> bytes:
        """The text that a scraper reads."""
        return generate_latest(self._registry)

    @contextmanager
    def request(self, record: RequestRecord) -> Iterator[None]:
        """Observe a request when it ends, well or badly."""
        try:
            yield
        except ApiError:
            raise
        except Exception:
            self._success.labels(self._model, "error").inc()
            raise
        except BaseException:
            self._success.labels(self._model, "abort").inc()
            raise
        else:
            self._observe_finished(record)

    def observe_start(self, record: RequestRecord) -> None:
        """A request's turn has come."""
        self._prompt_tokens.inc(record.num_prompt_tokens)
        self._queue_seconds.observe(record.queue_seconds)
        self._vllm_queue_seconds.observe(record.queue_seconds)

    def observe_first_token(self, seconds: float) -> None:
        """A request's first token arrived, `seconds` after the request."""
        self._first_token_seconds.observe(seconds)
        self._vllm_first_token_seconds.observe(seconds)

    def observe_step(self, step: Step, num_kept: int, cache_share: float) -> None:
        """A step arrived; a draft, in vLLM's sense, is one such step."""
        stats = step.stats
        self._generation_tokens.inc(num_kept)
        self._drafts.inc()
        self._draft_tokens.inc(stats.num_draft_tokens)
        self._accepted_tokens.inc(stats.num_accepted_drafts)
        for position in range(stats.num_accepted_drafts):
            self._accepted_per_position.labels(self._model, str(position)).inc()
        self._step_seconds.observe(stats.milliseconds / 1e3)
        self._target_seconds.inc(stats.target_milliseconds / 1e3)
        self._tree_nodes.observe(stats.num_nodes)
        self.cache_usage.set(cache_share)
        self._observe_stages(stats)

    def _observe_stages(self, stats: StepStats) -> None:
        for stage in stats.stages:
            labels = (self._model, stage.name)
            self._stage_proposed.labels(*labels).inc(stage.num_proposed)
            self._stage_accepted.labels(*labels).inc(stage.num_accepted)
            self._stage_guesses.labels(*labels).inc(stage.num_guesses)
            self._stage_confirmed.labels(*labels).inc(stage.num_confirmed)
            self._stage_passes.labels(*labels).inc(stage.num_passes)
            self._stage_seconds.labels(*labels).inc(stage.milliseconds / 1e3)
            self._step_accepted.labels(*labels).observe(stage.num_accepted)
            self._step_passes.labels(*labels).observe(stage.num_passes)

    def _observe_finished(self, record: RequestRecord) -> None:
        for reason in record.finish_reasons:
            self._success.labels(self._model, reason).inc()
        seconds = record.last_token_at - record.arrived_at
        self._request_seconds.observe(seconds)
        self._vllm_request_seconds.observe(seconds)
        if record.num_decode_tokens:
            self._token_seconds.observe(record.seconds_per_token)
            self._vllm_token_seconds.observe(record.seconds_per_token)
        self._acceptance_length.observe(record.stats.mean_acceptance_length)

    def _create_token_counters(self) -> None:
        self._prompt_tokens = self._counter("vllm:prompt_tokens", "Prompt tokens taken in.")
        self._generation_tokens = self._counter("vllm:generation_tokens", "Tokens replied.")
        self._drafts = self._counter("vllm:spec_decode_num_drafts", "Verified trees: steps.")
        self._draft_tokens = self._counter(
            "vllm:spec_decode_num_draft_tokens", "Draft nodes in verified trees."
        )
        self._accepted_tokens = self._counter(
            "vllm:spec_decode_num_accepted_tokens", "Draft tokens the target agreed with."
        )
        self._accepted_per_position = self._labelled_counter(
            "vllm:spec_decode_num_accepted_tokens_per_pos", "Accepted drafts by depth.", "position"
        )
        self._success = self._labelled_counter(
            "vllm:request_success", "Finished choices by reason.", "finished_reason"
        )

    def _create_request_histograms(self) -> None:
        first, token = "Arrival to first token.", "Mean time per output token of a request."
        whole, queue = "Arrival to last token.", "Arrival to the request's turn."
        self._first_token_seconds = self._histogram("stagetree_time_to_first_token_seconds", first)
        self._vllm_first_token_seconds = self._histogram("vllm:time_to_first_token_seconds", first)
        self._token_seconds = self._histogram("stagetree_time_per_output_token_seconds", token)
        self._vllm_token_seconds = self._histogram(
            "vllm:request_time_per_output_token_seconds", token
        )
        self._request_seconds = self._histogram("stagetree_request_seconds", whole)
        self._vllm_request_seconds = self._histogram("vllm:e2e_request_latency_seconds", whole)
        self._queue_seconds = self._histogram("stagetree_queue_seconds", queue)
        self._vllm_queue_seconds = self._histogram("vllm:request_queue_time_seconds", queue)
        self._acceptance_length = self._histogram(
            "stagetree_acceptance_length", "Mean tokens a step emits, per request.", LENGTHS
        )

    def _create_step_metrics(self) -> None:
        self._step_seconds = self._histogram("stagetree_step_seconds", "One whole step.")
        self._target_seconds = self._counter("stagetree_target_seconds", "Time in the target.")
        self._tree_nodes = self._histogram(
            "stagetree_tree_nodes", "Nodes of a verified tree, its root included.", COUNTS
        )
        counter = self._stage_counter
        self._stage_proposed = counter("proposed", "Nodes whose origin is the stage.")
        self._stage_accepted = counter("accepted", "Of these, the ones the target agreed with.")
        self._stage_guesses = counter("guesses", "Nodes offered to the stage above.")
        self._stage_confirmed = counter("confirmed", "Of these, the ones that stage would choose.")
        self._stage_passes = counter("passes", "Passes or look-ups.")
        self._stage_seconds = counter("seconds", "Time spent drafting.")
        self._step_accepted = self._stage_histogram("accepted", "Tokens accepted")
        self._step_passes = self._stage_histogram("passes", "Draft passes")

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ["model_name"], registry=self._registry).labels(self._model)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, ["model_name"], registry=self._registry).labels(self._model)

    def _labelled_counter(self, name: str, text: str, label: str) -> Counter:
        return Counter(name, text, ["model_name", label], registry=self._registry)

    def _stage_counter(self, what: str, text: str) -> Counter:
        return self._labelled_counter(f"stagetree_stage_{what}", text, "stage")

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
        family = Histogram(name, text, ["model_name"], buckets=buckets, registry=self._registry)
        return family.labels(self._model)

    def _stage_histogram(self, what: str, text: str) -> Histogram:
        return Histogram(
            f"stagetree_step_{what}",
            f"{text} of a stage in one step.",
            ["model_name", "stage"],
            buckets=COUNTS,
            registry=self._registry,
        )
