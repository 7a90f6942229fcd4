"""The figures of one application, and who tells them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import ProcessCollector, generate_latest

from engine import Output
from server.errors import ApiError, ClientGoneError
from server.metrics.families import SECONDS, Families
from server.metrics.requests import RequestFigures
from server.metrics.steps import StepFigures
from server.record import RequestRecord


class Metrics:
    """The figures of one application."""

    def __init__(self, model_name: str) -> None:
        families = Families(model_name)
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
        self._durations = families.histogram_by(
            *(
                "handler",
                "http_request_duration_seconds",
                "Until the last byte, by path and method.",
            ),
            *("method",),
            buckets=SECONDS,
        )
        ProcessCollector(registry=self._registry)
        self._request = RequestFigures(families)
        self._step = StepFigures(families, model_name)

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
        except BaseException as error:
            is_gone = isinstance(error, ClientGoneError) or not isinstance(error, Exception)
            if isinstance(error, ApiError) and not is_gone:
                raise
            reason = "abort" if is_gone else "error"
            self._success.labels(self._model, reason).inc()
            raise
        else:
            self._observe_finished(record)

    def observe_answer(self, handler: str, method: str, status: int) -> None:
        """A request has been answered, by what is known under this path."""
        self._answers.labels(self._model, handler, method, str(status)).inc()

    def observe_duration(self, handler: str, method: str, seconds: float) -> None:
        """The last byte of an answer has left."""
        self._durations.labels(self._model, handler, method).observe(seconds)

    def observe_start(self, record: RequestRecord) -> None:
        """A request's turn has come."""
        self._prompt_tokens.inc(record.num_prompt_tokens)
        self._request.begin(record)

    def observe_prompt(self, num_tokens: int, num_cached: int) -> None:
        """A sequence's prompt has been read, but for what the cache had of it."""
        self._cache_queries.inc(num_tokens)
        self._cache_hits.inc(num_cached)

    def observe_first_token(self, record: RequestRecord) -> None:
        """A request's first token has arrived."""
        self._request.hear_first(record)

    def observe_step(self, step: Output, num_kept: int, seconds: float | None) -> None:
        """A step has arrived, so long after its choice's last; the reply keeps `num_kept` of it."""
        self._step.observe(step, num_kept)
        if seconds is not None:
            self._request.hear_more(seconds)

    def _observe_finished(self, record: RequestRecord) -> None:
        for choice in record.choices:
            self._success.labels(self._model, choice.finish_reason or "error").inc()
        self._request.end(record)
