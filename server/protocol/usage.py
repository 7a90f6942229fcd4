"""What a reply tells of its cost and its making, whichever API it is of."""

from server.protocol.wire import Wire


class PromptTokensDetails(Wire):
    """How many prompt tokens were still in the engine's cache."""

    cached_tokens: int
    """Prompt tokens that an earlier request had left in the cache."""


class CompletionTokensDetails(Wire):
    """What became of a request's own `prediction`, and of nothing else that was drafted.

    Of its tokens so many are in the reply because they were proposed; the others were proposed, and
    the model chose otherwise. In chats, how many tokens were reasoning, too.
    """

    accepted_prediction_tokens: int
    """Tokens of the reply that the prediction proposed."""
    rejected_prediction_tokens: int
    """Proposed ones that the model did not choose."""
    reasoning_tokens: int = 0
    """Tokens up to the mark that ends the reasoning, of choices that are over."""


class Usage(Wire):
    """Token counts of a request; each prompt counts once, whatever `n` is."""

    prompt_tokens: int
    """Tokens of all prompts."""
    completion_tokens: int
    """Tokens of all choices."""
    total_tokens: int
    """Both together."""
    prompt_tokens_details: PromptTokensDetails
    """Of the prompts' tokens."""
    completion_tokens_details: CompletionTokensDetails
    """Of the choices' tokens."""


class SpeculativeDecoding(Wire):
    """Acceptance over a request's steps; the mean length counts the bonus token, nothing else."""

    mean_acceptance_length: float
    """Tokens that a step brought, on average."""
    draft_acceptance_rate: float
    """Of the drafted tokens, the share that was accepted."""
    acceptance_histogram: list[int]
    """Steps by the number of drafts that they accepted, from 0."""
    num_spec_steps: int
    """Steps."""
    num_accepted_draft_tokens: int
    """Drafted tokens that were accepted."""
    num_draft_tokens: int
    """Drafted tokens."""


class StageMetrics(Wire):
    """What one draft stage contributed to a request."""

    name: str
    """The stage."""
    proposed: int
    """Nodes of scored trees that it proposed."""
    accepted: int
    """Of these, what the model chose."""
    guesses: int
    """Nodes that it offered to the stage above."""
    confirmed: int
    """Of these, what that stage would have chosen."""
    passes: int
    """Its passes, or look-ups."""
    milliseconds: float
    """Its time."""


class RequestMetrics(Wire):
    """What a request learned about itself, in vLLM's shape, with `stages` beside it."""

    time_to_first_token_ms: float
    """From arrival to the first token."""
    queue_time_ms: float
    """From arrival to a seat."""
    generation_time_ms: float
    """From the seat to the last token."""
    mean_itl_ms: float
    """Between two tokens of a choice, on average."""
    tokens_per_second: float
    """Of all choices together, from the seat on."""
    speculative_decoding: SpeculativeDecoding
    """What speculation brought."""
    stages: list[StageMetrics]
    """What each stage contributed."""


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
