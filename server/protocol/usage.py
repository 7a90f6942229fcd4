"""What a reply tells of its cost and its making, whichever API it is of."""

from server.protocol.wire import Wire


class PromptTokensDetails(Wire):
    """How many prompt tokens were still in the engine's cache."""

    cached_tokens: int


class CompletionTokensDetails(Wire):
    """What became of a request's own `prediction`, and of nothing else that was drafted.

    Of its tokens so many are in the reply because they were proposed; the others were proposed, and
    the model chose otherwise. In chats, how many tokens were reasoning, too.
    """

    accepted_prediction_tokens: int
    rejected_prediction_tokens: int
    reasoning_tokens: int = 0
    """Tokens up to the mark that ends the reasoning, of choices that are over."""


class Usage(Wire):
    """Token counts of a request; each prompt counts once, whatever `n` is."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class SpeculativeDecoding(Wire):
    """Acceptance over a request's steps; the mean length counts the bonus token, nothing else."""

    mean_acceptance_length: float
    draft_acceptance_rate: float
    acceptance_histogram: list[int]
    num_spec_steps: int
    num_accepted_draft_tokens: int
    num_draft_tokens: int


class StageMetrics(Wire):
    """What one draft stage contributed to a request."""

    name: str
    proposed: int
    accepted: int
    guesses: int
    confirmed: int
    passes: int
    milliseconds: float


class RequestMetrics(Wire):
    """What a request learned about itself, in vLLM's shape, with `stages` beside it."""

    time_to_first_token_ms: float
    queue_time_ms: float
    generation_time_ms: float
    mean_itl_ms: float
    tokens_per_second: float
    speculative_decoding: SpeculativeDecoding
    stages: list[StageMetrics]


class ReplyHead(Wire):
    """What made a reply, and when."""

    id: str
    """The request's id."""
    created: int
    """When the reply began, in seconds of Unix time."""
    model: str
    """The model's public name."""
    system_fingerprint: str
    """Changes with weights, precision and version: with whatever makes a text."""
