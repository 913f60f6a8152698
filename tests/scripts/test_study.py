"""The demo study: its plan covers what it promises, its options are valid, its page says what the runs say."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import mocoop
import pytest
from mocoop import config, train
from mocoop.runs.protocols import Settings

ROOT = Path(mocoop.__file__).parent


@pytest.fixture(scope="module")
def study():
    """The script as a module (scripts/ is no package)."""
    spec = importlib.util.spec_from_file_location("demo_study", ROOT / "scripts/demo/study.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture()
def jobs(study, tmp_path):
    return study.plan(Settings(data=tmp_path / "data", output=tmp_path / "out"))


def test_the_plan_is_five_methods_four_protocols_five_seeds(jobs, tmp_path):
    plain = [job.folder.relative_to(tmp_path / "out") for job in jobs if job.folder.parent.name == "demo"]
    trained = Counter((folder.parts[0], folder.parts[-3]) for folder in plain if folder.parts[-3] != "ZeroshotCLIP")
    for method in ("CoOp", "CoCoOp", "LASP", "MoCoOp"):
        counts = {"base2new": 10, "fewshot": 25, "source": 5, "cross_dataset": 10, "domain_generalization": 15}
        assert {protocol: trained[protocol, method] for protocol in counts} == counts
    assert {folder.name for folder in plain} == {f"seed{seed}" for seed in range(1, 6)}
    assert len(jobs) == len({job.folder for job in jobs}) == 4 * 65 + 45 + 14 * 10


def test_models_come_before_their_tests(jobs):
    place = {job.folder: number for number, job in enumerate(jobs)}
    tests = [job for job in jobs if job.model]
    assert len(tests) > 100 and all(place[job.model] < place[job.folder] for job in tests)


def test_every_ablation_is_a_config_and_differs_from_the_plain_run_where_it_says(study, jobs):
    def settings(tag):
        job = next(job for job in jobs if job.folder.parts[-3:-1] == ("MoCoOp", tag))
        cfg, _ = train.build_config(train.build_parser().parse_intermixed_args(list(job.arguments)))
        return {key: value for key, value in config.flatten(cfg).items() if key != "OUTPUT_DIR"}

    plain = settings("demo")
    changed = {}
    for tag in study.ABLATIONS:
        own = settings(f"demo-{tag}")
        changed[tag] = {key.removeprefix("TRAINER.MOCOOP.") for key in plain if own[key] != plain[key]}
    assert changed == {
        **dict.fromkeys(("topk1", "topk6"), {"TOPK"}),
        "nogate": {"GATE_LOSS_WEIGHT"},
        "notext": {"TEXT_LOSS_WEIGHT"},
        "novirtual": {"VIRTUAL_CLASSES"},
        **{f"groups{count}": {"PROMPT_GROUPS"} for count in (1, 2, 4, 8)},
        "authors": {"GATE_TARGET", "TEXT_LOGIT_SCALE"},
        **dict.fromkeys(("gate1", "gate10"), {"GATE_TARGET_SCALE"}),
        "images": {"INPUT.FEATURE_VIEWS"},
        "images-ln": {"INPUT.FEATURE_VIEWS", "FINETUNE_VIT_LN"},
    }


def test_regrouping_keeps_every_template(study):
    templates = sorted(template for group in study.GROUPS for template in group)
    for count in (1, 2, 4, 8):
        (value,) = study.ABLATIONS[f"groups{count}"][1].values()
        assert len(value) == count and sorted(template for group in value for template in group) == templates


def write_runs(jobs, accuracy):
    for job in jobs:
        job.folder.mkdir(parents=True, exist_ok=True)
        record = {"accuracy": accuracy(job), "error_rate": 50.0, "macro_f1": 50.0, "images": 10, "classes": 5}
        (job.folder / "results.json").write_text(json.dumps({"test": record}))
        (job.folder / "config.yaml").write_text(f"SEED: {job.folder.name[4:]}\nOUTPUT_DIR: {job.folder}\n")
        (job.folder / "DONE").touch()


def test_the_command_runs_the_plan_then_writes_the_page(study, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setenv("OUTPUT", str(tmp_path / "out"))
    monkeypatch.delenv("JOBS", raising=False)
    monkeypatch.setattr(study, "cores", lambda: 3)
    monkeypatch.setattr(study, "run_all", lambda jobs, workers: seen.append((len(jobs), workers)) or 0)
    monkeypatch.setattr(study, "make_page", lambda output, folder: seen.append((output, folder)))
    assert study.main(["--folder", str(tmp_path / "page")]) == 0
    assert seen == [(445, 3), (tmp_path / "out", tmp_path / "page")]


def test_the_page_says_what_the_runs_say(study, jobs, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(study, "PAGE", tmp_path / "words")
    study.PAGE.mkdir()
    words = "Words.\n<!-- ablations -->\nold\n<!-- /ablations -->\nMore.\n<!-- base2new -->\n<!-- /base2new -->\n"
    (study.PAGE / "README.md").write_text(words)

    def accuracy(job):
        seed = int(job.folder.name[4:])
        method, tag = job.folder.parts[-3], job.folder.parent.name
        return {"CoOp": 60, "MoCoOp": 70}.get(method, 50) + seed + {"demo-topk1": -5, "demo-topk6": seed}.get(tag, 0)

    write_runs(jobs, accuracy)
    study.make_page(tmp_path / "out", tmp_path / "page")
    text = (tmp_path / "page/README.md").read_text()
    assert text.startswith("Words.\n<!-- ablations -->\n\n| Variant | Base | New | H |") and "old" not in text
    assert "| plain (6 groups, TOPK 2) | 73.00 | 73.00 | 73.00 |" in text
    assert "| TOPK 1 | 68.00 | 68.00 | 68.00 | **-5.00 [-5.00, -5.00]** |" in text
    # differences 1..5: mean 3, sample std sqrt(2.5), t(4) = 2.776: half-width 1.96
    assert "| TOPK 6 (all experts) | 76.00 | 76.00 | 76.00 | **+3.00 [+1.04, +4.96]** |" in text
    table = text[text.index("<!-- base2new -->") :]
    assert re.search(r"\| CoOp +\| demo +\| 1 2 3 4 5 +\| 63.00 ± 1.41", table) and "topk" not in table
    csv = (tmp_path / "page/results.csv").read_text().splitlines()
    assert sum(",accuracy," in line for line in csv) == len(jobs)
    assert {"ablations.png", "fewshot_curves.png", "base2new_h.png"} <= {p.name for p in (tmp_path / "page").iterdir()}


@pytest.mark.parametrize("finished", [0, 2, 30, 444])
def test_no_page_is_made_of_a_part_of_the_study(study, jobs, tmp_path, finished):
    write_runs(jobs[:finished], lambda job: 50.0)
    page = tmp_path / "page"
    page.mkdir()
    (page / "results.csv").write_text("the whole study's")
    env = {**os.environ, "OUTPUT": str(tmp_path / "out")}
    command = [sys.executable, str(ROOT / "scripts/demo/study.py"), "--page", "--folder", str(page)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout == ""
    lacking = jobs[finished].folder
    assert done.stderr.startswith(f"Error: {445 - finished} of the study's 445 runs are not finished, e.g. {lacking};")
    assert "Traceback" not in done.stderr
    assert [(path.name, path.read_text()) for path in page.iterdir()] == [("results.csv", "the whole study's")]


def test_without_matplotlib_nothing_is_written(study, jobs, tmp_path, monkeypatch, capsys):
    write_runs(jobs, lambda job: 50.0)
    monkeypatch.setenv("OUTPUT", str(tmp_path / "out"))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert study.main(["--page", "--folder", str(tmp_path / "page")]) == 1
    assert "figures need matplotlib" in capsys.readouterr().err and not (tmp_path / "page").exists()
