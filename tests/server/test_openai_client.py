"""The official client, unmodified."""

from collections.abc import Iterator

import openai
import pytest

from tests.server.conftest import LiveServer, StartServer
from tests.server.fakes import Behaviour

TEXT = "hello world, hello world, hello world"


@pytest.fixture
def client(live: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_it_completes(client: openai.OpenAI) -> None:
    reply = client.completions.create(model="fake", prompt="a", max_tokens=100, logprobs=1)
    assert reply.choices[0].text == TEXT and reply.choices[0].finish_reason == "length"
    assert reply.usage is not None and reply.usage.prompt_tokens_details is not None
    assert reply.choices[0].logprobs is not None
    assert (reply.model_extra or {})["metrics"]["stages"]


def test_it_streams(client: openai.OpenAI) -> None:
    chunks = list(
        client.completions.create(
            model="fake",
            prompt="a",
            max_tokens=100,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"speculation": "always"},
        )
    )
    assert "".join(c.choices[0].text for c in chunks if c.choices) == TEXT
    assert chunks[-1].choices == [] and chunks[-1].usage is not None


def test_it_lists_and_fetches_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["fake"]
    assert client.models.retrieve("fake").owned_by == "stagetree"


def test_it_raises_its_own_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="fake", prompt="a", temperature=300)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="other", prompt="a")
    assert missing.value.code == "model_not_found"


def test_it_retries_until_the_model_has_loaded(start_server: StartServer) -> None:
    """Red when 503 comes without what the client's own retry needs."""
    server = start_server(Behaviour(load_seconds=0.5))
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=2) as client:
        assert client.completions.create(model="fake", prompt="a").choices[0].text


def test_it_sees_a_crash_in_mid_stream_as_an_error(start_server: StartServer) -> None:
    """Red when an error inside a stream is not one the client raises."""
    server = start_server(Behaviour(dies_at_step=2)).wait_ready()
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        stream = client.completions.create(model="fake", prompt="a", stream=True)
        with pytest.raises(openai.APIError, match="exit code -11"):
            list(stream)
