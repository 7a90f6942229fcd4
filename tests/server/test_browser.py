"""The page in a real headless Chromium: typed into, stopped, scrubbed, compared, by keyboard too.

Left out where there is no playwright (`pip install playwright`) or no Chromium on the path. All but
the first test are slow.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from engine import GenerateRequest
from tests.server.conftest import LiveServer, StartServer, wait_until
from tests.server.fakes import Behaviour, blocks, byte_level_tokenizer

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the path")
slow = pytest.mark.slow

TEXT = "hello world, hello world, hello world"
NUM_TOKENS, NUM_STEPS = len(byte_level_tokenizer().encode(TEXT)), len(blocks(TEXT))
TEMPLATE = "{% for each in messages %}[{{ each.role }}] {{ each.content }}\n{% endfor %}"


def slowly(request: GenerateRequest) -> list[list[int]]:
    return blocks("hello world, " * 20)


def chatty(**changes: Any) -> Behaviour:
    return Behaviour(chat_templates={"default": TEMPLATE}, **changes)


@dataclass
class Tab:
    """A tab of the browser, what went wrong in it, and whom it asked."""

    page: Any
    errors: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(10_000)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "console", lambda said: self.errors.append(said.text) if said.type == "error" else None
        )
        self.page.on("request", lambda asked: self.hosts.add(asked.url.split("/")[2]))

    def open(self, server: LiveServer) -> Any:
        """The page of this server, once it is ready."""
        self.page.goto(server.url)
        self.page.get_by_text("seats taken").wait_for()
        return self.page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser: Any) -> Iterator[Tab]:
    """A fresh one; red when anything in it fails, or asks anybody but our server."""
    context = browser.new_context()
    tab = Tab(context.new_page())
    yield tab
    context.close()
    assert tab.errors == []
    assert all(host.startswith("127.0.0.1:") for host in tab.hosts)


def write(page: Any, words: str | None = None) -> None:
    """Type and send, and wait for the end."""
    if words is not None:
        page.locator("#prompt").fill(words)
    page.locator("#write").click()
    page.locator("#write:enabled").wait_for()


def expect_step(page: Any, number: int) -> None:
    """What is looked at is drawn with the next frame."""
    name = f"Step {number} of {NUM_STEPS}"
    playwright.expect(page.locator("#step-name")).to_have_text(name)


def expect_count(found: Any, number: int) -> None:
    playwright.expect(found).to_have_count(number)


def test_a_text_is_typed_streamed_and_looked_at_step_by_step(
    start_server: StartServer, tab: Tab
) -> None:
    """Red when the page does not write, loses a token, or draws another step than was chosen."""
    server = start_server().wait_ready()
    page = tab.open(server)
    write(page, "def f(")
    expect_count(page.locator(".text .token"), NUM_TOKENS)  # waits for them
    assert page.locator(".text").text_content() == f"def f({TEXT}"
    assert f"{NUM_TOKENS} tokens in {NUM_STEPS} steps" in page.locator("#status").text_content()
    expect_step(page, NUM_STEPS)
    page.locator(".text .step").nth(1).click()
    expect_step(page, 2)
    expect_count(page.locator("#tree .node"), 8 + 1)  # the bonus token is drawn too
    expect_count(page.locator("#tree .node.accepted"), 1)
    expect_count(page.locator(".text .step.later"), NUM_STEPS - 2)
    page.locator("#scrub").focus()
    page.keyboard.press("ArrowRight")
    expect_step(page, 3)
    page.get_by_text("Nodes as a table").click()
    expect_count(page.locator("#nodes tbody tr"), 8 + 1)


@slow
def test_a_text_is_stopped_and_the_engine_with_it(start_server: StartServer, tab: Tab) -> None:
    """Red when Stop leaves the engine writing, or takes away what has been written."""
    server = start_server(Behaviour(slowly, step_seconds=0.05)).wait_ready()
    page = tab.open(server)
    page.locator("#write").click()
    page.locator(".text .step").nth(2).wait_for()
    page.get_by_role("button", name="Stop").click()
    page.locator("#write:enabled").wait_for()
    assert page.locator("#status").text_content().startswith("Stopped after")
    assert page.locator(".text .step").count() >= 3
    wait_until(lambda: server.behaviour.num_running == 0)


@slow
def test_a_seat_shows_who_is_written_meanwhile(start_server: StartServer, tab: Tab) -> None:
    server = start_server(Behaviour(slowly, step_seconds=0.05, num_seats=3)).wait_ready()
    page = tab.open(server)
    expect_count(page.locator("#seats li"), 3)
    page.locator("#write").click()
    page.get_by_label("8 nodes in its last step").wait_for()
    expect_count(page.locator("#seats li[data-busy=true]"), 1)
    page.keyboard.press("Escape")
    page.get_by_text("0 of 3 seats taken").wait_for()


@slow
def test_the_same_seed_is_written_with_and_without_speculation(
    start_server: StartServer, tab: Tab
) -> None:
    """Red when the plain run has another seed, or the verdict does not look at every token."""
    server = start_server().wait_ready()
    page = tab.open(server)
    page.get_by_label("Compare with plain").check()
    write(page)
    first, second = server.behaviour.requests
    assert (first.speculation, second.speculation) == ("auto", "off")
    assert first.sampling == second.sampling
    assert f"The same text: {NUM_TOKENS} tokens" in page.locator(".verdict").text_content()
    panes = page.locator(".text")
    assert panes.nth(0).text_content() == panes.nth(1).text_content()
    page.locator("#scrub").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    for at in (0, 1):
        expect_count(panes.nth(at).locator(".later"), NUM_STEPS - 2)


@slow
def test_texts_that_differ_are_said_to_from_the_first_token_that_does(
    start_server: StartServer, tab: Tab
) -> None:
    """Red when the page claims equality that is not there."""

    def script(request: GenerateRequest) -> list[list[int]]:
        return blocks("hello world" if request.speculation == "off" else "hello there")

    page = tab.open(start_server(Behaviour(script)).wait_ready())
    page.get_by_label("Compare with plain").check()
    write(page)
    ids = [byte_level_tokenizer().encode(text) for text in ("hello world", "hello there")]
    place = next(at for at, (one, other) in enumerate(zip(*ids, strict=False)) if one != other)
    assert f"differ from token {place + 1} on" in page.locator(".verdict").text_content()


@slow
def test_a_chat_is_a_conversation(start_server: StartServer, tab: Tab) -> None:
    """Red when a message is sent without those before it, or Enter does not send it."""
    server = start_server(chatty()).wait_ready()
    page = tab.open(server)
    assert page.get_by_role("radio", name="Chat").is_checked()
    page.locator("#prompt").fill("one")
    page.keyboard.press("Enter")
    page.locator("#write:enabled").wait_for()
    assert page.locator("#prompt").input_value() == ""
    write(page, "two")
    sent = byte_level_tokenizer().decode([*server.behaviour.requests[1].prompt])
    assert sent == f"[user] one\n[assistant] {TEXT}\n[user] two\n"
    assert page.locator(".said").all_text_contents() == ["one", "two"]
    page.get_by_role("button", name="New chat").click()
    expect_count(page.locator(".turn"), 0)


@slow
def test_a_model_without_a_template_has_no_chats(start_server: StartServer, tab: Tab) -> None:
    page = tab.open(start_server().wait_ready())
    assert page.get_by_role("radio", name="Chat").is_disabled()


@slow
def test_a_key_is_asked_for_and_kept_while_the_tab_is_open(
    start_server: StartServer, tab: Tab
) -> None:
    """Red when a locked server cannot be used, or a key lands where it outlives the tab."""
    server = start_server(api_key="secret").wait_ready()
    page = tab.page
    page.goto(server.url)
    for key in ("wrong", "secret"):
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Use it").click()
    page.get_by_text("seats taken").wait_for()
    write(page)
    expect_count(page.locator(".text .token"), NUM_TOKENS)
    page.reload()
    page.get_by_text("seats taken").wait_for()
    assert page.evaluate("localStorage.length") == 0 and page.context.cookies() == []
    # The browser's own line about the wrong key.
    assert [error for error in tab.errors if "401" not in error] == []
    tab.errors.clear()


@slow
def test_all_of_it_can_be_done_by_keyboard(start_server: StartServer, tab: Tab) -> None:
    """Red when something can be reached by pointer alone."""
    page = tab.open(start_server(chatty()).wait_ready())
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")
    assert page.get_by_role("radio", name="Completion").is_checked()
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.name || document.activeElement.id"))
    assert reached[:1] == ["prompt"] and {"temperature", "seed", "speculation"} <= {*reached}
    page.locator("#prompt").focus()
    page.keyboard.press("Control+Enter")
    page.locator("#write:enabled").wait_for()
    page.locator(".text").focus()
    page.keyboard.press("ArrowLeft")
    expect_step(page, NUM_STEPS - 1)
    page.get_by_role("button", name="Play").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="End").wait_for()
    page.keyboard.press("Enter")
    expect_step(page, NUM_STEPS)


NAMELESS = """() => [...document.querySelectorAll(
    "button, input, select, textarea, summary, [tabindex], [role=img], section")]
    .filter((each) => each.checkVisibility())
    .filter((each) => !(each.ariaLabel || each.labels?.length || each.textContent.trim()))
    .map((each) => each.outerHTML)"""


@slow
def test_whatever_can_be_used_has_a_name_and_steps_are_told_in_words(
    start_server: StartServer, tab: Tab
) -> None:
    """Red when a screen reader would say 'button' and no more, or nothing of a step."""
    page = tab.open(start_server().wait_ready())
    write(page)
    assert page.evaluate(NAMELESS) == []
    told = page.locator("#scrub").get_attribute("aria-valuetext")
    assert told.startswith(f"Step {NUM_STEPS}: 8 nodes verified")
    assert page.locator("#status").text_content() and page.get_by_role("img").count() == 1


@slow
def test_what_a_model_writes_is_text(start_server: StartServer, tab: Tab) -> None:
    """Red when a model can put a tag into the page."""
    written = "<img src=x onerror=alert(1)><b>&amp;"
    page = tab.open(start_server(Behaviour(lambda request: blocks(written))).wait_ready())
    page.locator("#prompt").fill("<i>")
    page.locator("[name=max_tokens]").fill("200")
    write(page)
    assert page.locator(".text").text_content() == f"<i>{written}"
    expect_count(page.locator("#turns img, #turns i, #turns b"), 0)


@slow
def test_a_refusal_is_told_in_the_servers_words(start_server: StartServer, tab: Tab) -> None:
    page = tab.open(start_server().wait_ready())
    write(page, "hello " * 300)
    assert "window" in page.get_by_role("alert").text_content()
    # The browser's own line about the refusal.
    assert [error for error in tab.errors if "400" not in error] == []
    tab.errors.clear()
    write(page, "hello")
    assert page.get_by_role("alert").is_hidden()


@slow
@pytest.mark.parametrize("width", [360, 820, 1440])
def test_nothing_is_wider_than_the_window(start_server: StartServer, tab: Tab, width: int) -> None:
    """Red when a phone has to scroll sideways; a tree alone may, in a frame of its own."""
    page = tab.open(start_server(Behaviour(slowly)).wait_ready())
    page.set_viewport_size({"width": width, "height": 800})
    page.get_by_label("Compare with plain").check()
    write(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


CONTRASTS = """() => {
    const style = getComputedStyle(document.documentElement);
    const canvas = document.createElement("canvas").getContext("2d");
    const light = (name) => {
        canvas.fillStyle = style.getPropertyValue(name);
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((each) => each / 255)
            .map((each) => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const contrast = (one, other) => {
        const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
    };
    const marks = [1, 2, 3, 4, 5].map((mark) => `--mark-${mark}`);
    const grounds = ["--panel", "--ground"];
    const words = ["--ink", "--muted", "--accent", ...marks];
    return [...words.flatMap((word) => grounds.map((ground) => contrast(word, ground))),
        contrast("--accent", "--on-accent")];
}"""


@slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_colour_can_be_read_on_its_ground(
    start_server: StartServer, tab: Tab, scheme: str
) -> None:
    """Red when a colour is too faint: WCAG asks 4.5 to 1 of text."""
    page = tab.open(start_server().wait_ready())
    page.emulate_media(color_scheme=scheme)
    assert min(page.evaluate(CONTRASTS)) >= 4.5
