# SPDX-License-Identifier: Apache-2.0
"""The browser that tests of pages drive: a pytest plugin."""

import os
import shutil

import pytest
from playwright.sync_api import Page, Response, sync_playwright


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SCREENSHOTS = os.environ.get("LANGBRIDGE_SCREENSHOTS")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: .ci/run installs it")


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, request):
    """
    Opens a page by its address. Until the test ends no error, dialog or violated policy may be seen, and no request
    but to the places that are allowed, as their addresses begin.
    """
    wrong, pages = [], []

    def open_page(address: str, *allowed: str, **options) -> Page:
        page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}, **options})
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("request", lambda asked: asked.url.startswith(allowed) or wrong.append(asked.url))
        page.on("response", check_answer)
        page.goto(address)
        pages.append(page)
        return page

    def check_answer(answer: Response) -> None:
        if answer.url.startswith("http") and not answer.ok:  # a file's has no status
            wrong.append(f"{answer.status} {answer.url}")

    yield open_page
    for number, page in enumerate(pages):
        if SCREENSHOTS:
            page.screenshot(path=f"{SCREENSHOTS}/{request.node.name}-{number}.png", full_page=True)
        page.close()
    assert not wrong
