"""The base-to-new table against numbers worked out by hand."""

import json
import subprocess
import sys

import pytest
from mocoop import results
from mocoop.results import Setting


def write_run(
    output, part, seed, accuracy, dataset="dtd", trainer="CoOp", config="vit_b16", shots=16, done=True, lr=0.1
):
    folder = output / "base2new" / part / dataset / f"shots_{shots}" / trainer / config / f"seed{seed}"
    folder.mkdir(parents=True)
    record = {"accuracy": accuracy, "error_rate": 100 - accuracy, "macro_f1": 1.0, "images": 10, "classes": 5}
    (folder / "results.json").write_text(json.dumps({"test": record}))
    (folder / "config.yaml").write_text(f"OPTIM: {{LR: {lr}}}\nSEED: {seed}\nOUTPUT_DIR: {folder}\n")
    if done:
        (folder / "DONE").write_text("{}")
    return folder


def write_both(output, seed, base, new, **more):
    write_run(output, "train_base", seed, base, **more)
    write_run(output, "test_new", seed, new, **more)


def test_mean_and_population_std():
    assert results.mean_std([80.0, 82.0, 87.0]) == pytest.approx((83.0, (26 / 3) ** 0.5))  # 9 + 1 + 16 over 3
    assert results.mean_std([70.5]) == (70.5, 0.0)


def test_harmonic_mean():
    assert results.harmonic(60.0, 40.0) == 48.0  # 2 * 2400 / 100
    assert results.harmonic(82.69, 63.22) == pytest.approx(71.66, abs=0.005)  # CoOp's published average
    assert results.harmonic(0.0, 0.0) == 0.0


def test_a_row_is_h_of_the_averages_not_the_average_of_h(tmp_path):
    write_both(tmp_path, 1, 90.0, 30.0)
    write_both(tmp_path, 2, 30.0, 50.0)
    table = results.base2new(tmp_path)
    (row,) = table.rows
    assert row.setting == Setting("dtd", 16, "CoOp", "vit_b16") and row.seeds == (1, 2)
    assert row.base == (60.0, 30.0) and row.new == (40.0, 10.0)
    assert row.h == 48.0  # the mean of the two H would be 41.25
    assert table.notes == [] and table.problems == []


def test_missing_and_unfinished_runs_are_named_and_left_out(tmp_path):
    write_both(tmp_path, 1, 80.0, 60.0)
    write_run(tmp_path, "train_base", 2, 99.0)
    torn = write_run(tmp_path, "test_new", 3, 99.0, done=False)
    write_run(tmp_path, "train_base", 3, 99.0)
    table = results.base2new(tmp_path)
    assert table.rows[0].seeds == (1,) and table.rows[0].base == (80.0, 0.0)
    assert f"unfinished: {torn}" in table.notes
    assert "missing: test_new of CoOp (vit_b16) on dtd, 16 shots, seed 2" in table.notes and len(table.notes) == 2
    assert table.problems == []


def test_a_setting_without_one_whole_seed_still_has_its_row(tmp_path):
    write_run(tmp_path, "train_base", 1, 80.0)
    table = results.base2new(tmp_path)
    assert table.rows[0].seeds == () and table.rows[0].h is None and len(table.notes) == 1
    assert results.render(table.rows, "text").splitlines()[-1].split()[-3:] == ["-", "-", "-"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"test": {"accur', "half-written"),
        ("", "half-written"),
        ("[]", "half-written or damaged"),
        ('{"val": {"accuracy": 1.0}}', "no entry 'test'"),
        ('{"test": {"accuracy": NaN}}', "expected a number"),
        ('{"test": {"accuracy": "80"}}', "expected a number"),
        (None, "does not exist"),
    ],
)
def test_damaged_files_are_named_and_nothing_else_is_lost(content, words, tmp_path):
    write_both(tmp_path, 1, 80.0, 60.0)
    write_run(tmp_path, "train_base", 2, 70.0)
    path = write_run(tmp_path, "test_new", 2, 70.0) / "results.json"
    path.unlink() if content is None else path.write_text(content)
    table = results.base2new(tmp_path)
    assert table.rows[0].seeds == (1,)
    assert len(table.problems) == 1 and str(path) in table.problems[0] and words in table.problems[0]


def test_two_configs_under_one_name(tmp_path):
    write_both(tmp_path, 1, 80.0, 60.0)
    write_run(tmp_path, "train_base", 2, 80.0, lr=0.2)
    write_run(tmp_path, "test_new", 2, 60.0)
    (problem,) = results.base2new(tmp_path).problems
    assert problem.endswith("OPTIM.LR") and "seed2" in problem and "seed1" in problem


def test_order_of_rows_and_both_styles(tmp_path):
    for trainer in ("MoCoOp", "CoOp", "ZeroshotCLIP", "Another"):
        write_both(tmp_path, 1, 80.0, 60.0, trainer=trainer)
    write_both(tmp_path, 1, 70.25, 70.25, dataset="caltech101")
    rows = results.base2new(tmp_path).rows
    names = [(row.setting.dataset, row.setting.trainer) for row in rows]
    expected = [("dtd", name) for name in ("ZeroshotCLIP", "CoOp", "MoCoOp", "Another")]
    assert names == [("caltech101", "CoOp"), *expected]
    text = results.render(rows[:1], "text").splitlines()
    assert text[-1].split() == "caltech101 16 CoOp vit_b16 1 70.25 ± 0.00 70.25 ± 0.00 70.25".split()
    markdown = results.render(rows[:1], "markdown").splitlines()
    assert [cell.strip() for cell in markdown[-1].strip("|").split("|")][-1] == "70.25"
    assert len(results.base2new(tmp_path, dataset="dtd").rows) == 4


def test_shots_are_kept_apart_and_strange_folders_ignored(tmp_path):
    write_both(tmp_path, 1, 80.0, 60.0, shots=4)
    write_both(tmp_path, 1, 80.0, 60.0, shots=16)
    (tmp_path / "base2new/train_base/dtd/shots_x/CoOp/vit_b16/seed1").mkdir(parents=True)
    (tmp_path / "base2new/train_base/dtd/shots_4/CoOp/vit_b16/seed_old").mkdir(parents=True)
    assert [row.setting.shots for row in results.base2new(tmp_path).rows] == [4, 16]


def command(*args, cwd):
    call = [sys.executable, "-X", "importtime", "-m", "mocoop.results", *map(str, args)]
    return subprocess.run(call, cwd=cwd, capture_output=True, text=True, timeout=60)


def test_the_command_without_torch(tmp_path):
    write_both(tmp_path / "output", 1, 82.69, 63.22)
    done = command("output/", cwd=tmp_path)
    assert done.returncode == 0 and "82.69 ± 0.00  63.22 ± 0.00  71.66" in done.stdout
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "tabulate" in modules and not modules & {"torch", "numpy"}


def test_the_command_on_an_empty_folder(tmp_path):
    assert results.main([str(tmp_path)]) == 1
    done = command(tmp_path / "nothing", cwd=tmp_path)
    assert done.returncode == 1 and "no runs found" in done.stderr and "Traceback" not in done.stderr


def test_the_command_prints_the_table_beside_an_error(tmp_path, capsys):
    write_both(tmp_path, 1, 80.0, 60.0)
    write_run(tmp_path, "train_base", 2, 1.0)
    (write_run(tmp_path, "test_new", 2, 1.0) / "results.json").write_text("{")
    assert results.main([str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "68.57" in out and "seed2/results.json" in err  # 9600 / 140
