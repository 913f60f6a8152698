"""How far a run is, from what it prints; and what a terminal shows of several."""

import io
import re
import sys

import pytest
from mocoop.runs import board

LINE = "epoch [{}/{}] batch [{}/{}] time 0.1 (0.1) data 0.0 (0.0) loss 1.2 (1.3) acc 50.0 (51.0) lr 1e-3 eta 0:01\n"


@pytest.mark.parametrize(
    ("output", "share", "state"),
    [
        ("", 0, "starting"),
        ("Loading trainer: CoOp\n", 0, "starting"),
        (LINE.format(1, 4, 1, 2), 0.125, "epoch 1/4   12%"),
        (LINE.format(3, 4, 2, 2), 0.75, "epoch 3/4   75%"),
        (LINE.format(1, 4, 1, 2) + LINE.format(2, 4, 1, 2) + "epoch [3/4", 0.375, "epoch 2/4   38%"),
        (LINE.format(2, 4, 2, 2) + "Evaluate on the *val* set\n", 0.5, "epoch 2/4   50%"),
        (LINE.format(4, 4, 2, 2) + "Checkpoint saved to x\nFinish training\n", 1, "testing"),
        ("Evaluate on the *test* set\n", 0, "testing"),
        ("Evaluate on the *test* set\n" + LINE.format(1, 2, 1, 1), 0.5, "epoch 1/2   50%"),
    ],
)
def test_how_far_a_run_is(output, share, state):
    assert board.progress_of(output) == (share, state)


def test_the_end_of_a_file(tmp_path):
    assert board.tail_of(tmp_path / "absent") == ""
    (tmp_path / "file").write_text("ü" * 10 + "end")
    assert board.tail_of(tmp_path / "file", 3) == "end" and board.tail_of(tmp_path / "file") == "ü" * 10 + "end"


def test_a_line_per_running_run_and_a_bar_that_moves_with_them(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    shown = board.Board(4, 2, wanted=True)
    (tmp_path / "a").write_text(LINE.format(1, 2, 1, 1))
    shown.done = 1
    shown.update({0: ("CoOp, seed 1", tmp_path / "a"), 1: ("MoCoOp, seed 12", tmp_path / "b")})
    text = stream.getvalue()
    assert "  CoOp, seed 1     epoch 1/2   50%" in text and "  MoCoOp, seed 12  starting" in text
    assert re.search(r"1 of 4 runs  38%\|", text)  # one and a half of four
    shown.say("CoOp is done")
    shown.close()
    assert "\rCoOp is done\n" in stream.getvalue() or "\x1b[ACoOp is done\n" in stream.getvalue()


def test_without_a_terminal_only_what_is_said_is_printed(tmp_path, capsys):
    shown = board.Board(4, 2, wanted=True)
    shown.update({0: ("CoOp", tmp_path / "a")})
    shown.say("line")
    shown.say("bad", error=True)
    shown.close()
    assert capsys.readouterr() == ("line\n", "bad\n") and not shown.shown
