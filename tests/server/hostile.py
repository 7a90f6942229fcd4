"""Requests that nobody foresaw: examples of /openapi.json with anything in any place, and worse.

What JSON can say and Python's writer cannot, such as lists in lists a thousand deep, stands in a
value as a name of `RAW` and is put in its place at the end.
"""

import copy
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from hypothesis import strategies as st

from server.app import create_app
from server.engines import EnginePool
from server.settings import Settings

_SETTINGS = Settings(model="fake")
API: dict[str, Any] = create_app(_SETTINGS, EnginePool(_SETTINGS, [])).openapi()
ENDED_BY_DONE = ("/v1/completions", "/v1/chat/completions")
"""Whose streams end as OpenAI's do."""

RAW = {
    **{
        f"@lists{depth}": "[" * depth + "]" * depth for depth in (100, 240, 300, 500, 900, 960, 985)
    },
    **{f"@objects{depth}": '{"a":' * depth + "1" + "}" * depth for depth in (240, 300, 900, 975)},
    "@many_lists": "[" * 3000 + "]" * 3000,
    "@digits": "9" * 5000,
    "@fraction": "0." + "3" * 5000,
    "@exponent": "1e999",
    "@twice": '{"type": "text", "type": 5}',
    "@nothing": "",
}
_EDGES = [
    *(2**31 - 1, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**30, -1, 0, 1, 16.0),
    *(1e308, -1e308, 5e-324, -0.0, float("nan"), float("inf"), float("-inf")),
    *("", "\ud800", "a\x00b", "<|endoftext|>", "<think>", "e\u0301\u202e\U0001f9d1", "a" * 3000),
    *("auto", "none", "user", "assistant", "text", "function", "{{ 1 / 0 }}"),
]


class Asked(NamedTuple):
    """A request as it goes over the wire."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
values = st.recursive(
    scalars | st.sampled_from(_EDGES) | st.sampled_from([*RAW]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=6) | st.sampled_from(["type", "content"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


def fields(path: str) -> list[str]:
    """The names of the body that is posted there."""
    return [*_schema(path)["properties"]]


def examples(path: str) -> list[Any]:
    """Bodies that are right there."""
    found: list[Any] = _schema(path)["examples"]
    return found


def posts() -> list[str]:
    """The paths that take a body."""
    return [
        path for path, methods in API["paths"].items() if "requestBody" in methods.get("post", {})
    ]


def written(body: Any) -> bytes:
    """A body as JSON, or nearly so."""
    text = json.dumps(body)
    return re.sub(r'"(@\w+)"', lambda found: RAW.get(found[1], found[0]), text).encode()


@st.composite
def requests(draw: st.DrawFn) -> Asked:
    """A body in which a few places hold anything, sometimes broken as text, too; any path."""
    if draw(st.integers(0, 15)) == 0:
        path = draw(st.sampled_from([*API["paths"]])).replace("{model_id}", "a%00b")
        method = draw(st.sampled_from(["GET", "HEAD", "POST", "PUT", "OPTIONS"]))
        query = draw(st.sampled_from(["", "?fail_on_no_slot=x", "?fail_on_no_slot=1", "?a=%ff"]))
        return Asked(method, path + query, written(draw(values)), {})
    path = draw(st.sampled_from(posts()))
    body = copy.deepcopy(draw(st.sampled_from(examples(path))))
    for _ in range(draw(st.integers(0, 3))):
        if not isinstance(body, dict):
            break
        where, name = draw(
            st.sampled_from([*_places(body), *((body, name) for name in fields(path))])
        )
        if draw(st.integers(0, 9)) == 0 and (isinstance(where, list) or name in where):
            del where[name]
        else:
            where[name] = draw(values)
    sent = written(body)
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(sent)))
        sent = sent[:at] + draw(st.binary(max_size=3)) + sent[at + draw(st.integers(0, 3)) :]
    kinds = ["application/json"] * 9 + ["text/plain", "application/json; charset=utf-16"]
    return Asked("POST", path, sent, {"Content-Type": draw(st.sampled_from(kinds))})


def _schema(path: str) -> dict[str, Any]:
    content = API["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    name = content["schema"]["$ref"].rpartition("/")[2]
    found: dict[str, Any] = API["components"]["schemas"][name]
    return found


def _places(inside: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a body, as what holds it and its name or number there."""
    named = inside.items() if isinstance(inside, dict) else enumerate(inside)
    for name, each in [*named]:
        yield inside, name
        if isinstance(each, dict | list):
            yield from _places(each)
