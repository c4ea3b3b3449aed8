"""Progress shows a fit on standard error and leaves one line."""

import subprocess
import sys
import time

import pytest

from bbvi.optimize.progress import Bar, Progress, Silent


def run(progress, message="Converged after 20 steps."):
    progress.start(total_steps=100)
    progress.update(step=10, elbo=-1234.5678, learning_rate=0.01)
    progress.update(step=20, elbo=float("nan"), learning_rate=0.005)
    progress.close(message)


def test_bar_leaves_one_line_on_standard_error(capsys):
    run(Bar())
    captured = capsys.readouterr()
    assert captured.out == ""
    *lines, rest = captured.err.split("\n")
    assert rest == ""
    assert len(lines) == 1
    assert lines[0].split("\r")[-1].strip() == "Converged after 20 steps."


def test_bar_shows_steps_bound_and_rate(capsys):
    bar = Bar()
    bar.start(total_steps=100)
    time.sleep(0.11)  # tqdm draws at most every tenth of a second
    bar.update(step=10, elbo=-1234.5678, learning_rate=0.01)
    shown = capsys.readouterr().err
    bar.close("")
    assert "10/100" in shown
    assert "elbo -1234.57, learning rate 0.01" in shown


def test_bar_can_be_used_again(capsys):
    bar = Bar()
    run(bar, message="first")
    run(bar, message="second")
    lines = capsys.readouterr().err.rstrip("\n").split("\n")
    assert [line.split("\r")[-1].strip() for line in lines] == ["first", "second"]


def test_bar_that_never_started_stays_quiet(capsys):
    bar = Bar()
    bar.update(step=1, elbo=0.0, learning_rate=0.1)
    bar.close("Failed before the first step.")
    assert capsys.readouterr().err == ""


def test_silent_prints_nothing(capsys):
    run(Silent())
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_interface_asks_for_its_three_methods():
    progress = Progress()
    with pytest.raises(NotImplementedError):
        progress.start(1)
    with pytest.raises(NotImplementedError):
        progress.update(1, 0.0, 0.1)
    with pytest.raises(NotImplementedError):
        progress.close("")


def test_import_is_without_warnings():
    code = "import bbvi.optimize.progress"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
