"""The runner with a stand-in for train.py's main: order, skips, failures."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import mocoop
import pytest
from mocoop import train
from mocoop.config import ConfigError
from mocoop.runs import pool as runner
from mocoop.runs import protocols
from mocoop.runs.folder import read_failure, up_to_date
from mocoop.runs.owner import owning
from mocoop.runs.pool import Job

ROOT = Path(mocoop.__file__).parent
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="stand-ins reach the runs by fork only")


def job(folder, *words, model=None):
    return Job(folder, tuple(map(str, (folder, *words))), model)


def run_jobs(jobs, workers=1):
    return runner.run_jobs(jobs, train.main, train.config_of, workers)


@pytest.fixture()
def calls(tmp_path, monkeypatch):
    """Stand-in for a run: notes its call, then does as its arguments say."""
    log = tmp_path / "calls"
    log.touch()

    def main(argv):
        folder = Path(argv[0])
        with log.open("a") as stream:
            stream.write(f"{folder.name}\n")
        folder.mkdir(parents=True, exist_ok=True)
        print(f"hello from {folder.name}")
        if "fail" in argv:
            print("noise\nError: no data in x,\nfetch it", file=sys.stderr)
            return 1
        if "kill" in argv:  # as the kernel does when memory is short
            os.kill(os.getpid(), signal.SIGKILL)
        (folder / "results.json").write_text(json.dumps({"test": {"accuracy": 62.5}}))
        (folder / "DONE").touch()
        return 0

    monkeypatch.setattr(train, "main", main)
    monkeypatch.setattr(runner, "preload", lambda: None)
    return lambda: log.read_text().split()


@pytest.mark.parametrize("workers", [1, 2])
def test_all_are_run_and_then_skipped(tmp_path, calls, capfd, workers):
    jobs = [job(tmp_path / name) for name in "abc"]
    assert run_jobs(jobs, workers) == 0
    assert sorted(calls()) == ["a", "b", "c"]
    out = capfd.readouterr().out
    if workers == 1:
        assert f"starting {tmp_path / 'a'}" in out and "hello from a" in out
    else:
        assert "hello" not in out and out.count("test 62.5%") == 3 and str(tmp_path / "b") in out
    assert run_jobs(jobs, workers) == 0
    assert len(calls()) == 3 and capfd.readouterr().out.count("done already: ") == 3


def test_a_test_waits_for_its_model_and_follows_its_retraining(tmp_path, calls):
    model, test = tmp_path / "model", tmp_path / "test"
    jobs = [job(test, model=model), job(model), job(tmp_path / "other")]
    assert run_jobs(jobs, 2) == 0
    assert calls().index("test") > calls().index("model")
    os.utime(model / "DONE", (2e9, 2e9))  # trained again since
    assert not up_to_date(test, model) and up_to_date(model)


def test_a_model_that_is_not_trained_is_named(tmp_path, calls, capfd):
    assert run_jobs([job(tmp_path / "test", model=tmp_path / "model"), job(tmp_path / "b")], 1) == 1
    assert f"not finished: {tmp_path / 'model'} (train it first)" in capfd.readouterr().err and calls() == []


def test_after_a_failure_nothing_new_starts_and_the_error_is_shown(tmp_path, calls, capfd):
    jobs = [
        job(tmp_path / "a"),
        job(tmp_path / "b", "fail"),
        job(tmp_path / "c"),
        job(tmp_path / "d", model=tmp_path / "b"),
    ]
    assert run_jobs(jobs, 1) == 1
    assert calls() == ["a", "b"] and f"Failed: {tmp_path / 'b'}" in capfd.readouterr().err
    assert run_jobs([job(tmp_path / "b", "fail"), job(tmp_path / "e")], 2) == 1
    err = capfd.readouterr().err
    assert "Error: no data in x,\nfetch it\nFailed" in err and "noise" not in err


def test_with_its_model_a_test_is_run_again(tmp_path, calls):
    jobs = [job(tmp_path / "model"), job(tmp_path / "test", model=tmp_path / "model")]
    assert run_jobs(jobs, 2) == 0
    (tmp_path / "model/DONE").unlink()  # deleted or unfinished: it is trained now, so the old test is of another model
    assert run_jobs(jobs, 2) == 0 and calls() == ["model", "test"] * 2


def test_a_run_is_run_once(tmp_path, calls, capfd):
    assert run_jobs([job(tmp_path / "a"), job(tmp_path / "a")], 2) == 0 and calls() == ["a"]
    assert run_jobs([job(tmp_path / "b"), job(tmp_path / "b", "other")], 2) == 1
    assert f"two different runs would have the folder {tmp_path / 'b'}" in capfd.readouterr().err


def test_a_run_that_the_kernel_ended_is_told_what_to_change(tmp_path, calls, capfd):
    assert run_jobs([job(tmp_path / "a", "kill"), job(tmp_path / "b", "kill")], 2) == 1
    shown = capfd.readouterr().err
    assert f"Failed (signal 9): {tmp_path / 'a'}" in shown
    assert "memory was used up" in shown and "JOBS" in shown and "TRAIN.TEXT_CHUNK" in shown
    assert run_jobs([job(tmp_path / "a", "kill"), job(tmp_path / "b")], 1) == 1
    assert "JOBS" not in capfd.readouterr().err and calls().count("b") == 1  # nothing new starts after a failure


def test_what_another_call_has_run_meanwhile_is_skipped(tmp_path, calls, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.setattr(runner, "preload", (tmp_path / "a/DONE").touch)
    assert run_jobs([job(tmp_path / "a"), job(tmp_path / "b")], 1) == 0 and calls() == ["b"]


def test_one_run_leaves_the_caller_its_turn(tmp_path, calls):
    assert run_jobs([job(tmp_path / "a")], 1) == 0 and calls() == ["a"]


def test_a_finished_run_with_other_options_is_not_passed_off_as_this_one(tmp_path, capfd):
    settings = protocols.Settings(tmp_path, tmp_path / "out")

    def one(*options):
        return protocols.base2new_train(protocols.Experiment("CoOp", "demo_icons", 1, settings, options))

    (done,) = one()
    cfg, _ = train.build_config(train.build_parser().parse_intermixed_args(done.arguments))
    done.folder.mkdir(parents=True)
    (done.folder / "config.yaml").write_text(cfg.dump())
    (done.folder / "DONE").touch()
    assert run_jobs([done]) == 0 and "done already" in capfd.readouterr().out
    assert run_jobs(one("DATALOADER.CACHE_MB", "1")) == 0  # changes no number
    capfd.readouterr()
    assert run_jobs(one("OPTIM.MAX_EPOCH", "7")) == 1
    shown = capfd.readouterr()
    assert "OPTIM.MAX_EPOCH: was" in shown.err and "is now 7" in shown.err and "TAG=" in shown.err
    assert shown.out == "" and (done.folder / "DONE").exists()


def test_an_old_done_is_gone_before_a_run_starts(tmp_path, calls):
    for name in ("model", "test"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "DONE").touch()
    os.utime(tmp_path / "model/DONE", (2e9, 2e9))
    assert run_jobs([job(tmp_path / "test", "fail", model=tmp_path / "model"), job(tmp_path / "b")], 1) == 1
    assert not (tmp_path / "test/DONE").exists()


def test_the_last_words_of_a_run():
    assert runner.error_or_last_lines("a\nError: x\nb\nError: y\nz") == "Error: y\nz"
    assert runner.error_or_last_lines("\n".join(map(str, range(30)))) == "\n".join(map(str, range(10, 30)))


def test_threads_are_shared(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(runner, "cores", lambda: 8)
    assert [runner.threads_for(workers) for workers in (1, 2, 3, 16)] == [None, 4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert runner.threads_for(2) is None


@pytest.mark.parametrize(("gpus", "seen", "sharers"), [(0, [], 5), (1, [], 5), (2, [0, 1, 0, 1, 0], 3)])
def test_runs_at_once_share_memory_and_gpus(monkeypatch, gpus, seen, sharers):
    import torch
    from mocoop.trainers import memory

    chosen, encoder = [], SimpleNamespace(bytes_per_row=10)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # leaves this process's threads alone
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(memory, "free_memory", lambda device: 6000)
    monkeypatch.setenv(memory.RUNS_AT_ONCE, "1")
    assert memory.rows_that_fit(encoder, torch.device("cpu")) == 300
    for slot in range(5):
        runner.take_share(5, slot)
    assert chosen == seen
    assert memory.rows_that_fit(encoder, torch.device("cpu")) == 300 / sharers


@pytest.mark.parametrize("workers", [1, 2])
def test_off_a_terminal_every_start_is_a_line(tmp_path, calls, capfd, workers):
    (tmp_path / "b").mkdir()
    (tmp_path / "b/log.txt").touch()
    jobs = [Job(tmp_path / "a", (str(tmp_path / "a"),), title="CoOp, seed 1"), job(tmp_path / "b")]
    assert run_jobs(jobs, workers) == 0
    out = capfd.readouterr().out
    assert f"[1/2] starting {tmp_path / 'a'}\n" in out and f"[2/2] going on with {tmp_path / 'b'}\n" in out
    assert workers == 1 or "test 62.5%  CoOp, seed 1\n" in out


def test_what_another_call_has_run_meanwhile_with_other_options_is_not_passed_off(tmp_path, calls, capfd, monkeypatch):
    def check_done(job, config_of):
        raise ConfigError([f"finished run: {job.folder} holds a run with another config"])

    (tmp_path / "a").mkdir()
    monkeypatch.setattr(runner, "check_done", check_done)
    monkeypatch.setattr(runner, "preload", (tmp_path / "a/DONE").touch)
    assert run_jobs([job(tmp_path / "a"), job(tmp_path / "b")], 1) == 1 and calls() == []
    assert f"Error: finished run: {tmp_path / 'a'} holds" in capfd.readouterr().err and (tmp_path / "a/DONE").exists()


def test_an_old_done_stays_while_another_process_is_at_work_there(tmp_path, calls):
    model, test = job(tmp_path / "model"), job(tmp_path / "test", model=tmp_path / "model")
    for one in (test, model):
        one.folder.mkdir()
        (one.folder / "DONE").touch()
    os.utime(model.folder / "DONE", (2e9, 2e9))  # trained again since
    code = "import sys, mocoop.runs.folder as r\n"
    code += "with r.hold(r.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    call = [sys.executable, "-c", code, str(test.folder)]
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        runner.clear_done(test)
        assert (test.folder / "DONE").exists()
        other.kill()
    runner.clear_done(test)
    runner.clear_done(model)  # up to date
    assert not (test.folder / "DONE").exists() and (model.folder / "DONE").exists()


def test_runs_end_with_the_process_that_started_them(tmp_path):
    code = f"""
        import time
        from pathlib import Path
        from mocoop.runs import pool as runner

        def main(argv):
            Path(argv[0]).touch()
            time.sleep(60)
            Path(argv[0]).with_suffix(".late").touch()

        runner.preload = lambda: None
        folder = Path({str(tmp_path)!r})
        jobs = [runner.Job(folder / name, (str(folder / f"{{name}}.pid"),)) for name in "ab"]
        runner.run_jobs(jobs, main, None, 2)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    deadline = time.time() + 60
    while len(list(tmp_path.glob("*.pid"))) < 2 and time.time() < deadline:
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(children) == 2
    while any(Path(f"/proc/{child}").exists() for child in children) and time.time() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{child}").exists() for child in children)


# ---- sweeps


def sweep(jobs, workers=1):
    return runner.run_jobs(jobs, train.main, train.config_of, workers, sweep=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_sweep_goes_on_after_a_failure_and_writes_it_down(tmp_path, calls, capfd, workers):
    bad = job(tmp_path / "bad", "fail")
    jobs = [
        bad,
        job(tmp_path / "test_of_bad", model=bad.folder),
        job(tmp_path / "killed", "kill"),
        job(tmp_path / "good"),
    ]
    assert sweep(jobs, workers) == 1
    assert sorted(calls()) == ["bad", "good", "killed"]  # no model, no test
    assert (tmp_path / "good/DONE").exists()
    assert read_failure(bad.folder) == "Error: no data in x,\nfetch it"
    assert "memory was used up" in read_failure(tmp_path / "killed")
    assert read_failure(tmp_path / "good") is None
    assert "Failed: " + str(bad.folder) in capfd.readouterr().err


def test_a_sweep_leaves_alone_what_other_processes_are_at_and_the_tests_of_it(tmp_path, calls, capfd):
    busy, free = job(tmp_path / "busy"), job(tmp_path / "free")
    busy.folder.mkdir()
    with owning(busy.folder, True):
        assert sweep([busy, job(tmp_path / "test_of_busy", model=busy.folder), free]) == 0
    assert calls() == ["free"] and read_failure(busy.folder) is None
    assert "Left to other processes that are at work: 2 runs" in capfd.readouterr().out


def test_a_run_that_another_process_has_taken_a_moment_before_is_no_failure(tmp_path, calls, monkeypatch):
    taken = job(tmp_path / "taken", "fail")
    looks = iter([False, True])  # before the start; after it
    monkeypatch.setattr(runner, "is_at_work", lambda folder: next(looks))
    assert sweep([taken]) == 0 and calls() == ["taken"]
    assert read_failure(taken.folder) is None


@pytest.mark.parametrize("to_all", [False, True], ids=["to the parent", "to all, as Slurm sends it"])
def test_a_signal_taken_as_an_interrupt_ends_the_runs_as_one_from_the_keyboard_does(tmp_path, to_all):
    code = f"""
        import signal, sys, time
        from pathlib import Path
        from mocoop.runs import pool

        def main(argv):
            try:
                Path(argv[0]).touch()
                time.sleep(300)
            except KeyboardInterrupt:
                time.sleep(0.5)  # a second signal must not reach this
                Path(argv[0]).with_suffix(".ended").touch()
                return 130

        pool.preload = lambda: None
        pool.interrupt_on(signal.SIGUSR2)
        folder = Path({str(tmp_path)!r})
        jobs = [pool.Job(folder / name, (str(folder / f"{{name}}.begun"),)) for name in "ab"]
        sys.exit(pool.run_jobs(jobs, main, None, 2, sweep=True))
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], start_new_session=True)
    deadline = time.time() + 240  # on a busy machine importing torch takes minutes
    while len(list(tmp_path.glob("*.begun"))) < 2 and time.time() < deadline:
        time.sleep(0.05)
    if to_all:
        os.killpg(process.pid, signal.SIGUSR2)
    else:
        process.send_signal(signal.SIGUSR2)
    assert process.wait(timeout=30) == 130
    assert sorted(path.name for path in tmp_path.glob("*.ended")) == ["a.ended", "b.ended"]
    assert not list(tmp_path.glob("*/failure.json"))
