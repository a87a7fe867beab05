"""The report in a real browser: Chromium, headless, driven by its own driver; nothing is downloaded."""

import json
import shutil
from dataclasses import replace

import pytest
from report_study import ATTACKS, make_study, paint

from postdiff_calib.cost.budget import parse_budget
from postdiff_calib.report.html.page import ReportJob, write_report
from postdiff_calib.study.record import Study

pytestmark = [
    pytest.mark.slow,
    # Selenium leaves its connection to the driver to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    study = make_study(folder / "study", seconds=True)
    categories = tuple(("<u>odd</u>", "even")[i % 2] for i in range(60))
    study = replace(study, record=replace(study.record, held_out_categories=categories))
    study.save()
    paint(study)
    return write_report(ReportJob(study.folder, folder / "report.html"))


@pytest.fixture(scope="module")
def chromium():
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not driver:
        pytest.fail("the report is tested in Chromium: apt-get install -y chromium chromium-driver", pytrace=False)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield running
    running.quit()


@pytest.fixture
def view(chromium, page):
    """Opens the page in a window of a width, light or dark; returns the driver."""

    def show(width=1200, height=900, dark=False, motion="no-preference", medium=""):
        chromium.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": motion},
        ]
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": medium, "features": features})
        for kind in ("browser", "performance"):
            chromium.get_log(kind)
        chromium.get(page.as_uri())
        return chromium

    return show


def requests(driver):
    """What the page asked for since it was opened."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def luminance(driver, script):
    """Relative luminance of a computed colour."""
    red, green, blue = driver.execute_script(f"return ({script}).match(/[\\d.]+/g).slice(0, 3).map(Number)")
    parts = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(driver, selector):
    """Of an element's text to the nearest painted background behind it."""
    driver.execute_script(
        "let e = document.querySelector(arguments[0]); window.seen = {text: getComputedStyle(e).color};"
        "while (e && /rgba\\(0, 0, 0, 0\\)/.test(getComputedStyle(e).backgroundColor)) e = e.parentElement;"
        "window.seen.back = getComputedStyle(e).backgroundColor;",
        selector,
    )
    pair = sorted((luminance(driver, "seen.text"), luminance(driver, "seen.back")))
    return (pair[1] + 0.05) / (pair[0] + 0.05)


VISIBLE = (
    "return [...document.querySelectorAll(arguments[0])].map(e => e.getBoundingClientRect())"
    ".filter(r => r.width > 0 && r.height > 0).length"
)


@pytest.mark.parametrize("width", [1200, 360])
def test_it_loads_alone_and_draws_everything(view, page, width):
    driver = view(width)
    assert driver.get_log("browser") == []
    assert [url for url in requests(driver) if not url.startswith("data:")] == [page.as_uri()]
    for selector, least in (("#frontier .dot", 18), ("#frontier polyline", 3), ("#frontier .star", 1)):
        assert driver.execute_script(VISIBLE, selector) >= least, selector
    assert driver.execute_script(VISIBLE, "#frontier svg") == 1
    assert driver.execute_script(VISIBLE, "#histogram .bar") > 3
    assert driver.execute_script(VISIBLE, ".strip .lane b") > 100
    images = driver.execute_script(
        "return [...document.images].map(i => [i.complete, i.naturalWidth, i.getBoundingClientRect().width])"
    )
    places = driver.execute_script("return document.querySelectorAll('.choice').length")
    assert places > 4
    assert len(images) == 27 + 6 * places
    assert all(complete and natural == 64 for complete, natural, _ in images)
    # nine examples of three, and the images of one place of the slider
    assert sum(shown > 40 for _, _, shown in images) == 27 + 6


def test_hostile_prompts_are_text(view):
    driver = view()
    assert driver.execute_script("return window.hacked === undefined")
    assert driver.execute_script("return document.querySelectorAll('script').length") == 1
    shown = driver.execute_script("return [...document.querySelectorAll('.prompt')].map(p => p.textContent)")
    for attack in ATTACKS:
        assert any(text.startswith(attack) for text in shown)
    # Even a script that got in would not run: the page's policy knows its own script only.
    driver.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.hacked = 3'; document.body.append(s)"
    )
    assert driver.execute_script("return window.hacked === undefined")


def test_tooltips_on_hover_tap_and_keyboard(view):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    driver = view()
    tip = driver.find_element("id", "tip")
    assert not tip.is_displayed()
    dot = driver.find_element("css selector", "#frontier .wide .dot:not(.below)")
    ActionChains(driver).scroll_to_element(dot).move_to_element(dot).perform()
    # Another dot may lie on top of this one; a tooltip of a plan it is in any case.
    assert "T=" in tip.text
    assert "prompts" in tip.text
    assert "[" in tip.text
    ActionChains(driver).move_to_element(driver.find_element("id", "h-question")).perform()
    assert not tip.is_displayed()

    winner = driver.find_element("css selector", "#frontier .wide .winner")
    driver.execute_script("arguments[0].focus()", winner)
    assert tip.is_displayed()
    assert tip.text.startswith("winner")
    first = tip.text
    driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert tip.is_displayed()
    assert tip.text != first
    box, screen = tip.rect, driver.execute_script("return innerWidth")
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= screen
    driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not tip.is_displayed()

    driver = view(360, 740)
    star = driver.find_element("css selector", "#frontier .narrow .star")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", star)
    star.click()
    assert driver.find_element("id", "tip").text.startswith("winner")


def test_arms_are_switched_off_and_on(view):
    driver = view()
    every = driver.execute_script(VISIBLE, "#frontier .dot")
    button = driver.find_element("css selector", "[data-arm=cheaper_steps]")
    driver.execute_script("arguments[0].click()", button)
    assert button.get_attribute("aria-pressed") == "false"
    assert driver.execute_script(VISIBLE, "#frontier .dot.arm-cheaper_steps") == 0
    assert 0 < driver.execute_script(VISIBLE, "#frontier .dot") < every
    driver.execute_script("arguments[0].click()", button)
    assert driver.execute_script(VISIBLE, "#frontier .dot") == every


def test_tables_sort_by_a_click(view):
    driver = view()
    rows = "[...document.querySelectorAll('#h-plans ~ * .sortable tbody tr')]"
    column = f"return {rows}.map(r => r.cells[2].dataset.v).map(Number)"
    head = driver.find_element("css selector", "#h-plans ~ * .sortable thead th:nth-child(3) button")
    for order, name in ((False, "ascending"), (True, "descending")):
        driver.execute_script("arguments[0].click()", head)
        values = driver.execute_script(column)
        assert values == sorted(values, reverse=order)
        sorted_by = driver.find_elements("css selector", "#h-plans ~ * .sortable th[aria-sort]")
        assert [th.get_attribute("aria-sort") for th in sorted_by] == [name]


def test_the_slider_shows_one_budget_at_a_time(view):
    from selenium.webdriver.common.keys import Keys

    driver = view()
    visible = (
        "return [...document.querySelectorAll('.choice')].filter(c => c.checkVisibility()).map(c => c.dataset.label)"
    )
    label = "return document.getElementById('budget-label').value"
    slider = driver.find_element("id", "budget-slider")
    labels = driver.execute_script("return [...document.querySelectorAll('.choice')].map(c => c.dataset.label)")
    # it begins at the plan of the report
    (first,) = driver.execute_script(visible)
    assert driver.execute_script(label) == first
    assert "the plan of this report" in driver.find_element("css selector", ".choice:not([hidden])").text
    slider.send_keys(Keys.HOME)
    for place in labels:
        assert driver.execute_script(visible) == [place] == [driver.execute_script(label)]
        assert slider.get_attribute("aria-valuetext") == place
        slider.send_keys(Keys.ARROW_RIGHT)
    assert driver.execute_script(visible) == labels[-1:]


def test_a_profile_is_copied_as_it_is_exported(view, page):
    driver = view()
    driver.execute_script(
        "window.copied = null;"
        "Object.defineProperty(navigator, 'clipboard', {value: {writeText: async (text) => { window.copied = text; }}})"
    )
    study = Study.load(page.parent / "study")
    for place in driver.find_elements("css selector", ".choice"):
        driver.execute_script("arguments[0].querySelector('details').open = true", place)
        driver.execute_script("arguments[0].querySelector('.copy').click()", place)
        text = driver.execute_script("return window.copied")
        budget = place.get_attribute("data-label").split(":")[0]
        assert text == study.conclude(parse_budget(budget)).to_yaml()
        assert driver.execute_script("return arguments[0].querySelector('.copied').textContent", place) == "copied"
    # without a clipboard the text is marked, so that the keyboard copies it
    driver.execute_script("navigator.clipboard.writeText = async () => { throw new Error('no') }")
    place = driver.find_element("css selector", ".choice:not([hidden])")
    driver.execute_script("arguments[0].querySelector('.copy').click()", place)
    assert driver.execute_script("return getSelection().toString()").startswith("# A profile of postdiff")


def test_prompts_are_filtered_by_difference_and_category(view):
    from selenium.webdriver.support.select import Select

    driver = view()
    rows = (
        "return [...document.querySelectorAll('#every-prompt tbody tr')].filter(r => r.checkVisibility())"
        ".map(r => [r.dataset.difference, r.dataset.category])"
    )
    every = driver.execute_script(rows)
    assert len(every) == 60
    assert {category for _, category in every} == {"<u>odd</u>", "even"}
    Select(driver.find_element("id", "by-difference")).select_by_value("lost")
    lost = driver.execute_script(rows)
    assert lost == [row for row in every if row[0] == "lost"]
    Select(driver.find_element("id", "by-category")).select_by_visible_text("<u>odd</u>")
    found = driver.execute_script(rows)
    assert found == [row for row in lost if row[1] == "<u>odd</u>"]
    assert 0 < len(found) < len(lost) < 60
    shown = driver.execute_script("return document.getElementById('prompts-shown').value")
    assert shown == f"{len(found)} of 60 prompts"


@pytest.mark.parametrize("width", [360, 390, 620, 800, 1200])
def test_nothing_is_wider_than_the_screen(view, width):
    driver = view(width)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    outside = driver.execute_script(
        "return [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, .skip, #tip'))"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert outside == []
    # What does not scroll is not cut either: no text is longer than its own box.
    cut = driver.execute_script(
        "return [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, .skip, #tip, .yaml, svg'))"
        ".filter(e => e.checkVisibility() && e.clientWidth && e.scrollWidth > e.clientWidth + 1)"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert cut == []
    # Text in plots keeps a readable size.
    sizes = driver.execute_script(
        "return [...document.querySelectorAll('.plot text')].map(t => t.getBoundingClientRect().height).filter(h => h)"
    )
    assert min(sizes) > 9


def test_dark_and_light_are_readable(view):
    light = view()
    assert luminance(light, "getComputedStyle(document.body).backgroundColor") > 0.8
    texts = ("h1", ".small", ".eyebrow", ".lead span", ".key", "figcaption", "td", "thead th", ".caution, .answer")
    assert {s: c for s in texts if (c := contrast(light, s)) < 4.5} == {}
    dark = view(dark=True)
    assert luminance(dark, "getComputedStyle(document.body).backgroundColor") < 0.05
    assert {s: c for s in texts if (c := contrast(dark, s)) < 4.5} == {}


def test_reduced_motion_moves_nothing(view):
    duration = "return getComputedStyle(document.querySelector('.dot .whisker')).transitionDuration"
    assert view(motion="reduce").execute_script(duration) == "0s"
    assert view().execute_script(duration) != "0s"


def test_it_prints_light_and_complete(view):
    driver = view(dark=True, medium="print")
    assert luminance(driver, "getComputedStyle(document.body).backgroundColor") > 0.9
    assert driver.execute_script(VISIBLE, ".plot.wide") == 2
    assert driver.execute_script(VISIBLE, ".plot.narrow") == 0
    driver.execute_script("document.querySelectorAll('details').forEach(d => { d.open = false })")
    driver.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert driver.execute_script("return document.querySelectorAll('details:not([open])').length") == 0
    driver.execute_script("dispatchEvent(new Event('afterprint'))")
    assert driver.execute_script("return document.querySelectorAll('details[open]').length") == 0
