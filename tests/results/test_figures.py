"""Figures show the table's numbers, and come out small, the same each time, without a display."""

import math
from dataclasses import replace

import pytest
from mocoop import methods, results
from mocoop.results import figures

pytest.importorskip("matplotlib")
METHODS = ("ZeroshotCLIP", "CoOp", "MoCoOp")


@pytest.fixture()
def drawn(monkeypatch):
    """Figures that are 'saved' end up in this list."""
    kept = []
    monkeypatch.setattr(figures, "save", lambda figure, path: kept.append(figure) or path)
    return kept


@pytest.fixture()
def full(write_both, write_run, output):
    """Runs of every protocol; MoCoOp also with a tag."""
    for i, method in enumerate(METHODS):
        for seed in (1, 2):
            routing = [0.25 * seed, 1 - 0.25 * seed] if method == "MoCoOp" else None
            more = {"method": method, "routing": routing}
            write_both(seed, 70.0 + i + seed, 60.0 - i - seed, **more)
            for shots in (1, 4) if i else (4,):
                write_run(f"fewshot/dtd/shots_{shots}", seed, 50.0 + i * shots * seed, **more)
            write_run("source/dtd/shots_16", seed, 60.0 + i, **more)
            for target in ("sun397", "ucf101"):
                write_run(f"cross_dataset/dtd/{target}/shots_16", seed, 40.0 + i, **more)
            write_run("domain_generalization/dtd/dtd_dark/shots_16", seed, 30.0 + i, **more)
    write_both(1, 99.0, 99.0, method="MoCoOp", config="vit-topk1")
    return results.collect(output)


def test_all_figures(full, tmp_path):
    first, again = (figures.draw_all(full, tmp_path / name) for name in ("a", "b"))
    assert sorted(path.name for path in first) == [
        "base2new_h.png",
        "base2new_scatter.png",
        "cross_dataset_dtd.png",
        "domain_generalization_dtd.png",
        "fewshot_curves.png",
        "routing_MoCoOp_dtd_16shots_all.png",
        "routing_MoCoOp_dtd_16shots_base.png",
        "routing_MoCoOp_dtd_16shots_datasets.png",
        "routing_MoCoOp_dtd_16shots_new.png",
    ]
    for a, b in zip(first, again, strict=True):
        assert a.read_bytes()[:4] == b"\x89PNG" and a.stat().st_size < 100_000 and a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize(("suffix", "start"), [("pdf", b"%PDF-"), ("svg", b"<?xml")])
def test_vector_figures_are_the_same_each_time(full, tmp_path, suffix, start):
    first, again = (figures.draw_all(full, tmp_path / name, suffix=suffix) for name in ("a", "b"))
    assert len(first) == 9 and {path.suffix for path in first} == {f".{suffix}"}
    for a, b in zip(first, again, strict=True):
        assert a.read_bytes().startswith(start) and a.read_bytes() == b.read_bytes()


def test_fewshot_curves_show_the_means(full, drawn, tmp_path):
    (table,) = results.tables_of(full, "fewshot")
    figures.fewshot_curves(table, tmp_path / "x.png")
    axis = drawn[0].axes[0]
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.lines}
    assert lines["CoOp"] == ([1, 4], [51.5, 56.0])  # (51 + 52) / 2, (54 + 58) / 2
    assert lines["MoCoOp"] == ([1, 4], [53.0, 62.0])
    assert lines["ZeroshotCLIP"][1] == [50.0, 50.0] and lines["ZeroshotCLIP"][0] == [0, 1]  # from edge to edge
    band = axis.collections[0].get_paths()[0].get_extents()
    assert (band.ymin, band.ymax) == (51.0, 58.0)  # 51.5 - 0.5, 56 + 2


def test_bars_show_h_of_the_averages(full, drawn, tmp_path):
    (table,) = results.tables_of(full, "base2new")
    figures.h_bars(table, tmp_path / "x.png", interval=True)
    heights = [bar.get_height() for bar in drawn[0].axes[0].patches]
    expected = [results.harmonic(71.5 + i, 58.5 - i) for i in range(3)]  # the tagged MoCoOp is no bar
    assert heights == pytest.approx(expected)


def test_scatter_and_contours(full, drawn, tmp_path):
    (table,) = results.tables_of(full, "base2new")
    figures.base_new_scatter(table, tmp_path / "x.png")
    axis = drawn[0].axes[0]
    points = [tuple(c.get_offsets()[0]) for c in axis.collections if c.get_label() in METHODS]
    assert points == [(71.5, 58.5), (72.5, 57.5), (73.5, 56.5)]
    assert len(axis.lines) == len(axis.texts) > 0
    for line, text in zip(axis.lines, axis.texts, strict=True):
        h = float(text.get_text().removeprefix("H "))
        assert all(results.harmonic(x, y) == pytest.approx(h) for x, y in line.get_xydata())


def test_transfer_points(full, drawn, tmp_path):
    (table,) = results.tables_of(full, "cross_dataset")
    figures.transfer_bars(table, tmp_path / "x.png")
    axis = drawn[0].axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["dtd (source)", "sun397", "ucf101", "Average"]
    assert [list(c.lines[0].get_ydata()) for c in axis.containers][1] == [61.0, 41.0, 41.0, 41.0]


def test_routing_maps_are_means_over_seeds(full, drawn, tmp_path):
    figures.draw_routing(full, tmp_path)
    for figure in drawn:
        shares = figure.axes[0].images[0].get_array()
        assert shares[0].tolist() == pytest.approx([0.375] * shares.shape[1])  # (0.25 + 0.5) / 2
        assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a photo of a …", "… texture"]
    names = [[label.get_text() for label in figure.axes[0].get_xticklabels()] for figure in drawn]
    assert names[0] == ["ant", "bee"] and names[-1] == ["dtd", "sun397", "ucf101", "dtd_dark"]


def test_routing_of_other_experts_is_left_out(full, drawn, tmp_path):
    runs = [run for run in full.runs if run.setting.place.protocol == "source" and run.routing]
    runs[1].routing["test"]["experts"] = ["other", "experts"]
    figures.routing_by_class(full, runs[0].setting, tmp_path / "x.png")
    assert drawn[0].axes[0].images[0].get_array()[0].tolist() == [0.25, 0.25]
    coop = [run for run in full.runs if run.setting.method == "CoOp"][0]
    assert figures.routing_by_class(full, coop.setting, tmp_path / "y.png") is None and len(drawn) == 1


def test_many_classes_and_an_unknown_method(write_both, output, drawn, tmp_path):
    shares = [[1 / 130] * 130, [0.5] * 130]
    figures.heat_map(shares, ["one {}.", "a very long template about the picture of a {}."], ["x"] * 130, tmp_path, "t")
    assert drawn[0].axes[0].get_xlabel() == "130 classes in label order"
    assert len(drawn[0].axes[0].get_yticklabels()[1].get_text()) <= 34
    write_both(1, 80.0, 60.0, method="Mine")
    write_both(1, 80.0, 60.0, method="Yours")
    (table,) = results.tables_of(results.collect(output), "base2new")
    figures.h_bars(table, tmp_path / "x.png")
    assert len({bar.get_facecolor() for bar in drawn[1].axes[0].patches}) == 2


def test_a_look_that_a_row_takes_is_no_longer_one_for_unknown_methods(monkeypatch):
    rows = {"CoOp": methods.COOP}
    monkeypatch.setattr(figures, "rows_of_methods", lambda: rows)
    assert figures.style_of("Mine", ["CoOp", "Mine"]) == figures.OTHERS[0]
    rows["New"] = replace(methods.COOP, name="New", colour=figures.OTHERS[0][0], marker=figures.OTHERS[0][1])
    assert figures.style_of("New", ["New", "Mine"]) == figures.OTHERS[0]
    assert figures.style_of("Mine", ["New", "Mine"]) == figures.OTHERS[1]


def test_difference_plot(drawn, tmp_path):
    clear, unclear = results.Difference(2.0, 1.0, (1, 2)), results.Difference(-1.0, 3.0, (1, 2))
    figures.difference_plot([("a", clear), ("b", unclear), ("c", None)], tmp_path / "x.png", "points")
    axis = drawn[0].axes[0]
    points = [container.lines[0] for container in axis.containers]
    assert [(p.get_xdata()[0], p.get_ydata()[0]) for p in points] == [(2.0, 0), (-1.0, 1)]
    assert [p.get_markerfacecolor() for p in points] == ["#0072B2", "white"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("demo_icons_pixel", "demo_icons\npixel"),
        ("demo_icons (source)", "demo_icons\n(source)"),
        ("average of 3", "average of 3"),
        ("dtd", "dtd"),
    ],
)
def test_wrapped_names(name, lines):
    assert figures.wrapped(name) == lines


def test_spread_of_a_cell():
    cell = results.Cell(2.0, {1: 1.0, 2: 3.0})
    assert figures.spread(cell, False) == 1.0
    assert figures.spread(cell, True) == pytest.approx(12.7062 * math.sqrt(2) / math.sqrt(2), rel=1e-5)
    assert (
        figures.spread(results.Cell(2.0, {1: 2.0}), True) == 0.0 and figures.spread(results.Cell(2.0, {}), False) == 0
    )
