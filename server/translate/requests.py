"""From what the bodies of all APIs have in common to the sequences that engines run."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

from engine import Constraint, ContextLengthError, GenerateRequest, ModelInfo, check
from server.errors import BadRequestError
from server.piece import Manner
from server.plan import Plan
from server.protocol import Prediction, TextRequest
from server.seeds import choice_seed, draw_seed
from server.settings import Settings
from server.text import Infill, Tokenizer
from server.translate.constraints import constraint_of
from server.translate.sampling import sampling_of

_log = logging.getLogger(__name__)
_numbers = count(1)
"""Engines know sequences by ids, and two clients may choose the same one for their requests."""

MAX_SCORES = 2**20
"""Log-probabilities of prompts in one request: what a reply of about 40 MB can tell."""


@dataclass(frozen=True, slots=True)
class Planner:
    """What requests are planned against: the model as it is loaded, and this server's limits."""

    info: ModelInfo
    tokenizer: Tokenizer
    settings: Settings
    infill: Infill | None = None

    def plan(
        self,
        body: TextRequest,
        request_id: str,
        prompts: Sequence[tuple[int, ...]],
        num_logprobs: int | None,
        num_prompt_logprobs: int | None = None,
        num_choices: int | None = None,
        ends: Sequence[int] = (),
        constraint: Constraint | None = None,
    ) -> Plan:
        """`num_choices` (`n` if left out) of each prompt (token ids), one after another.

        The token ids `ends` end them too, unless an end of text is ignored. A `constraint` stands
        for the form that the body asks for.

        Raises BadRequestError where this server's limits are passed, InvalidRequestError for what
        the engine cannot run.
        """
        n = num_choices or body.n
        self._check_sizes(prompts, n, num_prompt_logprobs)
        seed = draw_seed() if body.seed is None else body.seed
        seeds = [choice_seed(seed, k) for k in range(n)]
        common = replace(
            self._common(body, num_logprobs, seed, ends),
            num_prompt_logprobs=num_prompt_logprobs,
            constraint=constraint or constraint_of(body.wanted),
        )
        firsts = [self._sequence(common, prompt, body.max_tokens) for prompt in prompts]
        # A prompt is scored once, for its first choice.
        choices = [
            (replace(first, num_prompt_logprobs=None) if number else first, seed)
            for first in firsts
            for number, seed in enumerate(seeds)
        ]
        return Plan(
            request_id=request_id,
            sequences=tuple(
                replace(
                    first,
                    request_id=f"{request_id}-{next(_numbers)}",
                    sampling=replace(first.sampling, seed=seed),
                )
                for first, seed in choices
            ),
            num_prompt_tokens=sum(map(len, prompts)),
            n=n,
            priority=body.priority,
            manner=Manner(
                stops=tuple(body.stop),
                includes_stop=body.include_stop_str_in_output,
                skips_specials=body.skip_special_tokens,
                tells_tokens=(
                    body.return_token_ids or body.return_trace or num_logprobs is not None
                ),
            ),
        )

    def _check_sizes(
        self, prompts: Sequence[tuple[int, ...]], n: int, num_prompt_logprobs: int | None
    ) -> None:
        """Raise BadRequestError for more than one request may ask of this server."""
        most = self.settings.max_sequences
        if len(prompts) * n > most:
            raise BadRequestError(
                f"prompt: {len(prompts)} prompts with n={n} exceed the limit of "
                f"{most} sequences in a request",
                param="prompt",
            )
        num_tokens = sum(map(len, prompts)) * n
        if num_prompt_logprobs is not None and num_tokens * (num_prompt_logprobs + 1) > MAX_SCORES:
            raise BadRequestError(
                f"prompt: {num_tokens} tokens with {num_prompt_logprobs} alternatives exceed the "
                f"limit of {MAX_SCORES} log-probabilities in a request; send fewer prompts",
                param="prompt",
            )

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The token ids of a prompt; raises ContextLengthError for one that can never fit."""
        self.check_length(text, "prompt")
        return self.tokenizer.encode(text, add_special_tokens)

    def check_length(self, text: str, field: str) -> None:
        """Raise ContextLengthError for what is too long to be looked at."""
        if len(text) > self.most_characters:
            raise ContextLengthError(
                f"a {field} of {len(text)} characters exceeds the window of "
                f"{self.info.max_model_len} tokens: shorten it, or raise max_model_len.",
                field,
            )

    @property
    def most_characters(self) -> int:
        """Of a text that might fit the window."""
        return self.info.max_model_len * self.tokenizer.longest

    def start(self) -> list[int]:
        """What an empty prompt starts with: as the model's own texts do, GPT-2's for one."""
        return [*self.info.eos_token_ids, *self.tokenizer.eos_token_ids][:1]

    def _sequence(
        self, common: GenerateRequest, prompt: tuple[int, ...], max_tokens: int | None
    ) -> GenerateRequest:
        """The first choice of a prompt, checked."""
        fitted = self._fitted(max_tokens, len(prompt))
        sequence = replace(common, prompt=prompt, max_tokens=fitted)
        check(sequence, self.info.max_model_len, self.info.vocab_size)
        return sequence

    def _common(
        self, body: TextRequest, num_logprobs: int | None, seed: int, ends: Sequence[int]
    ) -> GenerateRequest:
        """What all prompts have in common: words may take a while to tokenise."""
        ends = () if body.ignore_eos else (*self.tokenizer.eos_token_ids, *ends)
        return GenerateRequest(
            request_id="",
            prompt=(),
            max_tokens=1,
            sampling=sampling_of(body, seed, self.tokenizer),
            stop_token_ids=(*body.stop_token_ids, *ends),
            ignore_eos=body.ignore_eos,
            num_logprobs=num_logprobs,
            speculation=body.speculation,
            cache_salt=body.cache_salt,
            prediction=self._prediction(body.prediction),
            is_traced=body.return_trace,
        )

    def _prediction(self, prediction: Prediction | None) -> tuple[int, ...]:
        """Its token ids."""
        if prediction is None:
            return ()
        self.check_length(prediction.text, "prediction")
        return tuple(self.tokenizer.encode(prediction.text, add_special_tokens=False))

    def room_for_prompt(self, max_tokens: int | None) -> int:
        """How many tokens of a prompt the window has room for beside such a reply; 1 or more."""
        wanted = self.settings.default_max_tokens if max_tokens is None else max(1, max_tokens)
        return max(1, self.info.max_model_len - wanted)

    def _fitted(self, max_tokens: int | None, num_prompt: int) -> int:
        """What the window leaves of them, and one where it leaves none, which is refused.

        None are so many as the settings say, -1 all that the window leaves.
        """
        room = max(1, self.info.max_model_len - num_prompt)
        if max_tokens == -1:
            return room
        wanted = self.settings.default_max_tokens if max_tokens is None else max_tokens
        if wanted > room:
            _log.info("max_tokens %d cut to the %d that the window leaves", wanted, room)
        return min(wanted, room)
