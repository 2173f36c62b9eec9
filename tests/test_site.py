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
EXPLORER = SITE / "chapters" / "09_pareto_explorer.html"
FRAME = "iframe[title='Pareto explorer']"
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
        begins = """[...document.querySelectorAll("mjx-container[display]")].map(equation =>
            Math.min(...[equation, ...equation.querySelectorAll("*")].map(part => part.getBoundingClientRect().left)))"""
        assert all(left >= 0 for left in visit.page.evaluate(begins))  # what lies left of the page cannot be scrolled to


@in_browser
@pytest.mark.parametrize("width", [390, 1300])
def test_there_is_one_search(browser, width):
    with Visit(browser, (SITE / "intro.html").as_uri(), viewport={"width": width, "height": 844}) as visit:
        within = f"""[...document.querySelectorAll(".search-button__button")].filter(button => button.checkVisibility()
            && button.getBoundingClientRect().right > 0 && button.getBoundingClientRect().left < {width}).length"""
        assert visit.page.evaluate(within) == 1
        assert visit.page.locator("a.btn-source-repository-button").count() == 1  # the other buttons stay


@in_browser
def test_only_the_papers_equations_have_plain_numbers(browser):
    seen: dict[str, list[str]] = {}
    for path in (page for page in PAGES if '<div class="math' in page.read_text()):
        with Visit(browser, path.as_uri()) as visit:
            visit.page.wait_for_selector("mjx-container")
            texts = visit.page.locator("main span.eqno").all_inner_texts()
            texts += visit.page.locator("main mlabeledtr > mtd:first-child").all_text_contents()
            seen[path.stem] = [re.sub(r"[()\s\N{PILCROW SIGN}#]", "", text) for text in texts]
    every = [number for numbers in seen.values() for number in numbers]
    assert len(set(every)) == len(every)
    assert sorted(number for number in every if number.isdigit()) == ["1", "2", "5", "6", "7", "8"]
    assert {page for page, numbers in seen.items() if any(map(str.isdigit, numbers))} == {
        "01_exposing_bias", "03_dynamic_weighting",
    }  # fmt: skip
    assert len(every) >= 13  # with this book's own


@in_browser
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_numbers_of_a_table_are_legible_and_to_the_right(browser, path):
    """A column whose cells all begin like numbers, as the eye sees it, and every other column."""
    look = """[...document.querySelectorAll("main table")].map(table => [...table.rows].map(row => [...row.cells].map(cell =>
        [cell.innerText.trim(), getComputedStyle(cell).textAlign, getComputedStyle(cell).fontWeight, cell.tagName])))"""
    with Visit(browser, path.as_uri()) as visit:
        for rows in visit.page.evaluate(look):
            assert {weight for row in rows for _, _, weight, tag in row if tag == "TD"} == {"400"}
            for _, *column in zip(*rows, strict=True):
                numbers = all(re.match(r"[-–+]?\d|–$", text) and not re.search("[a-z]{3}", text) for text, *_ in column)
                assert {side for _, side, *_ in column} <= ({"right"} if numbers else {"left", "start"}), column


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
    page = EXPLORER
    run = re.search(
        r'run = "([\w-]+)"', html.unescape(re.sub("<[^>]*>", "", page.read_text().split("tag_injected-parameters")[1]))
    )
    assert run
    labels = pd.read_csv(ROOT / "runs" / run[1] / "labels.csv").query("split == 'test'").set_index(["method", "label"])
    with Visit(browser, page.as_uri()) as visit:
        frame = visit.page.frame_locator(FRAME)
        chosen = frame.locator("select")
        slider, recall = (frame.locator(f"input[name={name}]") for name in ("tolerance", "min_recall"))
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
        recall.focus()
        visit.page.keyboard.press("End")
        frame.get_by_text("no model meets this", exact=False).first.wait_for(timeout=5000)
        base = labels.loc[("base", names[-1].replace(" ", "_"))]
        assert words.all_text_contents().count(f"UEI {base.uei:.3f}, accuracy {base.accuracy:.3f}") == 2  # the pick's, too
        assert visit.wrong == []


@in_browser
def test_rows_of_the_explorer_answer_to_mouse_and_keys(browser):
    with Visit(browser, EXPLORER.as_uri()) as visit:
        frame = visit.page.frame_locator(FRAME)
        names = frame.locator("select option").all_inner_texts()
        frame.locator("text").get_by_text(names[3], exact=True).click()
        assert frame.locator("select").input_value() == names[3]
        rows = frame.get_by_role("group", name="Every label", exact=False)
        rows.focus()
        for key, place in {"ArrowDown": 4, "ArrowUp": 3, "End": -1, "Home": 0}.items():
            visit.page.keyboard.press(key)
            visit.page.wait_for_timeout(200)
            assert frame.locator("select").input_value() == names[place]
            assert rows.evaluate("rows => rows === document.activeElement")
        assert frame.locator("html").get_attribute("lang") == "en"
        assert len(frame.locator("[role=graphics-document]").get_attribute("aria-label")) > 30
        assert visit.wrong == []


@in_browser
@pytest.mark.parametrize(("theme", "other"), [("light", "dark"), ("dark", "light")])
def test_the_explorer_follows_the_theme(browser, theme, other, tmp_path):
    """The page's, switch included, or the system's where it is opened alone; what is written stays legible."""
    colours = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('text')).fill]"
    with Visit(browser, EXPLORER.as_uri(), color_scheme=theme) as visit:
        frame = visit.page.locator(FRAME).element_handle().content_frame()
        frame.wait_for_selector("text")
        before = frame.evaluate(colours)
        assert before[0] == visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        visit.page.evaluate(f"document.documentElement.dataset.theme = '{other}'")
        visit.page.wait_for_timeout(500)
        after = frame.evaluate(colours)
        assert before[0] != after[0]
        assert after[0] == visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        around = visit.page.locator(f".text_html:has({FRAME})")
        assert around.evaluate("around => getComputedStyle(around).backgroundColor") == "rgba(0, 0, 0, 0)"
        assert contrast(*before) >= 7
        assert contrast(*after) >= 7
        (tmp_path / "alone.html").write_text(visit.page.locator(FRAME).get_attribute("srcdoc"))
    with Visit(browser, (tmp_path / "alone.html").as_uri(), color_scheme=theme) as visit:
        assert visit.page.evaluate(colours) == before


@in_browser
def test_on_paper_captions_stay_and_the_explorer_fits(browser):
    paper = {"width": 703, "height": 1009}  # A4 within margins of 12 and 15 mm
    with Visit(browser, EXPLORER.as_uri(), viewport=paper) as visit:
        visit.page.emulate_media(media="print")
        figure = visit.page.locator(f"figure:has({FRAME})").bounding_box()
        assert figure["height"] < 900
        frame = visit.page.locator(FRAME).element_handle().content_frame()
        frame.wait_for_selector("text")
        page = "document.documentElement"
        assert frame.evaluate(f"{page}.scrollHeight <= innerHeight && {page}.scrollWidth <= innerWidth")  # nothing is cut
    with Visit(browser, (SITE / "chapters" / "05_would_a_threshold_do.html").as_uri(), viewport=paper) as visit:
        visit.page.emulate_media(media="print")
        parted = """[...document.querySelectorAll("main figcaption")].filter(caption => caption.querySelector("table"))
            .map(caption => [getComputedStyle(caption), getComputedStyle(caption.querySelector("p"))])
            .map(([whole, words]) => [whole.breakInside, words.breakAfter])"""
        styles = visit.page.evaluate(parted)
        assert styles
        assert all(style == ["avoid", "avoid"] for style in styles)


def contrast(one, other):
    """Of two colours such as rgb(0, 10, 255), as WCAG reckons it."""

    def luminance(colour):
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


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
