"""Text and token ids, asked apart from any completion."""

import asyncio

from fastapi import APIRouter

from server.openapi import UNAVAILABLE
from server.protocol import (
    DetokenizeReply,
    DetokenizeRequest,
    TokenizeReply,
    TokenizeRequest,
    TokenizerInfo,
)
from server.routes.carry import planner_of
from server.state import AppState, State
from server.text import Tokenizer
from server.translate.requests import Planner

router = APIRouter(tags=["tokens"])


@router.post("/tokenize", responses=UNAVAILABLE)
async def tokenize(body: TokenizeRequest, state: AppState) -> TokenizeReply:
    """The token ids of a text."""
    state.check_model(body.model)
    return await asyncio.to_thread(_tokenized, body, planner_of(state))


@router.post("/detokenize", responses=UNAVAILABLE)
async def detokenize(body: DetokenizeRequest, state: AppState) -> DetokenizeReply:
    """The text of token ids."""
    state.check_model(body.model)
    text = await asyncio.to_thread(_tokenizer(state).decode_all, body.tokens)
    return DetokenizeReply(prompt=text, content=text)


@router.get("/tokenizer_info", responses=UNAVAILABLE)
async def tokenizer_info(state: AppState) -> TokenizerInfo:
    """What the model's tokenizer is like."""
    tokenizer, info = _tokenizer(state), state.pool.nearest.info
    infill = state.pool.tokenizer.infill
    ends = [*dict.fromkeys((*tokenizer.eos_token_ids, *info.eos_token_ids))]
    starts = [at for at in tokenizer.encode("")[:1] if at in tokenizer.specials]
    return TokenizerInfo(
        tokenizer_class="PreTrainedTokenizerFast",
        vocab_size=tokenizer.inner.get_vocab_size(),
        model_max_length=info.max_model_len,
        bos_token=next((tokenizer.specials[at] for at in starts), None),
        eos_token=next((tokenizer.token_text(at) for at in ends), None),
        eos_token_ids=ends,
        special_tokens={name: at for at, name in tokenizer.specials.items()},
        fim_template=infill.template if infill else None,
    )


def _tokenized(body: TokenizeRequest, planner: Planner) -> TokenizeReply:
    """What may take a while, for a thread of its own; raises ContextLengthError."""
    ids = planner.encode(body.text, body.adds_specials)
    name = planner.tokenizer.token_text
    return TokenizeReply(
        count=len(ids),
        max_model_len=planner.info.max_model_len,
        tokens=ids,
        token_strs=[name(each) for each in ids] if body.return_token_strs else None,
    )


def _tokenizer(state: State) -> Tokenizer:
    """Raises NotReadyError or LoadFailedError where there is none yet."""
    _ = state.pool.nearest.info
    return state.pool.tokenizer.get()
