"""How does a fit look?

`plot_history` draws the bound over the steps; `plot_fit` is a page: the bound, the
importance ratios with their k-hat, and the marginals of the first few sites. Arrays
come in and a matplotlib `Figure` goes out, which notebooks show and
`figure.savefig(path)` writes; nothing is shown here and pyplot's state is left alone.
For anything further, ArviZ plots what `to_arviz` returns. Matplotlib is optional and
slow to import, so it is imported on use.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bbvi.diagnostics import Smoothed, khat_threshold, psis, tail_length

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_SITES = 4
_MAX_ELEMENTS = 4
_MAX_BARS = 30


def plot_history(
    steps: ArrayLike,
    elbos: ArrayLike,
    *,
    learning_rates: ArrayLike | None = None,
) -> "Figure":
    """Return a figure of the bound over the steps.

    The axis shows the range of the later three quarters, in which a fit is judged: the
    first steps usually climb too far to leave anything else visible. Each drop of the
    learning rate is a dashed line.

    Args:
        steps: step at the end of each chunk, `(num_chunks,)`.
        elbos: mean of the ELBO's estimates over each chunk, `(num_chunks,)`.
        learning_rates: of each chunk, `(num_chunks,)`.

    Example:
        >>> figure = plot_history([100, 200], [-9.0, -5.0], learning_rates=[0.1, 0.05])
        >>> figure.axes[0].get_ylabel()
        'ELBO'
    """
    figure = _figure(figsize=(6.4, 4.0))
    _plot_elbos(figure.subplots(), steps, elbos, learning_rates)
    return figure


def plot_fit(
    steps: ArrayLike,
    elbos: ArrayLike,
    *,
    log_weights: ArrayLike,
    draws: Mapping[str, ArrayLike],
    weights: Smoothed | None = None,
    learning_rates: ArrayLike | None = None,
    var_names: Iterable[str] | None = None,
) -> "Figure":
    r"""Return a page on one fit: bound, importance ratios, marginals.

    The bound is drawn as in `plot_history`. The ratios are $\log p - \log q$ less their
    mean over the draws: a narrow hump is a good fit, a long right tail is posterior
    mass where the guide has little. Their tail, to which k-hat is fitted, is coloured,
    red where k-hat is over its limit. Marginals leave out the outer half per cent of
    the draws at each end.

    Args:
        steps: step at the end of each chunk, `(num_chunks,)`.
        elbos: mean of the ELBO's estimates over each chunk, `(num_chunks,)`.
        log_weights: raw $\log p - \log q$ of each draw, `(num_draws,)`.
        draws: draws by site, `(num_draws, *site.shape)`. Integers become bars.
        weights: whose k-hat is told, as those of a verdict on more draws; default the
            smoothed ones of ``log_weights``.
        learning_rates: of each chunk, `(num_chunks,)`.
        var_names: sites to show, at most four, and the first four elements of each;
            default the first sites of ``draws``.

    Raises:
        ValueError: if ``var_names`` has a name that is not among ``draws``.

    Example:
        >>> noise = np.random.default_rng(0).normal(size=(2, 200))
        >>> figure = plot_fit([1, 2], [-9.0, -5.0], log_weights=noise[0],
        ...                   draws={"mu": noise[1]})
        >>> [axes.get_xlabel() for axes in figure.axes]
        ['step', 'log p − log q, centred', 'mu']
    """
    sites = _chosen(draws, var_names)
    figure = _figure(figsize=(10.0, 7.0))
    top, bottom = np.asarray(figure.subfigures(2, 1), object)
    left, right = top.subplots(1, 2)
    _plot_elbos(left, steps, elbos, learning_rates)
    ratios = np.asarray(log_weights, np.float64)
    _plot_log_ratios(right, ratios, weights or psis(ratios))
    if sites:
        panels = bottom.subplots(1, len(sites), squeeze=False)[0]
        for axes, (site, array) in zip(panels, sites.items(), strict=True):
            _plot_marginal(axes, site, array)
    return figure


def _figure(figsize: tuple[float, float]) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Plots need matplotlib, which is not installed. "
            'Install it with: pip install "bbvi[plots]"'
        ) from error
    return Figure(figsize=figsize, layout="constrained")


def _chosen(
    draws: Mapping[str, ArrayLike], var_names: Iterable[str] | None
) -> dict[str, NDArray[Any]]:
    arrays = {site: np.asarray(array) for site, array in draws.items()}
    names = list(arrays) if var_names is None else list(dict.fromkeys(var_names))
    unknown = [name for name in names if name not in arrays]
    if unknown:
        raise ValueError(
            f"plot_fit: expected sites with draws in var_names; found {unknown}. "
            f"There are {list(arrays)}."
        )
    shown = [name for name in names if arrays[name].size]
    return {name: arrays[name] for name in shown[:_MAX_SITES]}


def _plot_elbos(
    axes: "Axes", steps: ArrayLike, elbos: ArrayLike, learning_rates: ArrayLike | None
) -> None:
    steps, elbos = np.asarray(steps), np.asarray(elbos, np.float64)
    axes.plot(steps, elbos, color="C0", linewidth=1.2)
    axes.set(xlabel="step", ylabel="ELBO")
    late = elbos[len(elbos) // 4 :]
    late = late[np.isfinite(late)]
    if late.size and np.ptp(late) > 0.0:
        margin = 0.1 * np.ptp(late)
        axes.set_ylim(late.min() - margin, late.max() + margin)
    if learning_rates is None or not np.size(learning_rates):
        return
    rates = np.asarray(learning_rates, np.float64)
    for drop in np.flatnonzero(np.diff(rates) < 0.0):
        axes.axvline(steps[drop], color="0.6", linestyle="--", linewidth=0.8)
    lowered = f" to {rates[-1]:.2g}" if np.ptp(rates) else ""
    axes.set_title(f"learning rate {rates[0]:.2g}{lowered}", fontsize=10)


def _plot_log_ratios(
    axes: "Axes", log_weights: NDArray[np.float64], smoothed: Smoothed
) -> None:
    finite = log_weights[np.isfinite(log_weights)]
    axes.set(xlabel="log p − log q, centred", ylabel="draws")
    limit = khat_threshold(smoothed.log_weights.size)
    axes.set_title(f"k-hat {smoothed.khat:.2f}, limit {limit:.2f}", fontsize=10)
    if not finite.size:
        return
    centred = finite - finite.mean()
    cutoff = np.sort(centred)[-min(tail_length(log_weights.size), centred.size)]
    counts, edges = np.histogram(centred, _num_bins(np.ptp(centred), centred))
    warning = "C0" if smoothed.khat <= limit else "C3"
    colors = np.where(edges[:-1] >= cutoff, warning, "0.75")
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=colors)


def _plot_marginal(axes: "Axes", site: str, array: NDArray[Any]) -> None:
    elements = array.reshape(len(array), -1).T
    shown = elements[:_MAX_ELEMENTS]
    labels = [
        site + "[" + ", ".join(map(str, np.unravel_index(i, array.shape[1:]))) + "]"
        for i in range(len(shown))
    ]
    discrete = array.dtype.kind in "iub"
    for i, (label, draws) in enumerate(zip(labels, shown, strict=True)):
        if discrete:
            _plot_probabilities(axes, draws, label, f"C{i}", (i, len(shown)))
        else:
            _plot_density(axes, draws, label, f"C{i}")
    axes.set(xlabel=site, ylabel="probability" if discrete else "density")
    if discrete:
        axes.locator_params(axis="x", integer=True)
    if array.ndim > 1:
        axes.legend(fontsize=8)
    if len(elements) > len(shown):
        axes.set_title(f"{len(shown)} of {len(elements)} elements", fontsize=10)


def _plot_density(axes: "Axes", draws: NDArray[Any], label: str, color: str) -> None:
    """Draw the outline of a histogram, without the outer half per cent at each end."""
    draws = draws[np.isfinite(draws)].astype(np.float64)
    if draws.size:
        ends = np.quantile(draws, [0.005, 0.995])
        axes.hist(
            draws,
            bins=_num_bins(np.ptp(ends), draws),
            range=tuple(ends),
            density=True,
            histtype="step",
            label=label,
            color=color,
        )


def _plot_probabilities(
    axes: "Axes", draws: NDArray[Any], label: str, color: str, slot: tuple[int, int]
) -> None:
    """Draw bars, those of several elements side by side: ``slot`` of how many."""
    values, counts = np.unique(draws.astype(np.int64), return_counts=True)
    if values.size > _MAX_BARS:
        # Edges between the integers, equally many in each bin, or the bars alternate.
        step = int(np.ceil((np.ptp(values) + 1) / _MAX_BARS))
        edges = np.arange(values[0], values[-1] + step + 1, step) - 0.5
        weights = np.full(draws.size, 1.0 / (step * draws.size))
        axes.hist(draws, edges, weights=weights, label=label, color=color, alpha=0.5)
        return
    number, total = slot
    width = 0.8 / total
    places = values + (number - (total - 1) / 2.0) * width
    axes.bar(places, counts / draws.size, width=width, label=label, color=color)


def _num_bins(extent: float, draws: NDArray[np.float64]) -> int:
    """Return how many bins of Freedman & Diaconis (1981) fit, within reason."""
    low, high = np.quantile(draws, [0.25, 0.75])
    if high <= low:
        return 10
    return int(np.clip(extent * np.cbrt(draws.size) / (2.0 * (high - low)), 10, 60))
