"""`python -m mocoop.results`: what it prints, writes and refuses."""

import re
import subprocess
import sys

import pytest
from mocoop import results

BASE, NEW = "base2new/train_base/dtd/shots_16", "base2new/test_new/dtd/shots_16"


def command(*args, cwd):
    call = [sys.executable, "-X", "importtime", "-m", "mocoop.results", *map(str, args)]
    return subprocess.run(call, cwd=cwd, capture_output=True, text=True, timeout=60)


def test_the_command_without_torch(write_both, output, tmp_path):
    write_both(1, 82.69, 63.22)
    done = command("out/", cwd=tmp_path)
    assert done.returncode == 0 and "  82.69  63.22  71.66" in done.stdout
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "tabulate" in modules and not modules & {"torch", "numpy", "scipy", "matplotlib", "PIL"}


def test_intervals_need_no_torch_either(write_both, tmp_path):
    write_both(1, 82.0, 63.0)
    write_both(2, 84.0, 63.0)
    done = command("out/", "--ci95", cwd=tmp_path)
    assert "83.00 ± 12.71" in done.stdout and "half-width of the 95% interval" in done.stdout  # t(0.975, 1) = 12.706
    assert not {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()} & {"torch", "scipy.stats"}


def test_the_command_on_an_empty_folder(tmp_path):
    assert results.main([str(tmp_path)]) == 1
    done = command(tmp_path / "nothing", cwd=tmp_path)
    assert done.returncode == 1 and "no runs found" in done.stderr and "Traceback" not in done.stderr


def test_the_tables_are_printed_beside_an_error(write_both, write_run, output, capsys):
    write_both(1, 80.0, 60.0)
    write_run(BASE, 2, 1.0)
    (write_run(NEW, 2, 1.0) / "results.json").write_text("{")
    assert results.main([str(output)]) == 1
    out, err = capsys.readouterr()
    assert "68.57" in out and "seed2/results.json" in err  # 9600 / 140


def test_every_protocol_that_has_runs_is_printed(write_both, write_run, output, capsys):
    write_both(1, 80.0, 60.0)
    write_run("fewshot/dtd/shots_1", 1, 40.0)
    assert results.main([str(output)]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"^(\S+), accuracy in %", out, re.MULTILINE) == ["Base-to-new", "Few-shot"]
    assert results.main([str(output), "--protocol", "fewshot", "--format", "markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Few-shot, accuracy in %, one seed (test split)"
    assert [cell.strip() for cell in lines[-1].strip("|").split("|")] == ["dtd", "CoOp", "vit", "1", "40.00"]
    assert results.main([str(output), "--protocol", "cross_dataset"]) == 1
    assert "no runs found of cross_dataset; there are base2new, fewshot" in capsys.readouterr().err


def test_source_runs_alone_have_no_table(write_run, output, capsys):
    write_run("source/dtd/shots_16", 1, 40.0)
    assert results.main([str(output)]) == 1
    assert "a protocol with a table; there are source" in capsys.readouterr().err


LATEX = r"""% Note: missing: LASP (vit_b16), train_base on dtd, 16 shots, seed 2
% Note: missing: LASP (vit_b16), test_new on dtd, 16 shots, seed 2
\begin{table}[t]  % \usepackage{booktabs}
\centering
\caption{Base-to-new, accuracy in \%, mean $\pm$ population std over seeds, H of the averages BOLD.}
\label{tab:base-to-new}
\begin{tabular}{lrlllrrr}
\toprule
 Data set & Shots & Method & Config & Seeds & Base & New & H \\
\midrule
 dtd & 16 & CoOp & vit\_b16 & 1 2 & \textbf{81.00} $\pm$ 1.00 & 60.00 $\pm$ 0.00 & 68.94 \\
 dtd & 16 & LASP & vit\_b16 & 1 & \textbf{81.00} & \textbf{62.50} & \textbf{70.56} \\
\bottomrule
\end{tabular}
\end{table}
"""


def test_latex_with_caption_label_and_the_best_in_bold(write_both, output, capsys):
    write_both(1, 80.0, 60.0, config="vit_b16")
    write_both(2, 82.0, 60.0, config="vit_b16")
    write_both(1, 81.004, 62.5, config="vit_b16", method="LASP")  # the same base accuracy, as printed
    assert results.main([str(output), "--format", "latex"]) == 0
    assert re.sub(" +", " ", capsys.readouterr().out) == re.sub(
        " +", " ", LATEX.replace("BOLD", "(test split); bold: the highest")
    )
    assert results.main([str(output), "--format", "latex", "--compare", "CoOp", "LASP"]) == 0
    out = capsys.readouterr().out
    assert "\\caption{Base-to-new. Paired differences CoOp - LASP in percentage points, 95\\% " in out
    assert "\\label{tab:base-to-new-differences}" in out and out.count("\\begin{table}") == 2


def test_labels_of_transfers_differ_by_source(write_run, output, capsys):
    for source in ("dtd", "imagenet_a"):
        write_run(f"cross_dataset/{source}/eurosat/shots_16", 1, 40.0)
    assert results.main([str(output), "--format", "latex"]) == 0
    labels = re.findall(r"\\label{(.*)}", capsys.readouterr().out)
    assert labels == ["tab:cross-dataset-from-dtd", "tab:cross-dataset-from-imagenet-a"]


def test_csv_on_stdout(write_both, write_run, output, capsys):
    write_both(1, 80.0, 60.0)
    write_run("fewshot/dtd/shots_1", 1, 40.0)
    assert results.main([str(output), "--format", "csv", "--protocol", "base2new"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 * 5 and lines[1].startswith("base2new,test_new,dtd,16,CoOp,vit,1,test,accuracy,60.0")


def test_compare(write_both, output, capsys):
    for seed in (1, 2, 3):
        write_both(seed, 80.0 + 2 * seed, 60.0, method="MoCoOp")
        write_both(seed, 79.0 + seed, 60.0)
    assert results.main([str(output), "--compare", "MoCoOp", "CoOp"]) == 0
    out = capsys.readouterr().out
    assert "+3.00 [+0.52, +5.48]" in out and "+0.00 [+0.00, +0.00]" in out and "MoCoOp (vit) - CoOp (vit)" in out
    assert results.main([str(output), "--compare", "MoCoOp", "CoOp/other"]) == 1
    assert "no table has both MoCoOp and CoOp/other; there are CoOp/vit, MoCoOp/vit" in capsys.readouterr().err


def test_everything_is_written(write_both, write_run, output, tmp_path, capsys):
    write_both(1, 80.0, 60.0, method="MoCoOp", routing=[0.25, 0.75])
    write_run("fewshot/dtd/shots_1", 1, 40.0)
    assert results.main([str(output), "--out", str(tmp_path / "new/folder"), "--no-figures", "--published"]) == 0
    names = {path.name for path in (tmp_path / "new/folder").iterdir()}
    assert names == {"base2new.md", "base2new.tex", "fewshot.md", "fewshot.tex", "results.csv", "routing.csv"}
    assert "published" in (tmp_path / "new/folder/base2new.md").read_text()
    assert "published" not in (tmp_path / "new/folder/results.csv").read_text()
    routing = (tmp_path / "new/folder/routing.csv").read_text().splitlines()
    assert routing[1] == "base2new,test_new,dtd,16,MoCoOp,vit,1,test,0,a photo of a {}.,0.25"
    capsys.readouterr()
    assert results.main([str(output)]) == 0  # the same table from the folder and from the file
    from_folder = capsys.readouterr().out
    assert results.main([str(tmp_path / "new/folder/results.csv")]) == 0
    assert capsys.readouterr().out == from_folder


def test_without_matplotlib_the_tables_are_written_and_the_error_says_what_to_do(
    write_both, output, tmp_path, monkeypatch, capsys
):
    write_both(1, 80.0, 60.0)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert results.main([str(output), "--out", str(tmp_path / "tables")]) == 1
    assert "pip install 'mocoop[figures]'" in capsys.readouterr().err
    assert (tmp_path / "tables/base2new.md").is_file() and (tmp_path / "tables/results.csv").is_file()


def test_figures_of_several_kinds(write_run, output, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    write_run("fewshot/dtd/shots_1", 1, 40.0)
    assert results.main([str(output), "--out", str(tmp_path / "a"), "--figures", "pdf", "svg"]) == 0
    assert {path.name for path in (tmp_path / "a").glob("*curves*")} == {"fewshot_curves.pdf", "fewshot_curves.svg"}


@pytest.mark.parametrize("split", ["val", "test"])
def test_another_split(split, write_run, output, capsys):
    write_run("fewshot/dtd/shots_1", 1, 40.0)
    assert results.main([str(output), "--split", split]) == (split == "val")
    assert ("no entry 'val'" in capsys.readouterr().err) == (split == "val")
