"""What an installed package has and a checkout may lack: its bytecode."""

import compileall
from pathlib import Path

ROOT = Path(__file__).parent.parent


def compile_bytecode() -> None:
    """Compile the checkout's modules, as `pip` does those that it installs.

    Without it a cold process compiles every module that was edited since, where the
    environment forbids to write bytecode (`PYTHONDONTWRITEBYTECODE`): 0.15 s for all.
    """
    for package in "bbvi", "benchmarks":
        compileall.compile_dir(ROOT / package, quiet=1)
