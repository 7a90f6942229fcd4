"""The page of a running server in a headless Chromium: its weight, its first paint, pictures of it.

    python -m benchmarks.page --url http://127.0.0.1:8000 --out pictures

Needs playwright and a Chromium; `tests/server/test_browser.py` tests the page with the same.
"""

import argparse
import shutil
import statistics
from itertools import product
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, sync_playwright

# The first is of a text that nobody has written before: look-up remembers those that were.
WIDTHS = {"desktop": (1440, 900), "tablet": (820, 1180), "phone": (390, 844)}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


def main() -> None:
    """Print the figures and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prompt", default="")
    parser.add_argument("--speculation", default="auto")
    parser.add_argument("--compare", action="store_true", help="with plain decoding")
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        measure(browser, asked.url, asked.rounds)
        for (name, size), scheme in product(WIDTHS.items(), SCHEMES):
            picture(browser, asked, name, size, scheme)
        browser.close()


def measure(browser: Browser, url: str, rounds: int) -> None:
    """Bytes that a first visit fetches, and milliseconds to its first contentful paint."""
    paints = []
    for _ in range(rounds):
        page = browser.new_page()
        page.goto(url)
        page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length")
        paints.append(
            page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        )
        sizes = page.evaluate(
            "[...performance.getEntriesByType('navigation'),"
            " ...performance.getEntriesByType('resource')]"
            ".filter((each) => /\\/(page\\/[^/]*)?$/.test(each.name))"
            ".map((each) => each.encodedBodySize)"
        )
        page.close()
    low, middle, high = statistics.quantiles(paints)
    print(f"weight: {sum(sizes)} bytes in {len(sizes)} files")
    print(f"first contentful paint: {middle:.0f} ms ({low:.0f} to {high:.0f}), {rounds} visits")


def picture(
    browser: Browser,
    asked: argparse.Namespace,
    name: str,
    size: tuple[int, int],
    scheme: Literal["light", "dark"],
) -> None:
    """A text, and a step in the second half of it."""
    width, height = size
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, device_scale_factor=1
    )
    page = context.new_page()
    page.goto(asked.url)
    page.get_by_text("seats taken").wait_for()
    if asked.prompt:
        page.locator("#prompt").fill(asked.prompt)
    page.get_by_label("Compare").set_checked(asked.compare)
    page.get_by_label("Speculation").select_option(asked.speculation)
    page.locator("#write").click()
    page.locator("#write:enabled").wait_for(timeout=120_000)
    look_at_the_best_step(page)
    page.screenshot(path=asked.out / f"{name}-{scheme}.png", full_page=name != "desktop")
    context.close()


def look_at_the_best_step(page: Page) -> None:
    """Of those in the second half of the text, that which wrote most."""
    page.evaluate(
        """() => {
            const sizes = [...document.querySelector(".text").querySelectorAll(".step")]
                .map((step) => step.children.length);
            const half = sizes.length >> 1;
            const best = half + sizes.slice(half).indexOf(Math.max(...sizes.slice(half)));
            const slider = document.getElementById("scrub");
            slider.value = best;
            slider.dispatchEvent(new Event("input"));
        }"""
    )
    page.locator("#seats-summary", has_text="0 of").wait_for()


if __name__ == "__main__":
    main()
