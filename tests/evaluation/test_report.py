"""The report as a reader meets it, in headless Chromium: it loads nothing, works by hand and keys, and is right."""

import json
import re
import shutil
import subprocess

import pytest
import torch

from frost.cache.pairs import PairDataset
from frost.errors import InputError
from frost.evaluation.cases import EvaluateParams
from frost.evaluation.evaluate import evaluate
from frost.evaluation.provenance import provenance
from frost.evaluation.report.browser import spread
from frost.evaluation.report.dag import draw_dag
from frost.evaluation.report.page import write_report
from frost.evaluation.report.run import Finished, in_folder
from frost.evaluation.report.sections import _curve, group_table
from frost.evaluation.summaries import group_rows, mean_rows, nested_means
from frost.evaluation.tables import read_table, write_table
from frost.pipeline.costs import machine, measured
from frost.pipeline.revisions import link_outs
from frost.reconstruction.live import load_models
from tests.paths import ROOT

CHROMIUM = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(workspace, tmp_path_factory):
    """The folder of a finished run, with an awkward acquisition in its tables."""
    root = tmp_path_factory.mktemp("run")
    for name in ("data", "models"):
        (root / name).symlink_to(workspace.root / name)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, root)
    params = EvaluateParams(ensemble="none", batch_size=4, coverage=0.5, foreground=2e-5, presets=("snu2022",))
    pairs = {split: workspace.pairs(split) for split in ("val", "test")}
    network = load_models(workspace.root / "models", torch.device("cpu")).rcan
    result = evaluate(pairs, network, params, torch.device("cpu"), lambda *one: None)
    (root / "metrics" / "tables").mkdir(parents=True)
    result.metrics["test"]["rcan"]['"><script>alert(1)</script>'] = 0.5
    write_table(root / "metrics" / "tables" / "means.csv", mean_rows(result.metrics))
    made_from = provenance(*(root / name for name in ("data/images.zarr", "data/varnet.zarr", "models/rcan")), params)
    made_from["versions"]["odd"] = "<script>alert(1)</script>"
    (root / "metrics" / "provenance.json").write_text(json.dumps(made_from, indent=1))
    for row in result.by_volume[-len({row["image"] for row in result.by_volume}) :]:  # all images of one volume
        row["acquisition"] = "<!--<script><img src=x onerror=alert(1)>"
    groups = group_rows(result.by_volume)
    for name, rows in (("slices", result.by_slice), ("groups", groups), ("disagreement", result.calibration)):
        write_table(root / "metrics" / "tables" / f"{name}.csv", rows)
    return root


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "report.html"
    write_report([Finished(run)], file, "A <b>title</b> & more", 3)
    return file


def test_it_is_one_file_that_names_no_address(page):
    text = page.read_text()
    assert not re.search(
        r"(src|href)\s*=\s*[\"']?(?!data:)[^\"'#>\s]+[\"']?", re.sub(r"&lt;.*?&gt;", "", text).split("<script>")[0]
    )
    assert "default-src 'none'" in text and "<b>title</b>" not in text and "<script>alert" not in text
    assert len(json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])["slices"]) == 2


def test_it_says_which_weights_and_caches_it_shows(run, page):
    made_from = json.loads((run / "metrics" / "provenance.json").read_text())
    weights, caches = made_from["weights"], made_from["caches"]["images.zarr"]
    digests = [weights["rcan"], *weights["varnet"], *caches.values()]
    text = page.read_text()
    assert len(digests) >= 4 and all(digest in text for digest in digests)


def test_the_same_run_gives_the_same_file(run, page, tmp_path):
    write_report([Finished(run)], tmp_path / "again.html", "A <b>title</b> & more", 3)
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_two_runs_stand_side_by_side_and_what_differs_is_told(run, tmp_path, monkeypatch):
    monkeypatch.setenv("FROST_STORE", str(tmp_path / "store"))
    lock = """
stages:
  train_rcan:
    cmd: a
    deps: [{path: frost/training, md5: b1}]
    params: {params.yaml: {train_rcan: {fit: {epochs: 4}}}}
"""
    other = tmp_path / "other"
    other.mkdir()
    first = tmp_path / "first"
    first.mkdir()
    for folder in (first, other):
        for path in run.iterdir():
            (folder / path.name).symlink_to(path)
    (first / "dvc.lock").write_text(lock)
    (other / "dvc.lock").write_text(lock.replace("epochs: 4", "epochs: <8>").replace("b1", "b2"))
    with measured(tmp_path / "store", "train_rcan", run / "models" / "rcan"):
        pass
    runs = [Finished(first, "main"), Finished(other, "<i>longer", "abc")]
    write_report(runs, tmp_path / "two.html", "Two", 3)
    text = (tmp_path / "two.html").read_text()
    browser = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert (browser["left"], browser["right"]) == ("rcan", "rcan.1")
    assert browser["labels"]["rcan.1"] == "RCAN, <i>longer" and "<i>longer" not in text.split('id="data"')[0]
    slices = browser["slices"]
    assert all(one["images"]["rcan"] == one["images"]["rcan.1"] != one["images"]["varnet"] for one in slices)
    assert {image for image, *_ in slices[0]["scores"]} >= {"rcan", "rcan.1", "varnet"}
    assert "train_rcan.fit.epochs: 4 \u2192 &lt;8&gt;" in text and "frost/training" in text
    assert re.search(r"<td>train_rcan</td><td>\d+ s, \d\.\d\d GB</td>", text) and machine() in text


def test_a_copy_of_a_run_in_another_repository_is_of_no_commit(tmp_path):
    """The commit around it is not the one that it was made by."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "project").mkdir()
    for folder in (tmp_path, tmp_path / "project"):
        (folder / "dvc.lock").write_text("stages: {}")
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "-m", "one"]):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "copy").mkdir()
    assert in_folder(tmp_path).commit == in_folder(tmp_path / "project").commit != ""
    assert (in_folder(tmp_path / "copy").commit, in_folder(tmp_path / "copy").baseline) == ("", "")


def test_runs_on_other_data_are_not_put_side_by_side(run, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("data", "models"):
        (other / name).symlink_to(run / name)
    shutil.copytree(run / "metrics", other / "metrics")
    rows = [row | {"volume": f"{row['volume']}x"} for row in read_table(run / "metrics" / "tables" / "slices.csv")]
    write_table(other / "metrics" / "tables" / "slices.csv", rows)
    with pytest.raises(InputError, match="a and b: have no volume of test in common"):
        write_report([Finished(run, "a"), Finished(other, "b")], tmp_path / "two.html", "Two", 3)


def test_scans_that_have_a_name_alone_in_common_are_not_put_side_by_side(run, tmp_path, monkeypatch):
    """As of two seeds of `simulate`: the image of one head would stand beside the target of another."""
    own = PairDataset.facts
    monkeypatch.setattr(
        PairDataset,
        "facts",
        lambda self, name: own(self, name) | {"identity": f"{own(self, name)['identity']}{id(self)}"},
    )
    with pytest.raises(InputError, match="a and b: have no volume of test in common"):
        write_report([Finished(run, "a"), Finished(run, "b")], tmp_path / "two.html", "Two", 3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["stages: [", "[]", "stages: 3", "stages: {a: 1}"])
def test_a_pipeline_that_is_none_is_one_line_and_leaves_the_old_report(run, page, tmp_path, content):
    other, report = tmp_path / "other", tmp_path / "report.html"
    other.mkdir()
    for name in ("data", "models", "metrics"):
        (other / name).symlink_to(run / name)
    (other / "dvc.yaml").write_text(content)
    report.write_text("old")
    with pytest.raises(InputError, match=r"dvc\.yaml: not a pipeline of DVC"):
        write_report([Finished(other)], report, "title", 3)
    assert report.read_text() == "old" and sorted(file.name for file in tmp_path.iterdir()) == ["other", "report.html"]


def test_groups_of_which_some_have_no_grappa(tmp_path):
    """Masks of columns beside masks of samples, in two groups and in one."""
    ladder = {"zero_filled": 0.5, "grappa": 0.6, "varnet": 0.7, "rcan": 0.8}
    rows = [
        {"split": "test", "acquisition": name, "acceleration": 4.0, "image": image, "n_volumes": n, "ssim": ssim}
        for name, missing, n in (("A", None, 3), ("B", "grappa", 2))
        for image, ssim in ladder.items()
        if image != missing
    ]
    (tmp_path / "metrics" / "tables").mkdir(parents=True)
    (tmp_path / "models" / "rcan").mkdir(parents=True)
    (tmp_path / "models" / "rcan" / "config.json").write_text('{"name": "rcan", "params": {}, "sizes": []}')

    def cells(rows):
        write_table(tmp_path / "metrics" / "tables" / "groups.csv", rows)
        table = group_table(Finished(tmp_path), "test")
        return [re.findall("<td>(.*?)</td>", line) for line in table.split("<tr>")[2:]]

    assert cells(rows) == [
        ["A", "4", "3", "0.5000", "0.6000", "0.7000", "0.8000"], ["B", "4", "2", "0.5000", "", "0.7000", "0.8000"],
    ]  # fmt: skip
    fewer = [row | {"n_volumes": 1} if (row["acquisition"], row["image"]) == ("A", "grappa") else row for row in rows]
    assert cells(fewer)[0][4] == "0.6000 (1)"
    assert cells([row for row in fewer if row["acquisition"] == "A"]) == []


def test_images_without_any_disagreement_have_a_curve():
    rows = [{"disagreement": 0.0, "error": error} for error in (0.0, 0.2)]
    assert "<svg" in _curve(rows, "GRAPPA") and "nan" not in _curve(rows, "GRAPPA")


@pytest.mark.parametrize("name", ["../../out", "/out", "a/../../../out"])
def test_a_commit_of_strangers_puts_no_file_elsewhere(tmp_path, monkeypatch, name):
    """The paths in dvc.lock and in DVC's lists of folders are theirs."""
    repo, folder, listing = tmp_path / "repo", tmp_path / "here" / "folder", "ab" * 16
    for md5, content in ((listing + ".dir", json.dumps([{"relpath": name, "md5": "cd" * 16}])), ("cd" * 16, "x")):
        file = repo / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    lock = "stages: {train_rcan: {outs: [{path: %s, md5: %s}]}}"
    with pytest.raises(InputError, match="would lie outside"):
        link_outs(repo, lock % ("models/rcan", listing + ".dir"), ["models"], folder)
    with pytest.raises(InputError, match="would lie outside"):
        link_outs(repo, lock % ("models/../../out", "cd" * 16), ["models"], folder)
    assert link_outs(repo, lock % ("models/bound.json", "cd" * 16), ["models"], folder) == []
    assert [path.name for path in tmp_path.rglob("*") if path.is_symlink()] == ["bound.json"]


def test_slices_are_spread_over_a_volume():
    assert spread(3, 5) == [0, 1, 2] and spread(10, 1) == [5] and spread(9, 3) == [1, 4, 7]


def test_every_stage_is_drawn_and_none_in_another():
    from ruamel.yaml import YAML

    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    for tall in (True, False):
        drawn = draw_dag(stages, tall)
        boxes = {(float(x), float(y)) for x, y in re.findall(r'<rect x="([\d.]+)" y="([\d.]+)"', drawn)}
        assert len(boxes) == len(stages) and all(f">{name}</text>" in drawn for name in stages)
        assert all(abs(a - c) >= 124 or abs(b - d) >= 40 for a, b in boxes for c, d in boxes if (a, b) != (c, d))


def test_a_run_without_metrics_is_named(tmp_path):
    with pytest.raises(InputError, match=r"means\.csv: no such table; `dvc repro` makes it"):
        write_report([Finished(tmp_path)], tmp_path / "report.html", "title", 3)


# ---- in a browser


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["desktop", "phone"])
def browser(request, page, tmp_path):
    if not all(CHROMIUM):
        pytest.skip("needs Debian's packages chromium and chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    width, height = request.param
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM[0]
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    if width < 500:
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": {"width": width, "height": height}})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(CHROMIUM[1]))
    try:
        driver.get(page.as_uri())
        yield driver
    finally:
        driver.quit()


def requests(driver):
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return {m["params"]["request"]["url"].split(",")[0] for m in messages if m["method"] == "Network.requestWillBeSent"}


def test_in_chromium_nothing_is_asked_for_nothing_fails_and_nothing_overflows(browser, page):
    browser.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    own = ("data:", "chrome:")  # pictures, and the tab that Chromium opens with
    assert {url for url in requests(browser) if not url.startswith(own)} == {page.as_uri()}
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.execute_script("return [...document.images].every(i => i.complete && i.naturalWidth > 0)")


def test_in_chromium_the_numbers_are_those_of_the_table_of_means(browser, run):
    shown = browser.execute_script(
        "return [...document.querySelectorAll('#score-table [data-value]')]"
        ".map(c => [c.dataset.image, c.dataset.metric, c.dataset.value, c.textContent])"
    )
    scores = nested_means(read_table(run / "metrics" / "tables" / "means.csv"))["test"]
    expected = {(i, m): v for i, s in scores.items() if i not in ("gain", "disagreement") for m, v in s.items()}
    assert {(image, metric): float(value) for image, metric, value, _ in shown} == expected
    assert all(float(text) == pytest.approx(float(value), abs=0.005) for _, _, value, text in shown)


def test_in_chromium_the_slider_moves_by_mouse_by_finger_and_by_key(browser):
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.by import By

    slider, right = browser.find_element(By.ID, "cut"), browser.find_element(By.ID, "right")

    def cut():
        return float(re.search(r"([\d.]+)%", right.value_of_css_property("clip-path") + " 50%")[1])

    browser.execute_script("arguments[0].scrollIntoView()", slider)
    before = cut()
    width = slider.size["width"]
    if browser.execute_script("return innerWidth") < 500:
        box = browser.execute_script("const b = arguments[0].getBoundingClientRect(); return [b.x, b.y + 40]", slider)
        for kind, x in (("touchStart", 0.5), ("touchMove", 0.6), ("touchMove", 0.8), ("touchEnd", None)):
            points = [] if x is None else [{"x": box[0] + x * width, "y": box[1]}]
            browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    else:
        ActionChains(browser).move_to_element_with_offset(slider, 0, -40).click_and_hold().move_by_offset(
            int(0.3 * width), 0
        ).release().perform()
    moved = cut()
    assert before == 50 and 65 < moved < 95
    slider.send_keys(Keys.ARROW_LEFT)
    assert cut() < moved


def test_in_chromium_keys_and_buttons_choose_slices_and_images(browser):
    from selenium.webdriver import Keys
    from selenium.webdriver.common.by import By

    slider = browser.find_element(By.ID, "cut")
    first = browser.find_element(By.ID, "name").text, browser.find_element(By.ID, "right").get_attribute("src")
    slider.send_keys(Keys.ARROW_DOWN)
    second = browser.find_element(By.ID, "name").text, browser.find_element(By.ID, "right").get_attribute("src")
    assert first[0] != second[0] and first[1] != second[1]
    slider.send_keys("4")
    assert browser.find_element(By.ID, "right-tag").text == "Error of RCAN"
    browser.find_element(By.CSS_SELECTOR, "#left-choice [data-image=grappa]").click()
    assert browser.find_element(By.ID, "left-tag").text == "GRAPPA"
    browser.find_elements(By.CSS_SELECTOR, "#strip button")[0].click()
    assert browser.find_element(By.ID, "name").text == first[0]
