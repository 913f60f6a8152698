"""The benchmark on the miniature world: its plan covers what it promises, its options are valid, its page says what
made-up runs say. No method runs here."""

import importlib
import json
import re
from collections import Counter
from pathlib import Path

import mocoop
import pytest
from mocoop import config, train
from mocoop.results import Difference
from mocoop.runs.protocols import Settings

ROOT = Path(mocoop.__file__).parent
GROUPS = [["a {}.", "b {}."], ["c {}.", "d {}."], ["e {}.", "f {}."], ["g {}.", "h {}."], ["i {}.", "j {}."]]


@pytest.fixture(scope="module")
def benchmark():
    """The script as a module (scripts/ is no package)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts/demo"))
        yield importlib.import_module("benchmark")


@pytest.fixture(scope="module")
def plan(benchmark):
    return importlib.import_module("benchmark_plan")


@pytest.fixture(scope="module")
def page(benchmark):
    return importlib.import_module("benchmark_page")


@pytest.fixture()
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTPUT", str(tmp_path / "out"))
    monkeypatch.setenv("DATA", str(tmp_path / "data"))
    for name in ("JOBS", "TAG", "CFG", "SHOTS"):
        monkeypatch.delenv(name, raising=False)
    return Settings(data=tmp_path / "data", output=tmp_path / "out", jobs=3)


# ---- the plan


def test_a_seed_is_six_methods_and_four_protocols_on_ten_sets(plan, settings):
    jobs = plan.plan(settings, 2)
    plain = [job.folder.relative_to(settings.output).parts for job in jobs if job.folder.parent.name == "miniature"]
    counts = Counter((parts[0], parts[-3]) for parts in plain)
    assert plan.METHODS == ["ZeroshotCLIP", "CoOp", "CoCoOp", "LASP", "KgCoOp", "MoCoOp"]
    trained = {"base2new": 20, "fewshot": 20, "source": 1, "cross_dataset": 9, "domain_generalization": 3}
    for method in plan.METHODS:
        own = {**trained, "fewshot": 10} if method == "ZeroshotCLIP" else trained
        assert {protocol: counts[protocol, method] for protocol in trained} == own
        seeds = {parts[-1] for parts in plain if parts[-3] == method}
        assert seeds == {"seed1" if method == "ZeroshotCLIP" else "seed2"}  # which is the same whatever the seed
    assert {parts[-4] for parts in plain if parts[0] == "fewshot" and parts[-3] == "CoOp"} == {*("shots_1", "shots_16")}
    assert len(jobs) == len({job.folder for job in jobs}) == 43 + 5 * 53 + 11 * 3 * 2 == 374


def test_settings_of_other_runs_do_not_change_it(plan, settings, tmp_path):
    other = Settings(settings.data, settings.output, shots=(2,), config="demo", tag="x", targets=("dtd",), jobs=1)
    assert plan.plan(other, 1) == plan.plan(settings, 1)


def test_models_come_before_their_tests(plan, settings):
    jobs = plan.plan(settings, 1)
    place = {job.folder: number for number, job in enumerate(jobs)}
    tests = [job for job in jobs if job.model]
    assert len(tests) > 100 and all(place[job.model] < place[job.folder] for job in tests)


def test_the_sets_are_there_and_those_of_the_learning_rates_are_left_out(plan):
    assert len(plan.SETS) == 10 and len(plan.AVERAGED) == 8 and len(plan.SHIFTED) == 3
    assert set(plan.SETS) - set(plan.AVERAGED) == set(plan.HELD_OUT) and plan.MAIN in plan.AVERAGED
    assert set(plan.ABLATION_SETS) < set(plan.AVERAGED)
    assert all((ROOT / f"configs/datasets/{name}.yaml").is_file() for name in (*plan.SETS, *plan.SHIFTED))


def config_of(job):
    cfg, _ = train.config_of(list(job.arguments))
    return {key: value for key, value in config.flatten(cfg).items() if key != "OUTPUT_DIR"}


def test_every_ablation_is_a_config_and_differs_from_the_plain_run_where_it_says(plan, settings):
    jobs = plan.plan(settings, 1)

    def of(tag):
        end = ("train_base", plan.ABLATION_SETS[0], "shots_16", "MoCoOp", tag, "seed1")
        return config_of(next(job for job in jobs if job.folder.parts[-6:] == end))

    plain, changed = of("miniature"), {}
    for tag in plan.ABLATIONS:
        own = of(f"miniature-{tag}")
        changed[tag] = {key.removeprefix("TRAINER.MOCOOP.") for key in plain if own[key] != plain[key]}
    assert changed == {
        **dict.fromkeys(("topk1", "topkall"), {"TOPK"}),
        **dict.fromkeys(("groups1", "groups2", "groups8", "random"), {"PROMPT_GROUPS"}),
        "nogate": {"GATE_LOSS_WEIGHT"},
        "notext": {"TEXT_LOSS_WEIGHT"},
        "nocorrection": {"ENABLE_CORRECTION"},
        "images": {"INPUT.FEATURE_VIEWS"},
        "images-ln": {"INPUT.FEATURE_VIEWS", "FINETUNE_VIT_LN"},
    }


def test_regrouping_by_hand(plan):
    a, b, c, d, e = GROUPS
    assert plan.regrouped(GROUPS, 1) == [a + b + c + d + e]
    assert plan.regrouped(GROUPS, 2) == [a + b, c + d + e]
    assert plan.regrouped(GROUPS, 4) == [a, b, c, d + e]
    assert plan.regrouped(GROUPS, 5) == GROUPS
    assert plan.regrouped(GROUPS, 8) == [["a {}."], ["b {}."], ["c {}."], ["d {}."], ["e {}."], ["f {}."], d, e]
    with pytest.raises(ValueError, match="10 templates cannot make 11 groups"):
        plan.regrouped(GROUPS, 11)


def test_groups_at_random_are_of_the_same_sizes_always_the_same_and_others(plan):
    uneven = [*GROUPS, ["k {}."]]
    found = plan.shuffled(uneven)
    assert [len(group) for group in found] == [2, 2, 2, 2, 2, 1] and found == plan.shuffled(uneven)
    assert sorted(sum(found, [])) == sorted(sum(uneven, []))
    for dataset in plan.ABLATION_SETS:
        own = plan.groups_of(dataset)
        assert len(own) <= 8 and {frozenset(g) for g in plan.shuffled(own)} != {frozenset(g) for g in own}


# ---- learning rates


def test_rates_are_measured_on_validation_images_of_base_classes(plan, settings):
    job = plan.rate_job("LASP", 0.03, "mini_sky", 2, settings)
    assert job.folder == settings.output / "rates/base2new/train_base/mini_sky/shots_16/LASP/miniature-lr0.03/seed2"
    cfg = config_of(job)
    assert (cfg["OPTIM.LR"], cfg["TEST.SPLIT"], cfg["DATASET.SUBSAMPLE_CLASSES"]) == (0.03, "val", "base")
    assert (cfg["SEED"], cfg["DATASET.NUM_SHOTS"], cfg["TEST.FINAL_MODEL"]) == (2, 16, "last_step")


def test_rates_are_written_and_the_best_are_named(benchmark, page, settings, tmp_path, monkeypatch, capsys):
    best = {"CoOp": 0.3, "CoCoOp": 0.1}

    def run_all(jobs, workers):
        for job in jobs:
            rate, method = float(job.folder.parent.name.removeprefix("miniature-lr")), job.folder.parts[-3]
            accuracy = 50 + 10 * (rate == best.get(method, 0.03)) + int(job.folder.name[4:])
            job.folder.mkdir(parents=True)
            (job.folder / "results.json").write_text(json.dumps({"val": {"accuracy": accuracy}}))
        return 0

    monkeypatch.setattr(benchmark, "run_all", run_all)
    monkeypatch.setattr(benchmark, "config_rate", lambda method: 0.3)
    assert benchmark.main(["--rates", "--frozen", "abc", "--folder", str(tmp_path / "page")]) == 0
    out = capsys.readouterr().out
    assert "CoOp: OPTIM.LR 0.3 (61.0% on validation images), as its config has it" in out
    assert "CoCoOp: OPTIM.LR 0.1 (61.0% on validation images), CHANGE it: its config has 0.3" in out
    lines = (tmp_path / "page/rates.csv").read_text().splitlines()
    assert len(lines) == 1 + 5 * 3 * 2 and "CoOp,0.3,mini_logos,1,61" in lines
    table = page.rate_table(tmp_path / "page/rates.csv", {"CoOp": 0.3, "LASP": 0.1})
    assert "| CoOp | 51.0 | 51.0 | **61.0** |" in table and "| LASP | 61.0 | **51.0** | 51.0 |" in table
    assert page.best_rates({"A": {0.3: 50.0, 0.1: 50.0, 0.01: 49.0}}) == {"A": 0.1}  # of equal ones the smallest


def test_the_configs_have_the_rates_that_were_measured(benchmark, page):
    path = ROOT / "docs/demo_benchmark/rates.csv"
    if not path.is_file():
        pytest.skip("not measured yet")
    best = page.best_rates(page.mean_rates(path))
    assert best == {method: benchmark.config_rate(method) for method in best}


# ---- running


def test_seeds_run_one_after_the_other_then_the_page_is_made(benchmark, settings, tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(benchmark, "cores", lambda: 3)
    monkeypatch.setattr(benchmark, "run_all", lambda jobs, workers: seen.append((len(jobs), workers, jobs)) or 0)
    monkeypatch.setattr(benchmark, "make_page", lambda settings, folder, commit: seen.append((folder, commit)))
    call = ["--frozen", "abc", "--folder", str(tmp_path / "page")]
    assert benchmark.main([*call, "--seeds", "2 4"]) == 0
    assert [item[:2] for item in seen] == [(374, 3), (374, 3), (tmp_path / "page", "abc")]
    assert {job.folder.name for job in seen[1][2]} == {"seed1", "seed4"}
    assert benchmark.main([*call, "--seeds", "3", "--parts", "transfers"]) == 0 and seen[3][0] == 43 + 5 * 13 - 30
    assert len(seen) == 4 and "No page is made: no seed of base2new, ablations, fewshot is" in capsys.readouterr().out
    assert benchmark.main([*call, "--parts", "transfer"]) == 1
    assert benchmark.main([*call, "--parts", ""]) == benchmark.main([*call, "--seeds", ""]) == 1
    assert benchmark.main([*call, "--seeds", "2 6"]) == 1
    assert "--seeds 2 6: 6 is none of 1 2 3 4 5" in capsys.readouterr().err


def test_a_page_that_is_asked_for_and_cannot_be_made_is_an_error(benchmark, settings, tmp_path, capsys):
    folder = tmp_path / "page"
    assert benchmark.main(["--page", "--parts", "base2new", "--frozen", "abc", "--folder", str(folder)]) == 1
    assert "no seed of base2new is complete" in capsys.readouterr().err and not folder.exists()


def test_a_failure_ends_it(benchmark, settings, monkeypatch):
    monkeypatch.setattr(benchmark, "run_all", lambda jobs, workers: 130)
    monkeypatch.setattr(benchmark, "make_page", lambda *args: pytest.fail("no page"))
    assert benchmark.main(["--frozen", "abc"]) == 130


@pytest.mark.parametrize("words", [[], ["--rates"], ["--page"]])
def test_nothing_runs_before_the_world_is_frozen(benchmark, settings, monkeypatch, capsys, words):
    monkeypatch.setattr(benchmark, "run_all", lambda jobs, workers: pytest.fail("ran"))
    assert benchmark.main([*words, "--frozen", ""]) == 1
    assert "Error: the world is not frozen yet" in capsys.readouterr().err


# ---- the page


def write_runs(jobs, accuracy):
    for job in jobs:
        job.folder.mkdir(parents=True, exist_ok=True)
        record = {"accuracy": accuracy(job), "error_rate": 50.0, "macro_f1": 50.0, "images": 10, "classes": 5}
        if job.folder.parts[-3] == "MoCoOp":
            record["routing"] = {"experts": ["a", "b"], "share": [0.5, 0.5], "by_class": [[0.5, 0.5]] * 2}
        (job.folder / "results.json").write_text(json.dumps({"test": record}))
        (job.folder / "config.yaml").write_text(f"SEED: {job.folder.name[4:]}\nOUTPUT_DIR: {job.folder}\n")
        (job.folder / "DONE").touch()


def accuracy(job):
    """MoCoOp's seeds differ from CoOp's by 2, 4, ...; zero-shot is 50; the set of the learning rates would spoil it."""
    seed, method, tag = int(job.folder.name[4:]), job.folder.parts[-3], job.folder.parent.name
    if job.folder.parts[-5] == "mini_sky":
        return 99.0
    plain = {"ZeroshotCLIP": 50, "CoOp": 60, "MoCoOp": 60 + 2 * seed}.get(method, 55)
    return plain + {"miniature-topk1": -5, "miniature-random": -seed, "miniature-groups1": 5}.get(tag, 0)


def made(benchmark, settings, plan, tmp_path, seeds):
    for seed in seeds:
        write_runs(plan.plan(settings, seed), accuracy)
    code = benchmark.main(["--page", "--frozen", "abc123", "--folder", str(tmp_path / "page")])
    return code, (tmp_path / "page/README.md").read_text()


def block(text, name):
    return text.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0]


def row(text, name, first):
    return next(line for line in block(text, name).splitlines() if line.startswith(f"| {first} |"))


def test_the_page_says_what_the_runs_say(benchmark, plan, settings, tmp_path):
    pytest.importorskip("matplotlib")
    write_runs(plan.plan(settings, 3, ["fewshot"])[:-1], lambda job: 1.0)  # not complete, so it does not count
    code, text = made(benchmark, settings, plan, tmp_path, (1, 2))
    assert code == 0
    runs = 374 + 331
    assert f"frozen by commit `abc123`. Made from {runs:,} runs, seeds: base2new 1 2; ablations 1 2; " in text
    assert row(text, "base2new", "ZeroshotCLIP") == "| ZeroshotCLIP | 50.00 | 50.00 | 50.00 |"
    assert row(text, "base2new", "MoCoOp") == "| MoCoOp | 63.00 ± 1.00 | 63.00 ± 1.00 | 63.00 |"
    # differences 2 and 4: mean 3, sample std sqrt(2), t(1) = 12.706: half-width 12.706
    assert row(text, "base2new-differences", "MoCoOp - CoOp").count("+3.00 [-9.71, +15.71]") == 3
    assert row(text, "base2new-sets", r"mini_sky (not averaged)").count("99.0 / 99.0 / 99.0") == 6
    assert row(text, "base2new-sets", "mini_things").split(" | ")[1:3] == ["50.0 / 50.0 / 50.0", "60.0 / 60.0 / 60.0"]
    # MoCoOp 1, CoOp 2, three methods share 3 to 5, zero-shot 6
    means = [row(text, "ranks", method).split(" | ")[3] for method in plan.METHODS]
    assert means == ["6.00", "2.00", "4.00", "4.00", "4.00", "1.00"]
    assert row(text, "ablations", "TOPK 1").endswith("| **-5.00 [-5.00, -5.00]** |")
    assert row(text, "ablations", "plain").startswith("| plain | 63.00 | 63.00 | 63.00 |")
    assert row(text, "fewshot", "CoOp") == "| CoOp |" + 2 * " 60.00 ± 0.00 |"
    assert "mini_emoji" in block(text, "cross_dataset") and "mini_sky" not in block(text, "cross_dataset")
    assert "mini_things_noise" in block(text, "domain_generalization")
    assert "| P1 |" in block(text, "properties") and "MiniThings" not in block(text, "properties")
    alone = [line.strip("| ").split(" | ")[0].strip() for line in block(text, "untrained").strip().splitlines()[2:]]
    assert alone[1:] == ["MoCoOp's templates, averaged", "the best of MoCoOp's groups", "MoCoOp, trained"]
    assert row(text, "untrained", "MoCoOp, trained") == "| MoCoOp, trained |" + 6 * " 63.00 |"
    csv = (tmp_path / "page/results.csv").read_text().splitlines()
    assert len(csv) == 1 + runs and all(",test,accuracy," in line for line in csv[1:])
    pictures = set(re.findall(r"\]\((\w+\.png)\)", text))
    assert len(pictures) == 8 and all((tmp_path / "page" / name).is_file() for name in pictures)


def test_claims_show_only_with_a_clear_difference_of_their_sign(benchmark, plan, page, settings, tmp_path):
    pytest.importorskip("matplotlib")
    _, text = made(benchmark, settings, plan, tmp_path, (1, 2))
    claims = [line.strip("| ").split(" | ") for line in block(text, "claims").strip().splitlines()[2:]]
    found = {words: (difference, verdict) for _, words, difference, verdict in claims}
    assert len(found) == len(claims) == len(page.CLAIMS)
    assert found["CoOp > ZeroshotCLIP: base-to-new, Base"] == ("+10.00 [+10.00, +10.00]", "**shows**")
    assert found["CoOp < ZeroshotCLIP: base-to-new, New"][1] == "does not show (the opposite does)"
    assert found["LASP > CoOp: base-to-new, New"][1] == "does not show (the opposite does)"
    assert found["MoCoOp > CoOp: base-to-new, H"][1] == "does not show"
    assert found["several experts > 1 expert: ablation, H"][0] == "-5.00 [-5.00, -5.00]"
    assert found["semantic groups > random groups: ablation, H"][0].startswith("+1.50 [")
    assert page.verdict(Difference(2.0, 1.9, (1, 2)), -1) == "does not show (the opposite does)"
    assert page.verdict(None, 1) == "not measured"


def test_the_pattern_is_compared_with_the_published_one(benchmark, plan, settings, tmp_path):
    pytest.importorskip("matplotlib")
    _, text = made(benchmark, settings, plan, tmp_path, (1,))
    # published: CLIP 69.34, 74.22, 71.70; CoOp 82.69, 63.22, 71.66
    assert row(text, "published", "CoOp - ZeroshotCLIP") == (
        "| CoOp - ZeroshotCLIP | +10.0 / +13.3 | +10.0 / -11.0 | +10.0 / -0.0 |"
    )
    # here CoOp is first, then three are equal (no pair in order), then zero-shot
    assert row(text, "published", "Pairs of methods in the same order").split(" | ")[1] == "6 of 10"
    assert "LASP > CoOp > KgCoOp > CoCoOp > ZeroshotCLIP" in row(text, "published", "Order published")
    assert (
        "With one seed (base2new, ablations, transfers, fewshot) there are no spreads" in text
        and "open (one seed)" in text
    )


def test_ranks_by_hand(page):
    assert page.ranks([50.0, 70.0, 60.0]) == [3, 1, 2]
    assert page.ranks([50.0, 70.0, 50.0, 50.0]) == [3, 1, 3, 3]


@pytest.mark.parametrize("finished", [0, 30])
def test_no_page_is_made_without_a_complete_seed(benchmark, plan, settings, tmp_path, capsys, finished):
    jobs = plan.plan(settings, 1)
    write_runs(jobs[:finished], lambda job: 50.0)
    assert benchmark.main(["--page", "--frozen", "abc", "--folder", str(tmp_path / "page")]) == 1
    error = capsys.readouterr().err
    assert f"no seed of base2new is complete (of seed 1, {120 - finished} of 120 runs are not finished, e.g." in error
    assert str(jobs[finished].folder) in error and not (tmp_path / "page").exists()


def test_without_matplotlib_nothing_is_written(benchmark, plan, settings, tmp_path, monkeypatch, capsys):
    import sys

    write_runs(plan.plan(settings, 1), accuracy)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert benchmark.main(["--page", "--frozen", "abc", "--folder", str(tmp_path / "page")]) == 1
    assert "figures need matplotlib" in capsys.readouterr().err and not (tmp_path / "page").exists()


# ---- the demo


def test_the_demo_prints_a_line_for_each_set_and_the_average(benchmark, plan, settings, monkeypatch, capsys):
    demo = importlib.import_module("demo")
    monkeypatch.setattr(demo, "run_all", lambda jobs, workers: write_runs(jobs, accuracy) or 0)
    assert demo.main(["zsclip coop mocoop", "1 2 3"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0].startswith(
        "Base-to-new, accuracy in % on base / new classes / H, means over seeds 1 2 3, the averages"
    )
    assert [line.split()[1] for line in lines[4:14]] == list(plan.SETS) and len(lines) == 15
    assert lines[4] == ("| mini_things | 50.00 / 50.00 / 50.00 | 60.00 / 60.00 / 60.00 | 64.00 / 64.00 / 64.00 |")
    assert "| mini_sky (not averaged) | 99.00 / 99.00 / 99.00 |" in "\n".join(lines)
    # MoCoOp 62, 64, 66: population std sqrt(8 / 3)
    average = (
        "| average of 8 | 50.00 / 50.00 / 50.00 | 60.00 ± 0.00 / 60.00 ± 0.00 / 60.00 | 64.00 ± 1.63 / 64.00 ± 1.63"
    )
    assert lines[14] == f"{average} / 64.00 |"


def test_the_demos_runs_are_those_of_the_benchmark(benchmark, plan, settings, monkeypatch):
    demo, seen = importlib.import_module("demo"), []
    monkeypatch.setattr(demo, "run_all", lambda jobs, workers: seen.extend(jobs) or 1)
    assert demo.main(["zsclip coop mocoop", "1 2"]) == 1
    assert len(seen) == len(set(seen)) == 20 + 2 * 2 * 20
    assert set(seen) < {*plan.plan(settings, 1), *plan.plan(settings, 2)}


def test_a_block_without_a_place_is_an_error(page):
    assert page.filled("x\n<!-- a -->\nold\n<!-- /a -->\ny", {"a": "new"}) == "x\n<!-- a -->\n\nnew\n\n<!-- /a -->\ny"
    with pytest.raises(ValueError, match="0 places for the block 'b'"):
        page.filled("x", {"b": "new"})
