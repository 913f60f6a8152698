"""The work of each of several processes, counted in real ones."""

import json

import pytest
from mocoop.benchmarks import ranks


@pytest.mark.slow
def test_two_processes_do_half_of_the_text_each(tmp_path, capsys):
    arguments = ["--backbone", "tiny", "--present", "40", "--known", "40", "--batch", "4", "--threads", "1"]
    assert ranks.main([*arguments, "--ranks", "1", "2", "--json", str(tmp_path / "found.json")]) == 0
    alone, both = json.loads((tmp_path / "found.json").read_text())["points"]
    assert len(both["each"]) == 2 and both["most"]["text"] == max(each["text"] for each in both["each"])
    total = sum(each["text"] for each in both["each"])
    assert total == pytest.approx(alone["most"]["text"], rel=0.1)  # fronts are encoded by both
    assert 0.4 < both["most"]["text"] / alone["most"]["text"] < 0.6
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 ")


def test_no_process_at_all_is_refused(capsys):
    with pytest.raises(SystemExit):
        ranks.main(["--ranks", "0"])
    assert "--ranks must be at least 1, found 0" in capsys.readouterr().err
