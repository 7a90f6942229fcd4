"""From what the bodies of all APIs have in common to the sequences that engines run."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

from engine import GenerateRequest, ModelInfo, check
from server.errors import BadRequestError
from server.plan import Plan
from server.protocol import Prediction, TextRequest
from server.seeds import choice_seed, draw_seed
from server.settings import Settings
from server.text import Tokenizer
from server.translate.sampling import sampling_of

_log = logging.getLogger(__name__)
_numbers = count(1)
"""Engines know sequences by ids, and two clients may choose the same one for their requests."""


@dataclass(frozen=True, slots=True)
class Planner:
    """What requests are planned against: the model as it is loaded, and this server's limits."""

    info: ModelInfo
    tokenizer: Tokenizer
    settings: Settings

    def plan(
        self,
        body: TextRequest,
        request_id: str,
        prompts: Sequence[tuple[int, ...]],
        num_logprobs: int | None,
    ) -> Plan:
        """`n` choices of each prompt (token ids), one after another.

        Raises BadRequestError where this server's limits are passed, InvalidRequestError for what
        the engine cannot run.
        """
        num_sequences = len(prompts) * body.n
        if num_sequences > self.settings.max_sequences:
            raise BadRequestError(
                f"prompt: {len(prompts)} prompts with n={body.n} exceed the limit of "
                f"{self.settings.max_sequences} sequences in a request",
                param="prompt",
            )
        seed = draw_seed() if body.seed is None else body.seed
        seeds = [choice_seed(seed, k) for k in range(body.n)]
        firsts = [self._sequence(body, prompt, num_logprobs, seed) for prompt in prompts]
        choices = [(first, seed) for first in firsts for seed in seeds]
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
            n=body.n,
            priority=body.priority,
            stops=tuple(body.stop),
            tells_tokens=body.return_token_ids or num_logprobs is not None,
        )

    def start(self) -> list[int]:
        """What an empty prompt starts with: as the model's own texts do, GPT-2's for one."""
        return [*self.info.eos_token_ids, *self.tokenizer.eos_token_ids][:1]

    def _sequence(
        self, body: TextRequest, prompt: tuple[int, ...], num_logprobs: int | None, seed: int
    ) -> GenerateRequest:
        """The first choice of a prompt, checked."""
        ends = () if body.ignore_eos else self.tokenizer.eos_token_ids
        sequence = GenerateRequest(
            request_id="",
            prompt=prompt,
            max_tokens=self._fitted(body.max_tokens, len(prompt)),
            sampling=sampling_of(body, seed, self.tokenizer),
            stop_token_ids=(*body.stop_token_ids, *ends),
            ignore_eos=body.ignore_eos,
            num_logprobs=num_logprobs,
            speculation=body.speculation,
            cache_salt=body.cache_salt,
            prediction=self._prediction(body.prediction),
        )
        check(sequence, self.info.max_model_len, self.info.vocab_size)
        return sequence

    def _prediction(self, prediction: Prediction | None) -> tuple[int, ...]:
        """Its token ids."""
        if prediction is None:
            return ()
        return tuple(self.tokenizer.encode(prediction.text, add_special_tokens=False))

    def _fitted(self, max_tokens: int | None, num_prompt: int) -> int:
        """What the window leaves of them, and one where it leaves none, which is refused."""
        wanted = max_tokens or self.settings.default_max_tokens
        room = max(1, self.info.max_model_len - num_prompt)
        if wanted > room:
            _log.info("max_tokens %d cut to the %d that the window leaves", wanted, room)
        return min(wanted, room)
