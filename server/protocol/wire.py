"""What all messages have in common."""

from pydantic import BaseModel, ConfigDict


class Wire(BaseModel):
    """Anything on the wire: exact types, and no number that JSON has not."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
