"""What all messages have in common."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def is_encodable(text: object) -> bool:
    """JSON can escape half a surrogate pair; no tokenizer can read one. What is no text may be."""
    if not isinstance(text, str):
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _encodable(text: str) -> str:
    if not is_encodable(text):
        raise ValueError("holds half a surrogate pair, which is no text")
    return text


_DEEPEST = 64


def told_back(value: object) -> object:
    """Refuse what a reply could not say again: what is no text, or lists in lists in lists."""
    level = [value]
    for _ in range(_DEEPEST):
        if not all(map(is_encodable, level)):
            raise ValueError("holds half a surrogate pair, which is no text")
        inner: list[object] = []
        for each in level:
            if isinstance(each, dict):
                inner += [*each.keys(), *each.values()]
            elif isinstance(each, list):
                inner += each
        level = inner
    if level:
        raise ValueError(f"is more than {_DEEPEST} lists or objects deep")
    return value


Text = Annotated[str, AfterValidator(_encodable)]
"""A string that is text."""


def unless_none(default: Any = None) -> Any:
    """A field that is left out of the JSON where it is None."""
    return Field(default=default, exclude_if=lambda value: value is None)


def examples(*bodies: dict[str, Any]) -> ConfigDict:
    """The configuration of a body with these examples, which /openapi.json shows."""
    return ConfigDict(json_schema_extra={"examples": list(bodies)})


class Wire(BaseModel):
    """Anything on the wire: exact types, and no number that JSON has not.

    The text below a field describes it in /openapi.json; the `examples` of a body are what a
    test sends.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False, use_attribute_docstrings=True)
