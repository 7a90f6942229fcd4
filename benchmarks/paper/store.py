"""What has been measured so far, on disk: a run is a line, so that the next command goes on."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from engine.benchmark import Divergence, Passage, Run
from engine.errors import ConfigError
from engine.request import GenerateRequest, SamplingParams
from engine.stats import StageStats, StepStats


@dataclass(frozen=True, slots=True)
class Measured:
    """A row's run over all passages, and by how much plain's token won wherever the text parted."""

    temperature: float
    row: str
    repetition: int
    run: Run
    gaps: tuple[float, ...]

    @classmethod
    def read(cls, line: str) -> Self:
        """From a line of the file."""
        known = json.loads(line)
        run = known["run"]
        known["run"] = Run(
            run["first_token_seconds"],
            run["seconds"],
            [_step(step) for step in run["steps"]],
            [Divergence(**each) for each in run["divergences"]],
        )
        return cls(**{**known, "gaps": tuple(known["gaps"])})


class Runs:
    """The file of all runs."""

    def __init__(self, file: Path) -> None:
        self._file = file
        lines = file.read_text().splitlines() if file.exists() else []
        self._all = [Measured.read(line) for line in lines]

    def add(self, measured: Measured) -> None:
        """Write one more down."""
        with self._file.open("a") as file:
            file.write(json.dumps(asdict(measured)) + "\n")
        self._all.append(measured)

    def of(self, temperature: float, row: str) -> dict[int, Measured]:
        """A row's runs by repetition."""
        wanted = (temperature, row)
        return {m.repetition: m for m in self._all if (m.temperature, m.row) == wanted}


def save_passages(file: Path, passages: list[Passage], share_cut: float) -> None:
    """Write down what every row decodes at one temperature."""
    texts = [{"request": asdict(each.request), "text": each.text} for each in passages]
    file.write_text(json.dumps({"share_cut": share_cut, "passages": texts}))


def load_passages(file: Path) -> tuple[list[Passage], float]:
    """What `save_passages` wrote."""
    known = json.loads(file.read_text())
    passages = [_passage(each) for each in known["passages"]]
    return passages, known["share_cut"]


def claim(file: Path, settings: Mapping[str, Any]) -> None:
    """Write down what a folder is for; raises ConfigError if it is for something else."""
    # As JSON has it, where a tuple is a list.
    now = json.loads(json.dumps(settings))
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(now, indent=2))
    then = json.loads(file.read_text())
    if differing := sorted(key for key in now | then if now.get(key) != then.get(key)):
        raise ConfigError(
            f"{file.parent} holds a run of another {', '.join(differing)}: name another folder, or "
            "delete this one."
        )


def _step(known: dict[str, Any]) -> StepStats:
    return StepStats(**{**known, "stages": tuple(StageStats(**each) for each in known["stages"])})


def _passage(known: dict[str, Any]) -> Passage:
    fields = _frozen(known["request"])
    sampling = SamplingParams(**fields["sampling"])
    return Passage(GenerateRequest(**{**fields, "sampling": sampling}), tuple(known["text"]))


def _frozen(value: Any) -> Any:
    """As it was before it was JSON, where a tuple is a list."""
    if isinstance(value, dict):
        return {key: _frozen(each) for key, each in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
