"""What benchmarks decode: prompts from a file, and the two ways in which they are sampled."""

import json
from pathlib import Path

from engine.errors import ConfigError
from engine.request import SamplingParams
from engine.tokenizer import load_tokenizer

SAMPLINGS = (SamplingParams(temperature=0.0), SamplingParams(temperature=1.0, top_k=50))


def read_prompts(path: Path, count: int, model: str) -> list[tuple[int, ...]]:
    """The first prompts of a file, one `{"prompt": "..."}` a line, in the token ids of a model.

    Raises ConfigError if they are not there, ModelLoadError if the model has no tokenizer.
    """
    tokenizer = load_tokenizer(model)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[:count]
        prompts = [tuple(tokenizer.encode(json.loads(line)["prompt"])) for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f'{path} must hold one {{"prompt": "..."}} a line: {error!r}') from error
    if not prompts or not all(prompts):
        raise ConfigError(f"{path} must hold at least one prompt, and none that is empty.")
    return prompts
