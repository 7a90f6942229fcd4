"""How busy the server is and what it serves, as vLLM's and llama-server's clients ask for it."""

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from server.engines import RETRY_AFTER
from server.openapi import UNAVAILABLE
from server.state import AppState
from server.version import VERSION

router = APIRouter(tags=["operations"])


@router.get("/ping")
@router.post("/ping")
async def ping() -> dict[str, str]:
    """As /health, for who knows it by this name."""
    return {"status": "ok"}


@router.get("/load")
async def load(state: AppState) -> dict[str, int]:
    """Requests that run or wait, as vLLM counts them."""
    queue = state.pool.queue
    return {"server_load": queue.num_running + queue.num_waiting}


@router.get("/slots", responses={503: {"description": "The same, where no seat is free."}})
async def slots(state: AppState, fail_on_no_slot: int = 0) -> Response:
    """Every seat of every engine; with `fail_on_no_slot=1` 503 where none is free.

    Beside llama-server's words, how many tokens the text there has, and how many nodes of it the
    last step has verified.
    """
    told: list[dict[str, Any]] = []
    for client in state.pool.clients:
        info = client.info if client.is_serving else None
        told += [
            {
                "id": number,
                "n_ctx": info.max_model_len if info else 0,
                "is_processing": place is not None,
                "speculative": bool(info and info.stages),
                "num_tokens": place.num_tokens if place else 0,
                "num_nodes": place.num_nodes if place else 0,
            }
            for number, place in enumerate(client.seats.taken, start=len(told))
        ]
    is_full = bool(fail_on_no_slot) and all(slot["is_processing"] for slot in told)
    headers = {"Retry-After": str(RETRY_AFTER)} if is_full else {}
    return JSONResponse(told, 503 if is_full else 200, headers)


@router.get("/props", responses=UNAVAILABLE)
async def props(state: AppState) -> dict[str, Any]:
    """What is served, as llama-server tells it."""
    info, infill = state.pool.nearest.info, state.pool.tokenizer.infill
    templates = state.pool.tokenizer.get().templates
    template = templates.choose(has_tools=False, override=state.settings.chat_template)
    return {
        "default_generation_settings": {
            "n_ctx": info.max_model_len,
            "params": {
                "n_predict": state.settings.default_max_tokens,
                "temperature": 1.0,
                "top_k": 0,
                "top_p": 1.0,
                "min_p": 0.0,
            },
        },
        "total_slots": sum(len(client.seats) for client in state.pool.clients),
        "model_alias": state.settings.model_id,
        "model_path": info.model,
        "build_info": f"stagetree {VERSION}",
        "chat_template": template.source if template else "",
        "modalities": {"vision": False, "audio": False},
        "fim_template": infill.template if infill else None,
    }
