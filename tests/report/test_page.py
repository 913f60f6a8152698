"""The page in a real browser: nothing asked of a network, tables sort, pictures show, in any light and width."""

import json
import re

import pytest
from mocoop.commands.main import main
from mocoop.report.content import gather
from mocoop.report.measured import Measured
from mocoop.report.page import render

HOSTILE = [
    '<script>alert("x")</script>',
    "\"onmouseover='alert(1)' x=\"",
    "\u202eחתול\u202c",
    "🦜 & <b>parrot</b>",
    "{{ 7 * 7 }}",
]


@pytest.fixture(scope="module")
def report(fitted_run, photos):
    """The path of a report with images."""
    path = fitted_run("MoCoOp") / "report.html"
    assert main(["report", str(fitted_run("MoCoOp")), "--images", str(photos)]) == 0
    return path


@pytest.fixture(scope="module")
def large(fitted, fitted_run, tmp_path_factory):
    """A report with 1,000 classes, the first of hostile names, one without images."""
    classes = [*HOSTILE, *(f"class number {i} of a long list of names" for i in range(5, 1000))]
    confusion = [[0] * 1000 for _ in classes]
    for c in range(999):
        confusion[c][c], confusion[c][(7 * c + 1) % 1000] = c % 50, 1 + c % 3
    figures = {
        "images": 30000,
        "accuracy": 0.9,
        "nll": 0.3,
        "brier": 0.1,
        "ece": 0.02,
        "answered": 1.0,
        "precision": 0.9,
    }
    content = gather(fitted("CoOp"), fitted_run("CoOp"))
    measured = Measured("made up", classes, figures, confusion, None, seen=True)
    changed = {"measured": measured, "rows": measured.rows(), "pairs": measured.confused(40), "interval": (0.8, 0.95)}
    path = tmp_path_factory.mktemp("large") / "report.html"
    path.write_text(render(type(content)(**{**vars(content), **changed, "title": HOSTILE[0]})), encoding="utf-8")
    return path, measured


def column(page, table, index):
    return page.eval_on_selector_all(
        f"{table} tbody tr", f"rows => rows.map(row => row.cells[{index}].textContent.trim())"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_opens_without_a_fault(report, opened, width, scheme):
    with opened(report, width, scheme) as found:
        page = found.page
        sizes = page.eval_on_selector_all("img", "all => all.map(one => [one.complete, one.naturalWidth])")
        assert sizes and all(complete and natural == 160 for complete, natural in sizes)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (min(map(int, re.findall(r"\d+", ground))) > 200) == (scheme == "light")
        assert found.faults == []


def test_a_table_sorts_by_click_and_by_keyboard(report, opened, fitted, photos):
    expected = {row.label: row for row in gather(fitted("MoCoOp"), report.parent, photos).rows}
    with opened(report) as found:
        page = found.page
        assert column(page, "#per-class", 0) == list(expected)  # as they are, before anything is sorted
        head = page.locator("#per-class thead th").nth(2)
        head.locator("button").click()
        recalls = [expected[name].accuracy for name in column(page, "#per-class", 0)]
        assert head.get_attribute("aria-sort") == "descending" and recalls == sorted(recalls, reverse=True)
        name = page.locator("#per-class thead th").nth(0)
        name.locator("button").focus()
        page.keyboard.press("Enter")
        assert name.get_attribute("aria-sort") == "ascending" and head.get_attribute("aria-sort") is None
        page.keyboard.press("Space")
        assert column(page, "#per-class", 0) == sorted(expected, reverse=True)
        assert found.faults == []


def test_it_shows_what_was_measured(report, opened, fitted, photos):
    measured = gather(fitted("MoCoOp"), report.parent, photos).measured
    with opened(report) as found:
        page = found.page
        assert f"{100 * measured.figures['accuracy']:.1f}%" in page.text_content(".figures")
        cells = page.eval_on_selector_all("#confusion .heat td", "all => all.map(one => Number(one.textContent))")
        assert cells == sum(measured.confusion, [])
        assert page.locator("#mistakes img").count() == len(measured.mistakes)
        assert page.locator("#experts article").count() == len(measured.routing.experts)
        assert page.locator("#calibration rect").count() == len(measured.reliability)
        assert page.locator("#training path.curve").count() >= 2


def test_text_has_enough_contrast(report, opened):
    """WCAG AA: 4.5 to 1, of the colours that text is written in, on both grounds."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for scheme in ("light", "dark"):
        with opened(report, scheme=scheme) as found:
            ask = "name => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim()"
            value = {n: found.page.evaluate(ask, n) for n in ("ground", "card", "ink", "soft", "accent", "warn")}
        for text in ("ink", "soft", "accent", "warn"):
            for ground in ("ground", "card"):
                dark, light = sorted((luminance(value[text]), luminance(value[ground])))
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (scheme, text, ground)


def test_it_prints(report, opened):
    with opened(report, scheme="dark") as found:
        paper = found.page.pdf(format="A4")
        assert paper.startswith(b"%PDF") and 1 < paper.count(b"/Type /Page\n") + paper.count(b"/Type /Page>>") < 20
        found.page.emulate_media(media="print")
        assert found.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert found.page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"


def test_a_thousand_classes_stay_small_and_readable(large, opened):
    path, measured = large
    assert path.stat().st_size < 5_000_000
    with opened(path, 360) as found:
        page = found.page
        assert page.locator("table.heat").count() == 0 and page.locator("#confusion tbody tr").count() == 40
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        recall = page.locator("#per-class thead th button").nth(2)
        for best_first in (True, False):
            recall.click()
            assert column(page, "#per-class", 0)[-1] == measured.classes[999]  # without images: last, either way
            values = [float(text.rstrip("%")) for text in column(page, "#per-class", 2)[:-1]]
            assert values == sorted(values, reverse=best_first)
        page.fill("#find", "NUMBER 77")
        shown = page.eval_on_selector_all("#per-class tbody tr", "rows => rows.filter(row => !row.hidden).length")
        assert shown == sum("number 77" in str(name) for name in measured.classes)
        assert page.text_content("#per-class-count") == f"{shown} found"
        assert found.faults == []


def test_hostile_names_are_texts(large, opened):
    path, _ = large
    with opened(path) as found:
        assert column(found.page, "#per-class", 0)[:5] == HOSTILE
        assert found.page.text_content("h1") == HOSTILE[0] and found.page.locator("script").count() == 1
        assert found.page.locator("b >> text=parrot").count() == 0 and found.faults == []


@pytest.mark.parametrize("method", ["CoOp", "ZeroshotCLIP"])
def test_what_is_not_there_is_said(fitted_run, opened, method, tmp_path, capsys):
    path = tmp_path / "deep" / "page.html"
    assert main(["report", str(fitted_run(method)), "--out", str(path)]) == 0
    assert f"Written: {path}" in capsys.readouterr().out and not (fitted_run(method) / "report.html").exists()
    with opened(path) as found:
        said = found.page.text_content("main")
        assert "Nothing was measured" in said and "No images were given" in said and f"{method} has no router" in said
        assert found.page.locator("img").count() == 0 and found.page.locator("#per-class").count() == 0
        assert ("No learning curves" in said) == (method == "ZeroshotCLIP")
        assert ("hand-written" in said) == (method == "ZeroshotCLIP")
        assert found.faults == []


def test_the_policy_of_the_page_names_its_own_script_alone(report):
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', report.read_text())[1]
    assert policy.startswith("default-src 'none'; img-src data:") and re.search(
        r"script-src 'sha256-[\w+/=]{44}'$", policy
    )


def test_damaged_records_and_folders_are_one_message(fitted_run, fitted, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "classifier.safetensors").write_bytes((fitted_run("CoOp") / "classifier.safetensors").read_bytes())
    assert main(["report", str(run), "--images", str(tmp_path / "gone")]) == 1
    assert "gone" in capsys.readouterr().err and not (run / "report.html").exists()
    (run / "metrics.jsonl").write_text("[1]\n{}\n")
    assert main(["report", str(run)]) == 1
    assert "metrics.jsonl is damaged" in capsys.readouterr().err
    (run / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "loss": 1.0}) + "\n" + '{"epoch": 2, "lo')  # killed
    (run / "env.json").write_text("[]")
    assert main(["report", str(run)]) == 1
    assert "env.json is damaged" in capsys.readouterr().err
    (run / "env.json").unlink()
    assert main(["report", str(run)]) == 0 and (run / "report.html").exists()


def test_pictures_that_are_gone_are_named(fitted, fitted_run, photos, tmp_path, opened):
    import shutil

    shutil.copytree(photos / "test", tmp_path / "few")
    content = gather(fitted("ZeroshotCLIP"), fitted_run("ZeroshotCLIP"), tmp_path / "few")
    assert content.mistakes and content.mistakes[0].picture.uri.startswith("data:image/jpeg;base64,")
    shutil.rmtree(tmp_path / "few")
    from mocoop.report.content import show_mistake

    gone = [show_mistake(shown.mistake) for shown in content.mistakes]
    (tmp_path / "page.html").write_text(render(type(content)(**{**vars(content), "mistakes": gone})))
    with opened(tmp_path / "page.html") as found:
        assert found.page.locator("#mistakes .gone").count() == len(gone) and found.faults == []
