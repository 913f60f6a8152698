"""The tables of the four protocols against numbers worked out by hand."""

import pytest
from mocoop import results
from mocoop.results import Cell
from mocoop.results.render import best_cells
from mocoop.results.tables import joined

BASE, NEW = "base2new/train_base/dtd/shots_16", "base2new/test_new/dtd/shots_16"


def table_of(output, protocol="base2new"):
    (table,) = results.tables_of(results.collect(output), protocol)
    return table


def means(row):
    return [cell and pytest.approx(cell.mean) for cell in row.cells]


def test_h_is_of_the_averages_not_the_average_of_h(write_both, output):
    write_both(1, 90.0, 30.0)
    write_both(2, 30.0, 50.0)
    table = table_of(output)
    (row,) = table.rows
    assert (row.group, row.method, row.config, row.seeds) == (("dtd", "16"), "CoOp", "vit", (1, 2))
    assert row.cells[:2] == (Cell(60.0, {1: 90.0, 2: 30.0}), Cell(40.0, {1: 30.0, 2: 50.0}))
    assert row.cells[2] == Cell(48.0, {1: 45.0, 2: 37.5})  # the mean of the two H would be 41.25
    assert table.notes == []


def test_missing_and_unfinished_runs_are_named_and_left_out(write_both, write_run, output):
    write_both(1, 80.0, 60.0)
    write_run(BASE, 2, 99.0)
    torn = write_run(NEW, 3, 99.0, done=False)
    write_run(BASE, 3, 99.0)
    write_both(4, 80.0, 60.0, method="LASP")
    write_both(4, 70.0, 70.0, method="ZeroshotCLIP")  # has nothing to train: other seeds are not expected
    table = table_of(output)
    assert results.tables_of(results.collect(output), "fewshot") == []
    coop = table.row(("dtd", "16"), "CoOp")
    assert coop.seeds == (1,) and coop.cells[0] == Cell(80.0, {1: 80.0})
    assert table.notes == [
        f"unfinished: {torn}",
        "missing: CoOp (vit), train_base on dtd, 16 shots, seed 4",
        "missing: CoOp (vit), test_new on dtd, 16 shots, seeds 2 4",
        "missing: LASP (vit), train_base on dtd, 16 shots, seeds 1 2 3",
        "missing: LASP (vit), test_new on dtd, 16 shots, seeds 1 2 3",
    ]


def test_a_setting_without_one_whole_seed_still_has_its_row(write_run, output):
    write_run(BASE, 1, 80.0)
    write_run(NEW, 2, 60.0)
    table = table_of(output)
    assert table.rows[0].cells == (None, None, None) and table.rows[0].seeds == () and len(table.notes) == 2
    assert results.render_table(table).splitlines()[-1].split()[-3:] == ["-", "-", "-"]


def test_the_half_that_is_done_is_shown(write_run, output):
    write_run(BASE, 1, 80.0)
    write_run(BASE, 2, 90.0)
    table = table_of(output)
    assert table.rows[0].cells == (Cell(85.0, {1: 80.0, 2: 90.0}), None, None)
    assert table.notes == ["missing: CoOp (vit), test_new on dtd, 16 shots, seeds 1 2"]
    write_run(NEW, 2, 60.0)  # then only seeds with both halves count
    assert [cell.mean for cell in table_of(output).rows[0].cells] == [90.0, 60.0, 72.0]


def test_the_best_of_each_group_and_column(write_both, output):
    write_both(1, 80.0, 60.0)
    write_both(1, 80.001, 50.0, method="LASP")  # as good, as printed
    write_both(1, 90.0, 90.0, dataset="eurosat")  # alone
    table = table_of(output)
    results.add_published(table)
    assert [row.method for row in table.rows[:3]] == ["CoOp", "LASP", "CoOp"]
    assert best_cells(table) == {(0, 0), (0, 1), (0, 2), (1, 0)}


def test_average_over_data_sets(write_both, output):
    write_both(1, 90.0, 30.0, dataset="dtd")
    write_both(2, 70.0, 30.0, dataset="dtd")
    write_both(1, 50.0, 50.0, dataset="eurosat")
    write_both(2, 30.0, 50.0, dataset="eurosat")
    write_both(1, 10.0, 10.0, dataset="dtd", method="LASP")
    table = table_of(output)
    (row,) = [row for row in table.rows if row.average]
    assert row.group == ("average of 2", "16") and row.method == "CoOp"
    assert row.cells[0] == Cell(60.0, {1: 70.0, 2: 50.0})  # (80 + 40) / 2; by seed (90 + 50) / 2, (70 + 30) / 2
    assert row.cells[1] == Cell(40.0, {1: 40.0, 2: 40.0})
    assert row.cells[2].mean == 48.0  # of the averages; the mean of 43.6 and 44.4 would be 44.0
    assert "no average over data sets of LASP (vit): no finished runs on eurosat" in table.notes


def test_average_over_data_sets_with_their_own_configs(write_both, output):
    write_both(1, 80.0, 60.0, dataset="dtd", config="ep50")
    write_both(1, 70.0, 60.0, dataset="dtd", config="ep50-topk1")
    write_both(1, 60.0, 40.0, dataset="eurosat", config="ep300")
    table = table_of(output)
    (row,) = [row for row in table.rows if row.average]
    assert row.config == "per data set" and means(row) == [70.0, 50.0, pytest.approx(700 / 12)]
    assert [note for note in table.notes if "average" in note] == [
        "no average over data sets of CoOp (ep50-topk1): no finished runs on eurosat"
    ]


def test_average_of_different_seeds_has_no_spread(write_both, output):
    write_both(1, 80.0, 60.0, dataset="dtd")
    write_both(2, 60.0, 40.0, dataset="eurosat")
    table = table_of(output)
    assert table.rows[-1].cells[0] == Cell(70.0, {})
    assert results.render_table(table).splitlines()[-1].split()[-4:] == ["-", "70.00", "50.00", "58.33"]


def test_order_of_rows_and_shots_apart(write_both, output):
    for method in ("MoCoOp", "CoOp", "ZeroshotCLIP", "Another"):
        write_both(1, 80.0, 60.0, method=method)
    write_both(1, 80.0, 60.0, method="CoOp", shots=4)
    write_both(1, 80.0, 60.0, dataset="caltech101")
    names = [(row.group, row.method) for row in table_of(output).rows if not row.average]
    sixteen = [(("dtd", "16"), name) for name in ("ZeroshotCLIP", "CoOp", "MoCoOp", "Another")]
    assert names == [(("caltech101", "16"), "CoOp"), (("dtd", "4"), "CoOp"), *sixteen]


def test_fewshot_with_a_constant(write_run, output):
    for shots, values in {1: (40.0, 44.0), 16: (60.0, 66.0)}.items():
        for seed, value in enumerate(values, 1):
            write_run(f"fewshot/dtd/shots_{shots}", seed, value)
    write_run("fewshot/dtd/shots_2", 1, 50.0)
    write_run("fewshot/dtd/shots_16", 1, 45.0, method="ZeroshotCLIP")
    write_run("fewshot/dtd/shots_2", 1, 1.0, method="LASP")
    table = table_of(output, "fewshot")
    assert table.columns == ("1 shot", "2 shots", "16 shots") and table.heads == ("Data set",)
    zero, coop, lasp = table.rows
    assert means(zero) == [45.0, 45.0, 45.0] and means(coop) == [42.0, 50.0, 63.0] and means(lasp) == [None, 1.0, None]
    assert table.notes[-1] == "[n]: the mean of n seeds, where the row's other numbers have more"
    assert [note.removeprefix("missing: ") for note in table.notes[:-1]] == [
        "CoOp (vit), fewshot on dtd, 2 shots, seed 2",
        "LASP (vit), fewshot on dtd, 1 shot, seeds 1 2",
        "LASP (vit), fewshot on dtd, 2 shots, seed 2",
        "LASP (vit), fewshot on dtd, 16 shots, seeds 1 2",
    ]
    line = results.render_table(table).splitlines()[3]
    assert "1 2" in line and "  50.00 [1]  " in line and "63.00 ± 3.00" in line  # one of the row's two seeds


def test_fewshot_constant_at_shots_that_nothing_was_trained_with(write_run, output):
    write_run("fewshot/dtd/shots_1", 1, 40.0)
    write_run("fewshot/dtd/shots_16", 1, 45.0, method="ZeroshotCLIP")
    torn = write_run("fewshot/dtd/shots_16", 2, 45.0, method="ZeroshotCLIP", done=False)
    table = table_of(output, "fewshot")
    assert table.columns == ("1 shot",) and [means(row) for row in table.rows] == [[45.0], [40.0]]
    assert table.notes == [f"unfinished: {torn}"]


def test_fewshot_average(write_run, output):
    for dataset, shift in (("dtd", 0.0), ("eurosat", 20.0)):
        for shots in (1, 16):
            write_run(f"fewshot/{dataset}/shots_{shots}", 1, 40.0 + shift + shots)
    table = table_of(output, "fewshot")
    assert table.rows[-1].group == ("average of 2",) and means(table.rows[-1]) == [51.0, 66.0]


def transfer(write_run, method, source, targets, seed=1, protocol="cross_dataset"):
    write_run("source/imagenet/shots_16", seed, source, method=method)
    for target, value in targets.items():
        write_run(f"{protocol}/imagenet/{target}/shots_16", seed, value, method=method)


def test_cross_dataset(write_run, output):
    transfer(write_run, "CoOp", 70.0, {"dtd": 40.0, "eurosat": 50.0})
    transfer(write_run, "CoOp", 72.0, {"dtd": 44.0, "eurosat": 60.0}, seed=2)
    transfer(write_run, "LASP", 71.0, {"dtd": 45.0})
    table = table_of(output, "cross_dataset")
    assert table.columns == ("imagenet (source)", "dtd", "eurosat", "Average")
    coop, lasp = table.rows
    assert coop.group == ("imagenet", "16") and means(coop) == [71.0, 42.0, 55.0, 48.5]  # the source is not averaged
    assert coop.cells[3].values == {1: 45.0, 2: 52.0}
    assert means(lasp) == [71.0, 45.0, None, None]
    assert "no average over targets of LASP (vit): no value on eurosat" in table.notes
    assert "missing: LASP (vit), cross_dataset on imagenet to eurosat, 16 shots, seeds 1 2" in table.notes
    assert "missing: LASP (vit), source on imagenet, 16 shots, seed 2" in table.notes


def test_domain_generalization_shares_the_source(write_run, output):
    transfer(write_run, "CoOp", 70.0, {"imagenet_r": 40.0}, protocol="domain_generalization")
    write_run("domain_generalization/dtd/dtd_dark/shots_16", 1, 10.0)
    first, second = results.tables_of(results.collect(output), "domain_generalization")
    assert first.name == "Domain generalization from dtd" and first.columns[:2] == ("dtd (source)", "dtd_dark")
    assert first.notes == ["missing: CoOp (vit), source on dtd, 16 shots, seed 1"]
    assert means(second.rows[0]) == [70.0, 40.0, 40.0] and second.notes == []


def test_mixed_runs_are_not_averaged(write_both, write_run, output):
    write_both(1, 80.0, 60.0)
    write_run(BASE, 2, 90.0, lr=0.5)
    write_run(NEW, 2, 60.0)
    assert table_of(output).rows[0].cells[0] is None


def test_unknown_protocol(write_both, output):
    write_both(1, 80.0, 60.0)
    with pytest.raises(ValueError, match="unknown protocol 'xd'"):
        results.tables_of(results.collect(output), "xd")


def test_compare_pairs_seeds(write_both, output):
    for seed, (a, b) in {1: (80.0, 79.0), 2: (82.0, 80.0), 3: (84.0, 81.0)}.items():
        write_both(seed, a, 50.0, method="MoCoOp")
        write_both(seed, a + 9, 50.0, method="MoCoOp", config="vit-topk1")
        write_both(seed, b, 50.0)
    write_both(7, 81.0, 60.0, method="ZeroshotCLIP")
    table = table_of(output)
    (one,) = results.compare(table, "MoCoOp", "CoOp")  # MoCoOp alone is its config "vit"
    base, new, h = one.differences
    assert (base.mean, base.seeds) == (2.0, (1, 2, 3)) and base.half_width == pytest.approx(2.484138, abs=1e-6)
    assert (new.mean, new.half_width) == (0.0, 0.0)
    own = [results.harmonic(a, 50.0) - results.harmonic(b, 50.0) for a, b in ((80, 79), (82, 80), (84, 81))]
    assert h.mean == pytest.approx(sum(own) / 3)
    (one,) = results.compare(table, "MoCoOp/vit-topk1", "MoCoOp")
    assert one.differences[0].mean == 9.0
    (one,) = results.compare(table, "MoCoOp", "ZeroshotCLIP")  # the constant is compared with every seed
    assert one.differences[0].seeds == (1, 2, 3) and one.differences[0].mean == 1.0
    assert results.compare(table, "MoCoOp", "LASP") == []


def test_published_rows_are_marked_and_agree_with_their_h(write_both, write_run, output):
    write_both(1, 80.0, 60.0)
    table = table_of(output)
    results.add_published(table)
    rows = [row for row in table.rows if row.published]
    assert [row.method for row in rows][:3] == ["CLIP", "CoOp", "CoCoOp"] and "MoCoOp" not in {r.method for r in rows}
    for row in rows:
        base, new, h = (cell.mean for cell in row.cells)
        assert results.harmonic(base, new) == pytest.approx(h, abs=0.015)
    line = [line for line in results.render_table(table, "markdown").splitlines() if "CoCoOp" in line][0]
    assert "published average of 11" in line and "| published |" in line and "80.47" in line
    assert "other people's numbers" in table.notes[-1]
    assert table.row(rows[0].group, "CoOp") is None  # never compared with
    write_run("fewshot/dtd/shots_1", 1, 40.0)
    few = table_of(output, "fewshot")
    results.add_published(few)
    assert len(few.rows) == 1 and "none stated" in few.notes[-1]


def test_many_seeds_in_a_row_are_told_by_the_first_and_the_last():
    assert joined([]) == "" and joined([1, 2, 3, 4, 5]) == "1 2 3 4 5"
    assert joined([0, 2, 3, 4, 5, 6, 7, 9]) == "0 2-7 9" and joined(range(1, 335)) == "1-334"
