"""What is measured is what is said: operations by hand arithmetic, figures from known times, the commands on a toy."""

import json
import multiprocessing
import weakref
from types import SimpleNamespace

import pytest
import torch
from mocoop.benchmarks import machine, report, scale, step
from mocoop.benchmarks.cases import Case, estimate
from mocoop.benchmarks.worker import Measured, Worker, WorkerError, count_flops, serve
from torch.utils.checkpoint import checkpoint


def case(*arguments):
    return step.make_case(step.build_parser().parse_args(arguments))


# ---- operations


def tower(prompts, rows, width, layers):
    """Floating-point operations of a transformer, counted by hand: qkv, output, MLP; scores and their use."""
    linear = 2 * rows * width * (3 * width + width + 8 * width)
    return prompts * layers * (linear + 2 * 2 * rows * rows * width)


def test_operations_of_the_plain_path_by_hand():
    measured = Measured(Case("CoOp", "tiny", present=3, known=3, batch=2, evaluate=True), plain=True)
    text = tower(3, 77, 32, 2) + 3 * 2 * 32 * 16
    image = 2 * 4 * 2 * (3 * 16 * 16) * 32 + tower(2, 5, 32, 1) + 2 * 2 * 32 * 16
    assert count_flops(measured.infer) == text + image + 2 * 2 * 16 * 3
    answer = measured.warm_up()
    assert answer["flops"] == answer["flops_first"]  # everything is encoded again for every batch


def test_operations_of_attention_by_hand():
    """[2, 3, L, 8]: two products forward, five backward (the scores are computed again)."""
    query, key, value = (torch.randn(2, 3, rows, 8, requires_grad=True) for rows in (5, 7, 7))
    product = 2 * (2 * 3) * 5 * 7 * 8

    def forward():
        return torch.nn.functional.scaled_dot_product_attention(query, key, value)

    assert count_flops(forward) == 2 * product
    assert count_flops(lambda: forward().sum().backward()) == 7 * product


def test_our_evaluation_encodes_text_once_and_again_when_told():
    measured = Measured(Case("MoCoOp", "tiny", present=3, known=5, batch=2, evaluate=True), plain=False)
    answer = measured.warm_up()
    assert answer["flops_first"] > 3 * answer["flops"]
    assert answer["slices"] == 1 and answer["rows"] > 6 * 3
    again = measured.step()
    assert again["first"] > 0 and again["seconds"] > 0
    assert count_flops(measured.infer) == answer["flops"]


def test_training_counts_text_rows_and_slices():
    whole = Measured(Case("MoCoOp", "tiny", present=3, known=5, batch=2), plain=False).warm_up()
    cut = Measured(Case("MoCoOp", "tiny", present=3, known=5, batch=2, chunk=12), plain=False).warm_up()
    assert (whole["slices"], cut["slices"]) == (1, 3)  # 12 prompts are 2 classes of 6 experts
    assert cut["flops"] > whole["flops"]  # encoded once more in the backward pass


def test_counting_keeps_no_graph_alive():
    """What a slice computes again for its backward pass is gone before the next slice, counted or not."""
    layer, seen = torch.nn.Linear(4, 4), []

    class Node(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            seen.append(weakref.ref(ctx))
            return x.exp()

        @staticmethod
        def backward(ctx, grad):
            return grad

    def encode(x):
        return layer(Node.apply(x)).sin()

    def two_slices():
        for _ in range(2):
            x = torch.ones(3, 4, requires_grad=True)
            checkpoint(encode, x, use_reentrant=False).sum().backward()
            assert [ref() for ref in seen] == [None] * len(seen)

    # twice forward, and backward to the input and to the weight
    assert count_flops(two_slices) == 2 * 4 * (2 * 3 * 4 * 4)
    assert len(seen) == 4


# ---- figures


def made_up(name, seconds, evaluate=False, free=20e9, **more):
    """The record of a measurement with these seconds (plain, ours), 100 GFLOP and 10 GB against 40 GFLOP and 2 GB."""
    steps = [
        [{"seconds": s, "busy": 0.9, "peak": gb * 1e9} | ({"first": 11 * s} if evaluate else {}) for s in times]
        for times, gb in zip(seconds, (10, 2), strict=True)
    ]
    warm = [{"flops": f, "before": 1e9, "peak": 1.5e9, "rows": 9, "slices": 1} for f in (100e9, 40e9)]
    found = {
        "processor": {"threads": 2, "gpu": None},
        "peak": {"flops": 200e9, "dtype": "float32", "size": 1024},
        "answers": {k: {"warm_up": w, "steps": s} for k, w, s in zip(("plain", "ours"), warm, steps, strict=True)},
        "text": {"seconds": {"median": 0.25, "min": 0.2, "max": 0.3}, "times": [0.25], "flops": 30e9},
        "skipped": None,
        **more,
    }
    return step.record(name, machine.describe(), found, together=True, batches=10)


def test_figures_come_from_the_times():
    got = made_up(Case(), [(8.0, 4.0, 9.0), (1.0, 2.0, 1.5)])
    assert got["ratio"] == {"median": 6.0, "min": 2.0, "max": 8.0, "pairs": [8.0, 2.0, 6.0]}
    assert got["ours"]["seconds"] == {"median": 1.5, "min": 1.0, "max": 2.0}
    assert got["ours"]["memory"] == {"before": 1e9, "peak": 2e9, "step": 1e9}
    assert got["memory_ratio"] == pytest.approx(0.2)
    assert got["ours"]["share"] == pytest.approx(40 / 1.5 / 200)
    assert got["text"]["share"] == pytest.approx(30 / 0.25 / 200)
    assert json.loads(json.dumps(got)) == got  # plain data
    assert "6.00 times faster (2.00 to 8.00), 0.20 of the memory" in step.show(got)


def test_a_test_splits_batches_share_the_first_ones_work():
    got = made_up(Case(evaluate=True), [(5.0,), (1.0,)], evaluate=True)
    assert got["ours"]["times"] == [pytest.approx(1 + 10 / 10)]  # 11 s for the first of ten batches, 1 s for each later
    assert got["ours"]["first_batch"]["median"] == 11 and got["ours"]["later_batch"]["median"] == 1


@pytest.mark.parametrize(
    "arguments, gigabytes",
    [
        ("--present 5 --all 10", 5.7),
        ("--present 20 --all 40", 16.4),
        ("--present 20 --all 40 --frozen", 15.9),
        ("--method CoOp --present 50", 3.8),
        ("--method CoCoOp --present 10", 3.2),
        ("--present 20 --all 40 --eval", 1.8),
    ],
)
def test_the_estimate_is_near_what_was_once_measured(arguments, gigabytes):
    assert estimate(case(*arguments.split()), 20e9).plain / 1e9 == pytest.approx(gigabytes, rel=0.3)


def test_what_does_not_fit_is_skipped():
    needs = estimate(case("--present", "50", "--all", "100"), 22e9)
    assert needs.plain > 24e9 > 15e9 > needs.ours
    why = step.why_skipped(True, False, needs, 22e9)
    assert "GB, 22.0 GB are free" in why["reason"]
    got = made_up(Case(), [(8.0,), (1.0,)], skipped=why)
    assert "ratio" not in got and "plain path skipped: would need about" in step.show(got)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--present 5 --all 3", "1 <= --present <= --all, found 5 and 3"),
        ("--method CoOp --frozen", "--frozen and --all mean nothing to CoOp"),
        ("--method LASP --experts 3", "--experts is MoCoOp's"),
        ("--batch 0", "must be at least 1"),
    ],
)
def test_contradictions_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        step.main(arguments.split())
    assert stop.value.code == 2 and message in capsys.readouterr().err


# ---- the commands


def test_step_on_a_toy(tmp_path, capsys):
    file = tmp_path / "new" / "step.json"
    arguments = "--backbone tiny --present 2 --all 3 --batch 2 --repeats 2 --threads 1 --profile --json"
    assert step.main([*arguments.split(), str(file)]) == 0
    got = json.loads(file.read_text())
    assert set(got) >= {"case", "machine", "versions", "peak", "ours", "plain", "text", "ratio", "memory_ratio"}
    assert got["alternating"] and len(got["ratio"]["pairs"]) == 2 and got["machine"]["threads"] == 1
    assert got["plain"]["flops"] > 5 * got["ours"]["flops"] > 5 * got["text"]["flops"] > 0
    for path in ("plain", "ours"):
        assert 0 < got[path]["memory"]["step"] < got[path]["memory"]["peak"] < 4e9
    out = capsys.readouterr().out
    assert got["title"] in out and "times faster" in out and "operation (our path)" in out
    assert report.main([str(file), "--out", str(tmp_path / "page.md")]) == 0
    assert got["title"] in (tmp_path / "page.md").read_text()


def test_scale_on_a_toy_and_what_fails_is_said(tmp_path, monkeypatch, capsys):
    measured = []

    def point(case, repeats):
        measured.append(case)
        return real(case, repeats) if case.present == 2 else {"case": {}, "failed": "no memory"}

    real = scale.measure_point
    monkeypatch.setattr(scale, "measure_point", point)
    file = tmp_path / "scale.json"
    arguments = "--backbone tiny --base 2 1 2 --classes 2 3 --experts 1 --batches 2 --repeats 1 --threads 1 --json"
    assert scale.main([*arguments.split(), str(file)]) == 1
    points = json.loads(file.read_text())["points"]
    assert [(p["axis"], p["value"], "failed" in p) for p in points] == [
        ("classes", 2, False),
        ("classes", 3, True),
        ("experts", 1, False),
        ("batch", 2, False),
    ]
    assert len(measured) == 2  # the same point is measured once
    assert points[0]["slices"] == 1 and points[0]["seconds"]["median"] > 0
    assert "no memory" in capsys.readouterr().out


def test_a_process_that_fails_or_is_ended_says_so(monkeypatch):
    monkeypatch.setattr(machine, "end_this_process_first", lambda: None)  # the process is this one
    worker = Worker.__new__(Worker)
    worker.name, worker.process = "our path", SimpleNamespace(join=lambda: None, exitcode=-9)
    worker.pipe, theirs = multiprocessing.Pipe()
    serve(theirs, Case(backbone="no such thing"), plain=False)
    with pytest.raises(WorkerError, match="(?s)our path failed.*no such thing"):
        worker.receive()
    theirs.close()
    with pytest.raises(WorkerError, match="exit code -9 .*lack of memory"):
        worker.receive()


# ---- growth and the page


def grown(axis, values, seconds):
    memory = [{"before": 1e9, "peak": 1e9 + 1e8 * v, "step": 1e8 * v} for v in values]
    return [
        {"axis": axis, "value": v, "seconds": dict.fromkeys(("median", "min", "max"), s), "memory": m}
        | {"flops": 1e9 * v, "rows": v, "slices": 1}
        for v, s, m in zip(values, seconds, memory, strict=True)
    ]


def test_growth_is_an_exponent():
    assert scale.growth(grown("classes", [10, 20, 1000], [1.0, 3.0, 10.0])) == [
        "classes 10 -> 1000: time x 10.00 (exponent 0.50), memory that a step adds x 100.00"
    ]


def test_the_figure_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    points = grown("classes", [10, 100], [1.0, 9.0]) + grown("batch", [1, 4], [1.0, 2.0])
    points.append({"axis": "batch", "value": 8, "failed": "no memory"})
    files = [tmp_path / "a.svg", tmp_path / "b.svg"]
    for file in files:
        scale.draw(points, file, "a title")
    assert files[0].read_bytes() == files[1].read_bytes() and b"</svg>" in files[0].read_bytes()


def test_the_page_judges_the_targets(tmp_path):
    good = made_up(case("--present", "20", "--all", "40"), [(8.0, 8.0), (1.0, 1.0)])
    bad = made_up(case("--method", "CoOp", "--present", "50"), [(3.0, 3.0), (1.0, 1.0)])
    bad["profile"] = [{"name": "aten::mm", "calls": 7, "seconds": 0.5, "share": 0.5}]
    curve = {"kind": "scale", "title": "growing", "points": grown("classes", [10, 20], [1.0, 2.0])}
    curve |= {"machine": good["machine"], "versions": good["versions"]}
    files = []
    for name, content in {"good": good, "bad": bad, "curve": curve}.items():
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps(content))
    (tmp_path / "notes.md").write_text("As it were.\n")
    page = tmp_path / "docs" / "page.md"
    more = ["--figure", str(tmp_path / "docs/growth.svg"), "--notes", str(tmp_path / "notes.md")]
    assert report.main([*map(str, files), "--out", str(page), *more]) == 0
    lines = page.read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert ["MoCoOp training, 20 / 40: faster", "at least 7 times", "8 times", "reached"] in cells
    assert ["MoCoOp training, 20 / 40: share of the plain path's memory", "at most 0.25", "0.2", "reached"] in cells
    assert ["CoOp training, 50 classes: faster", "at least 4 times", "3 times", "**not reached**"] in cells
    assert ["CoCoOp training, 10 classes: faster", "at least 4 times", "not measured", ""] in cells
    assert ["aten::mm", "7", "0.500", "50%"] in cells
    assert "![Time and memory of a step over classes, experts and batch](growth.svg)" in lines
    assert "- classes 10 -> 20: time x 2.00 (exponent 1.00), memory that a step adds x 2.00" in lines
    assert lines[-1] == "As it were." and page.read_text().count(good["machine"]["cpu"]) == 1


def test_other_files_are_refused(tmp_path, capsys):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(SystemExit):
        report.main([str(tmp_path / "x.json"), "--out", str(tmp_path / "page.md")])
    assert "not a measurement of mocoop.benchmarks" in capsys.readouterr().err
