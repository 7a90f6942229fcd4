"""What `stagetree serve` says to whoever started it: where it is, and how to try what it serves."""

import json

from engine import public_drafts
from server.settings import Settings
from server.terminal import messages
from server.version import VERSION

_FIRST = {"max_tokens": 64, "temperature": 0}
_COMPLETION = {"prompt": "def fibonacci(n):", **_FIRST}
_CHAT = {"messages": [{"role": "user", "content": "What is a token tree?"}], **_FIRST}


class Greeting:
    """Of a server that listens on this port."""

    def __init__(self, settings: Settings, port: int) -> None:
        self._settings = settings
        self._url = url_of(settings.host, port)

    def loads(self) -> None:
        """It listens, and whether there is such a model is not known yet."""
        _say(f"stagetree {VERSION} listens on {self._url} and loads {self._settings.model_id}")

    def serves(self, is_chat: bool) -> None:
        """The model is there; `is_chat` is whether it has a template for chats."""
        settings = self._settings
        path, body = ("chat/completions", _CHAT) if is_chat else ("completions", _COMPLETION)
        key = " -H 'Authorization: Bearer KEY'" if settings.keys() else ""
        kind = "-H 'Content-Type: application/json'"
        _say(f"stagetree serves {settings.model_id} on {self._url}")
        _say(f"try: curl {self._url}/v1/{path} {kind}{key} -d '{json.dumps(body)}'")
        if not any(stage.checkpoint for stage in settings.engine.stages):
            _say(drafts_of(settings.engine.model))


def url_of(host: str, port: int) -> str:
    """Where a client of this machine finds a server that listens there."""
    here = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
    return f"http://{here.get(host, f'[{host}]' if ':' in host else host)}:{port}"


def drafts_of(model: str) -> str:
    """What may be named as a draft for a model that has none."""
    known = [each.name for each in public_drafts(model)]
    named = f"known for {model}: {', '.join(known)}" if known else f"none is known for {model}"
    return f"no draft: {named}; `stagetree fit {model}` tells what one gains here"


def _say(line: str) -> None:
    messages.print(line, soft_wrap=True, markup=False)
