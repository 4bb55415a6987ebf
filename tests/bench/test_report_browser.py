"""The page in a real browser: opens from disk in silence, sorts, fits a phone, prints.

Needs playwright and a Chromium (of playwright's own, on PATH, or named by ADAPTER_CHROMIUM). Screenshots are kept in
ADAPTER_SCREENSHOTS, by default beside the test's temporary files.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import suite_files
from adapter_bench.reports import data, page
from adapter_bench.reports.numbers import ABSENT

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no browser to look with")

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    named = os.environ.get("ADAPTER_CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUMS)), None)
    with playwright.sync_playwright() as driver:
        try:
            found = driver.chromium.launch(executable_path=named, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium to look with: {str(error).splitlines()[0]}")
        yield found
        found.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    path = folder / "report.html"
    (folder / "results").mkdir()
    path.write_text(page.page(data.read(suite_files.write(folder / "results")), "ViT-Adapter measured"))
    return path


@pytest.fixture(scope="module")
def screenshots(file: Path) -> Path:
    folder = Path(os.environ.get("ADAPTER_SCREENSHOTS") or file.parent / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def opened(browser: Any, file: Path, width: int = 1280, scheme: str = "light") -> tuple[Any, list[str]]:
    """The page, and what the console and failed requests said."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab, said = context.new_page(), []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: said.append(request.url) if request.url != file.as_uri() else None)
    tab.goto(file.as_uri())
    return tab, [one for one in said if not one.startswith("data:")]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_it_opens_in_silence_shows_its_charts_and_never_scrolls_sideways(
    browser: Any, file: Path, screenshots: Path, width: int, scheme: str
) -> None:
    tab, said = opened(browser, file, width, scheme)
    assert said == []
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert tab.locator("figure").count() == 16
    kind = "wide" if width > 640 else "narrow"
    boxes = "map(one => one.getBoundingClientRect()).map(box => [box.width, box.height])"
    seen = tab.evaluate(f"[...document.querySelectorAll('svg.{kind}')].{boxes}")
    assert len(seen) == 16
    assert all(w > 250 and h > 60 for w, h in seen)
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 23, 27)" if scheme == "dark" else "rgb(247, 247, 244)")
    tab.screenshot(path=screenshots / f"report-{width}-{scheme}.png", full_page=True)
    assert (screenshots / f"report-{width}-{scheme}.png").stat().st_size > 50_000


def test_a_heading_sorts_by_figures_with_missing_ones_last(browser: Any, file: Path) -> None:
    tab, said = opened(browser, file)
    table = tab.locator("table").first
    head = table.locator("thead th").nth(4)  # images per second

    def column() -> list[str]:
        return [cell.strip().split("\n")[0] for cell in table.locator("tbody tr td:nth-child(5)").all_inner_texts()]

    head.locator("button").click()
    falling = column()
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(one) for one in falling[:7]] == sorted((float(one) for one in falling[:7]), reverse=True)
    assert falling[7:] == [ABSENT, ABSENT]
    head.locator("button").click()
    rising = column()
    assert [float(one) for one in rising[:7]] == sorted(float(one) for one in rising[:7])
    assert rising[7:] == [ABSENT, ABSENT]
    table.locator("thead th").first.locator("button").click()
    names = table.locator("tbody th").all_inner_texts()
    assert names[0].startswith("Swin-B")
    assert head.get_attribute("aria-sort") is None
    assert said == []


def test_colours_can_be_chosen_and_marks_tell_what_they_are(browser: Any, file: Path) -> None:
    tab, said = opened(browser, file)
    for scheme, ground in (
        ("light", "rgb(247, 247, 244)"),
        ("dark", "rgb(20, 23, 27)"),
        ("auto", "rgb(247, 247, 244)"),
    ):
        tab.locator("#theme").click()
        assert tab.locator("#theme span").inner_text() == scheme
        assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == ground
    tab.locator("svg.wide .tip").first.hover()
    assert tab.locator("#tip").inner_text().startswith("ViT-B SETR-PUP: images per second")
    assert said == []


def test_it_prints_with_its_circumstances(browser: Any, file: Path, screenshots: Path) -> None:
    tab, _ = opened(browser, file, scheme="dark")
    tab.pdf(path=screenshots / "report.pdf", format="A4")
    assert (screenshots / "report.pdf").read_bytes().startswith(b"%PDF")
    tab.emulate_media(media="print")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not tab.locator("nav").is_visible()
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.locator("details:not([open])").count() == 0


def test_hostile_names_run_nothing(browser: Any, tmp_path: Path) -> None:
    name = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    columns = [suite_files.column("fps", name, "1/s")]
    content = suite_files.suite(
        name, name, columns, [suite_files.row(name, name, fps=1.0), suite_files.row("b", fps=2.0)]
    )
    path = tmp_path / "hostile.html"
    path.write_text(page.page([data.READERS["suite"](content, name)], name))
    tab, said = opened(browser, path)
    tab.locator("svg.wide .tip").first.hover()
    tab.wait_for_timeout(50)
    assert tab.title() == name
    assert tab.locator("img").count() == 0
    assert said == []
