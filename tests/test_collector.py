"""The garbage collector: paused where it finds nothing, and skipped once at the end."""

import gc
import subprocess
import sys

import pytest

from bbvi._collector import collector_paused

PROGRAM = """
import gc, os, sys
{first}

class Cycle:
    def __init__(self, held=None):
        self.held, self.itself = held, self

    def __del__(self, write=os.write):
        write(1, b"found ")

gc.collect()
early = Cycle(open(sys.argv[1], "w"))
early.held.write("all")
{between}
late = Cycle(open(sys.argv[2], "w"))
late.held.write("all")
Cycle()
exec({LOOK!r}, apart := dict(os=os))  # so that it holds nothing of this module
gc.callbacks.append(apart.pop("look"))
"""
LOOK = """
def look(when, seen):
    if when == "start" and seen["generation"] == 2:
        os.write(1, b"looks ")
"""
FOUND = ["found"] * 3
PAUSE = """
with sys.modules["bbvi._collector"].collector_paused():
    pass
"""
DISABLE, FREEZE = (
    f"import atexit; atexit.register(gc.{what})" for what in ("disable", "freeze")
)


@pytest.mark.parametrize(
    ("first", "between", "said", "written"),
    [
        ("", "", [*FOUND, "looks"], ["all", "all"]),
        ("import bbvi", "", FOUND, ["all", "all"]),
        ("import bbvi", PAUSE, FOUND, ["all", "all"]),
        (DISABLE, "", FOUND, ["", ""]),
        (FREEZE, "", ["looks"], ["", ""]),
    ],
    ids=["alone", "bbvi", "after a pause", "disabled", "frozen"],
)
def test_one_look_less_at_the_end_finds_as_much(
    first, between, said, written, tmp_path
):
    # Only the look before modules are let go of calls back. Two controls: without any
    # look files in cycles are closed in the wrong order, and frozen ones never.
    paths = [tmp_path / "early", tmp_path / "late"]
    program = PROGRAM.format(first=first, between=between, LOOK=LOOK)
    command = [sys.executable, "-c", program, *map(str, paths)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert sorted(done.stdout.split()) == said
    assert [path.read_text() for path in paths] == written


def test_the_collector_is_paused_and_then_as_it_was():
    assert gc.isenabled()
    with collector_paused():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with collector_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_the_collector_goes_on_after_an_error():
    with pytest.raises(ZeroDivisionError), collector_paused():
        1 / 0  # noqa: B018
    assert gc.isenabled()
