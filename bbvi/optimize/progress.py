"""How does a running fit show itself?

`Progress` is the interface, three calls that the host makes between the chunks of a
fit; `Bar` draws a progress bar, `Silent` nothing. Neither is ever called from inside a
compiled program, so that a fit computes the same numbers, as fast, with any of them.
"""

import sys
import warnings

with warnings.catch_warnings():
    # In a notebook without ipywidgets tqdm warns, and falls back to text.
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm

# No remaining time: a fit that converges stops long before its last allowed step.
_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {rate_fmt}{postfix}"


class Progress:
    """What a fit reports to while it runs.

    To write your own:

    - Subclass it and implement the three methods; all are called on the host.
    - `start` comes once, first; `close` once, last, also when the fit ends in an error
      or is interrupted. `update` comes between the chunks, never if there is only one.
    - The numbers are plain Python floats; ``elbo`` is a noisy estimate, and NaN or
      infinite where the objective is.
    - What it raises ends the fit. What it returns is ignored.
    """

    def start(self, total_steps: int) -> None:
        """Begin a fit of at most ``total_steps`` steps; most stop earlier."""
        raise NotImplementedError

    def update(self, step: int, elbo: float, learning_rate: float) -> None:
        """Take note of ``step`` steps done since the start, and where they led."""
        raise NotImplementedError

    def close(self, message: str) -> None:
        """End; ``message`` says in one line how the fit ended."""
        raise NotImplementedError


class Bar(Progress):
    """A progress bar on standard error, in terminals and notebooks.

    At the end one line remains, the closing message. The bar is measured against the
    largest number of steps allowed, so a fit that converges leaves it early.

    Example:
        >>> bar = Bar()
        >>> bar.start(total_steps=1000)
        >>> bar.update(step=500, elbo=-12.3, learning_rate=0.01)
        >>> bar.close("Converged after 500 steps.")
    """

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def start(self, total_steps: int) -> None:
        # Without `nrows` tqdm shows nothing in a pseudo-terminal of no size (docker).
        self._bar = tqdm(
            total=total_steps,
            desc="bbvi",
            unit=" steps",
            bar_format=_FORMAT,
            file=sys.stderr,
            nrows=20,
        )

    def update(self, step: int, elbo: float, learning_rate: float) -> None:
        if self._bar is None:
            return
        self._bar.set_postfix_str(
            f"elbo {elbo:.6g}, learning rate {learning_rate:.2g}", refresh=False
        )
        self._bar.update(step - self._bar.n)

    def close(self, message: str) -> None:
        if self._bar is None:
            return
        # A full bar, as notebooks paint one that stopped early in red.
        self._bar.total = self._bar.n
        self._bar.bar_format, self._bar.ncols = "{desc}", None
        self._bar.set_description_str(message, refresh=False)
        self._bar.close()
        self._bar = None


class Silent(Progress):
    """No progress at all.

    Example:
        >>> Silent().start(total_steps=1000)
    """

    def start(self, total_steps: int) -> None:
        pass

    def update(self, step: int, elbo: float, learning_rate: float) -> None:
        pass

    def close(self, message: str) -> None:
        pass
