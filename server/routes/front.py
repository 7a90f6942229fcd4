"""`GET /`: a page for people, where a browser asks, and a signpost for programs.

The page is files in `server/page`, served as they are: nothing is built, and nothing of it is from
elsewhere.
"""

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.staticfiles import StaticFiles

from server.state import AppState
from server.version import VERSION

router = APIRouter(tags=["operations"])

_FILES = StaticFiles(directory=Path(__file__).parent.parent / "page")

_HEADERS = {
    # Asked for anew each time, and answered with 304: a page is never older than its server.
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
}
_PAGE_HEADERS = {
    **_HEADERS,
    # What a model writes is shown on this page, so nothing may run, or be asked, but what is ours.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
}
_VARY = {"Vary": "Accept", "Cache-Control": "no-cache"}


@router.get("/", response_model=dict[str, Any])
async def front(request: Request, state: AppState) -> Response:
    """What this is and where to go; a page where one is asked for by `Accept: text/html`."""
    if "text/html" in request.headers.get("accept", ""):
        page = await _FILES.get_response("index.html", request.scope)
        page.headers.update(_PAGE_HEADERS | _VARY)
        return page
    return JSONResponse(_signpost(state), headers=_VARY)


@router.get("/page/{name}", include_in_schema=False)
async def file(name: str, request: Request) -> Response:
    """A file of the page; raises HTTPException for one that is not there."""
    found = await _FILES.get_response(name, request.scope)
    found.headers.update(_HEADERS)
    return found


def _signpost(state: AppState) -> dict[str, Any]:
    return {
        "name": "stagetree",
        "version": VERSION,
        "model": state.settings.model_id,
        "needs_key": state.needs_key,
        "completions": "/v1/completions",
        "chat": "/v1/chat/completions",
        "responses": "/v1/responses",
        "messages": "/v1/messages",
        "infill": "/infill",
        "models": "/v1/models",
        "ready": "/ready",
        "metrics": "/metrics",
        "api": "/openapi.json",
    }
