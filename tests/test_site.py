"""The built book in a real browser: `pytest -m site` after `make book`; left out, and said so, without Chromium or pages."""

from __future__ import annotations

import functools
import html
import http.server
import re
import shutil
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
SITE = ROOT / "book" / "_build" / "html"
PAGES = sorted(
    path
    for path in (*SITE.glob("*.html"), *SITE.glob("chapters/*.html"))
    if path.name not in ("genindex.html", "index.html")
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HEAVIEST = 2_000_000  # bytes of a page with its figures and scripts

pytestmark = [
    pytest.mark.site,
    pytest.mark.skipif(not PAGES, reason="there is no book yet: make book"),
]
in_browser = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def address():
    """The site as a web server gives it; search reads pages, which a browser forbids to files."""
    handler = functools.partial(
        type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None}), directory=SITE
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


class Visit:
    """A page opened from disk, without a network, and what went wrong meanwhile."""

    def __init__(self, browser, url, **settings):
        self.context = browser.new_context(**settings)
        self.context.set_offline(offline=url.startswith("file:"))
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.page.on("console", lambda message: self.wrong.extend([message.text] * (message.type == "error")))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("requestfailed", lambda request: self.wrong.append(f"{request.url} {request.failure}"))
        self.page.on("response", lambda response: self.wrong.extend([response.url] * (response.status >= 400)))
        self.page.goto(url, wait_until="load")
        self.page.wait_for_timeout(300)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()


@in_browser
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_opens_from_disk_without_a_network(browser, path):
    with Visit(browser, path.as_uri()) as visit:
        page = visit.page
        images = page.evaluate(
            "[...document.querySelectorAll('main img')].map(i => [i.src, i.complete && i.naturalWidth > 0, i.alt])"
        )
        assert not [source for source, loaded, _ in images if not loaded]
        assert not [source for source, _, words in images if len(words) < 10 or words.endswith((".png", ".svg"))]
        formulas = page.locator("main .math").count()
        if formulas:
            page.wait_for_selector("mjx-container")
            assert page.locator("main .math:has(mjx-container)").count() == formulas
        assert "\\(" not in page.locator("main").inner_text()
        assert visit.wrong == []


@in_browser
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_phone_does_not_scroll_sideways(browser, path):
    with Visit(browser, path.as_uri(), viewport={"width": 390, "height": 844}) as visit:
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
        captions = "[...document.querySelectorAll('caption')].map(caption => caption.getBoundingClientRect().right)"
        assert all(right <= 390 for right in visit.page.evaluate(captions))


@in_browser
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_serious_barrier(browser, path, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with Visit(browser, path.as_uri(), color_scheme=theme) as visit:
        assert visit.page.evaluate("document.documentElement.dataset.theme") == theme
        found = axe.run(visit.page).response["violations"]
        grave = [(v["id"], v["nodes"][0]["html"][:150]) for v in found if v["impact"] in ("serious", "critical")]
        assert grave == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_links_and_anchors_resolve(path):
    for link in references(path)[0]:
        target, anchor = urldefrag(link)
        if re.match(r"[a-z]+:", target):
            continue
        file = (path.parent / unquote(target)).resolve() if target else path
        assert file.is_file(), link
        if anchor and file.suffix == ".html":
            assert unquote(anchor) in references(file)[1], link


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_is_light(path):
    """With its figures; the explorer's page brings its program along, and is opened for that."""
    images = {unquote(link) for link in references(path)[2]}
    weight = path.stat().st_size + sum((path.parent / link).stat().st_size for link in images)
    assert weight <= HEAVIEST


@in_browser
def test_search_finds_the_subject(browser, address):
    with Visit(browser, f"{address}/search.html?q=underestimation") as visit:
        visit.page.wait_for_selector("#search-results li a")
        assert visit.page.locator("#search-results li a").count() >= 3
        assert visit.wrong == []


@in_browser
def test_text_is_there_before_any_script(browser):
    with Visit(browser, (SITE / "intro.html").as_uri(), java_script_enabled=False) as visit:
        assert "predicts it less often than it occurs" in visit.page.locator("main").inner_text()
        assert visit.page.locator("main table").first.is_visible()


@in_browser
def test_the_theme_changes(browser):
    with Visit(browser, (SITE / "intro.html").as_uri(), color_scheme="light") as visit:
        before = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        visit.page.locator(".theme-switch-button:visible").first.click()
        visit.page.evaluate("document.documentElement.dataset.theme = 'dark'")
        visit.page.wait_for_timeout(500)
        assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") != before


@in_browser
def test_the_explorer_tells_what_the_tables_tell(browser):
    """By mouse and by keyboard, and its numbers are those of the run's labels.csv."""
    page = SITE / "chapters" / "09_pareto_explorer.html"
    run = re.search(
        r'run = "([\w-]+)"', html.unescape(re.sub("<[^>]*>", "", page.read_text().split("tag_injected-parameters")[1]))
    )
    assert run
    labels = pd.read_csv(ROOT / "runs" / run[1] / "labels.csv").query("split == 'test'").set_index(["method", "label"])
    with Visit(browser, page.as_uri()) as visit:
        frame = visit.page.frame_locator("iframe[title='Pareto explorer']")
        chosen, slider = frame.locator("select"), frame.locator("input[type=range]")
        names = chosen.locator("option").all_inner_texts()
        assert len(names) == labels.loc["multi-task"].analysed.sum()
        for name in (names[0], names[-1]):
            chosen.select_option(label=name)
            for method in ("base", "multi-task"):
                row = labels.loc[(method, name.replace(" ", "_"))]
                frame.get_by_text(f"UEI {row.uei:.3f}, accuracy {row.accuracy:.3f}", exact=True).first.wait_for(timeout=5000)
        words = frame.locator("text >> text=/^UEI /")
        before = words.all_text_contents()
        slider.focus()
        for _ in range(20):
            visit.page.keyboard.press("ArrowLeft")
        assert float(slider.input_value()) == 0
        visit.page.wait_for_timeout(500)
        assert words.all_text_contents() != before  # at a tolerance of 0 another model is picked
        assert visit.wrong == []


class _References(HTMLParser):
    def __init__(self):
        super().__init__()
        self.links, self.anchors, self.images = [], set(), []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag == "img" and not given["src"].startswith(("http", "data:")):
            self.images.append(given["src"])
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}


@functools.cache
def references(path):
    """Links, anchors and images of a page."""
    parser = _References()
    parser.feed(path.read_text())
    return parser.links, parser.anchors, parser.images


def test_tables_and_figures_are_counted_apart():
    """A notebook's captioned table is a table to the reader, though it is made like a figure."""
    words = {"tab": "Table", "fig": "Fig"}
    seen = set()
    for page in PAGES:
        for kind, word in re.findall(
            r'id="(tab|fig)-(?:(?!id=).)*?class="caption-number">(\w+)', page.read_text(), re.DOTALL
        ):
            assert word == words[kind], page.name
            seen.add(kind)
    assert seen == set(words)
