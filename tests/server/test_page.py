"""`GET /`: a page where a browser asks, what it was to programs, and nothing from elsewhere."""

import re
from pathlib import Path

import pytest

import server
from tests.server.conftest import LiveServer, StartServer

PAGE = Path(server.__file__).parent / "page"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
# A name, and no address that anything is fetched from.
NAMESPACE = "http://www.w3.org/2000/svg"


def test_a_browser_gets_the_page_and_a_program_the_signpost(live: LiveServer) -> None:
    """Red when curl or a probe is sent HTML, or a cache may give one for the other."""
    page = live.get("/", accept=BROWSER)
    assert page.status == 200 and page.headers["content-type"].startswith("text/html")
    for accept in ({}, {"accept": "*/*"}, {"accept": "application/json"}):
        signpost = live.get("/", **accept)
        assert signpost.json()["completions"] == "/v1/completions"
        assert signpost.headers["vary"] == page.headers["vary"] == "Accept"
    assert live.request("HEAD", "/").headers["content-type"] == "application/json"


def test_the_page_may_run_and_ask_nothing_that_is_not_the_servers(live: LiveServer) -> None:
    """Red when what a model writes could run, or the page could talk to anybody else."""
    policy = live.get("/", accept=BROWSER).headers["content-security-policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules.pop("default-src") == "'none'"
    assert {*rules.values()} <= {"'self'", "'none'"}


def test_its_files_are_served_without_a_key_and_its_data_is_not(start_server: StartServer) -> None:
    """Red when a page that would ask for the key cannot be loaded, or needs none."""
    locked = start_server(api_key="secret").wait_ready()
    assert locked.get("/").json()["needs_key"] is True
    for file in PAGE.iterdir():
        reply = locked.get(f"/page/{file.name}")
        assert (reply.status, reply.body) == (200, file.read_bytes())
        assert reply.headers["x-content-type-options"] == "nosniff"
        again = locked.get(f"/page/{file.name}", if_none_match=reply.headers["etag"])
        assert again.status == 304
    assert "javascript" in locked.get("/page/main.js").headers["content-type"]
    for path in ("/page/../v1/models", "/page/%2e%2e/routes/front.py", "/page/", "/page/no.js"):
        refused = locked.get(path)
        assert refused.status in (401, 404) and "error" in refused.json()
    assert locked.get("/slots").status == 401


def test_who_needs_no_key_is_told_so(live: LiveServer) -> None:
    assert live.get("/").json()["needs_key"] is False


@pytest.mark.parametrize("file", [file.name for file in PAGE.iterdir()])
def test_a_file_names_nothing_from_elsewhere_and_only_what_is_there(file: str) -> None:
    """Red when a page needs the internet, or a module that was renamed."""
    source = (PAGE / file).read_text(encoding="utf-8")
    assert {*re.findall(r"(?:https?:)?//[\w.-]+\.\w+[\w./]*", source)} <= {NAMESPACE}
    imported = re.findall(r'from "\./([\w.]+)"', source)
    linked = re.findall(r'"page/([\w.]+)"', source)
    assert all((PAGE / name).is_file() for name in (*imported, *linked))


def test_all_of_it_is_light() -> None:
    """Red when it grows by half: it is sent as it is, to phones too."""
    assert sum(file.stat().st_size for file in PAGE.iterdir()) < 80_000


def test_a_program_is_told_whether_there_are_chats(start_server: StartServer) -> None:
    server = start_server(chat_template=str(PAGE / "icon.svg")).wait_ready()
    assert server.get("/props").json()["chat_template"].startswith("<svg")
