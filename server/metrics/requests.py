"""What is observed once per request, and of each of its choices, under vLLM's names and ours."""

from prometheus_client import Histogram

from server.metrics.families import COUNTS, LENGTHS, TOKENS, Families
from server.record import RequestRecord


class RequestFigures:
    """Requests as they begin, speak and end."""

    def __init__(self, families: Families) -> None:
        def both(vllm: str, own: str, text: str) -> tuple[Histogram, Histogram]:
            own_family = families.histogram(f"stagetree_{own}_seconds", text)
            return own_family, families.histogram(f"vllm:{vllm}_seconds", text)

        seconds = families.histogram
        self._queue = both("request_queue_time", "queue", "Arrival to the request's turn.")
        self._first = both("time_to_first_token", "time_to_first_token", "Arrival to first token.")
        self._token = both(
            "request_time_per_output_token",
            "time_per_output_token",
            "Mean time per output token after the first.",
        )
        self._whole = both("e2e_request_latency", "request", "Arrival to last token.")
        self._acceptance = families.histogram(
            "stagetree_acceptance_length", "Mean tokens that a step emits.", LENGTHS
        )
        self._inference = seconds("vllm:request_inference_time_seconds", "Turn to last token.")
        self._prefill = seconds("vllm:request_prefill_time_seconds", "Turn to first token.")
        self._decode = seconds("vllm:request_decode_time_seconds", "First token to last.")
        self._between = seconds(
            "vllm:inter_token_latency_seconds", "Between two outputs of a choice, of any length."
        )
        self._prompt = families.histogram(
            "vllm:request_prompt_tokens", "Prompt tokens of a request.", TOKENS
        )
        self._generation = families.histogram(
            "vllm:request_generation_tokens", "Tokens of a choice.", TOKENS
        )
        self._longest = families.histogram(
            "vllm:request_max_num_generation_tokens", "Tokens of its longest choice.", TOKENS
        )
        self._n = families.histogram("vllm:request_params_n", "Choices of a prompt.", COUNTS)
        self._most = families.histogram(
            "vllm:request_params_max_tokens", "Tokens that were asked for at most.", TOKENS
        )

    def begin(self, record: RequestRecord) -> None:
        """A request's turn has come."""
        for histogram in self._queue:
            histogram.observe(record.queue_seconds)

    def hear_first(self, record: RequestRecord) -> None:
        """Its first token has come."""
        for histogram in self._first:
            histogram.observe(record.first_token_seconds)

    def hear_more(self, seconds: float) -> None:
        """More of a choice has come, so long after what had been told of it."""
        self._between.observe(seconds)

    def end(self, record: RequestRecord) -> None:
        """It has ended well."""
        for histogram in self._whole:
            histogram.observe(record.last_token_at - record.arrived_at)
        if record.num_decode_tokens:
            for histogram in self._token:
                histogram.observe(record.seconds_per_token)
        self._acceptance.observe(record.stats.mean_acceptance_length)
        prefill = record.first_token_seconds - record.queue_seconds
        self._inference.observe(record.generation_seconds)
        self._prefill.observe(max(0.0, prefill))
        self._decode.observe(max(0.0, record.generation_seconds - prefill))
        self._prompt.observe(record.num_prompt_tokens)
        for choice in record.choices:
            self._generation.observe(choice.num_tokens)
        self._longest.observe(max((choice.num_tokens for choice in record.choices), default=0))
        self._n.observe(record.n)
        self._most.observe(record.max_tokens)
