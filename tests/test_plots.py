"""Figures render, and show what they are given."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest

from bbvi.plots import plot_fit, plot_history

STEPS = np.arange(1, 41) * 50
ELBOS = -500 * np.exp(-STEPS / 100) - 120
RATES = np.repeat([0.1, 0.05, 0.025, 0.025], 10)


def rendered(figure):
    """PNG bytes; raises if anything in the figure cannot be drawn."""
    file = io.BytesIO()
    figure.savefig(file, dpi=30)
    return file.getvalue()


@pytest.fixture
def draws():
    rng = np.random.default_rng(0)
    return {
        "mu": rng.normal(size=300),
        "theta": rng.normal(size=(300, 5, 2)),
        "z": rng.integers(0, 3, size=(300, 2)),
        "on": rng.uniform(size=300) < 0.5,
        "count": rng.poisson(400, size=300),
        "heavy": rng.standard_cauchy(size=300) ** 5,
        "constant": np.ones(300),
        "empty": np.zeros((300, 0)),
        "lost": np.full(300, np.nan),
    }


def test_history_marks_each_drop_of_the_learning_rate():
    axes = plot_history(STEPS, ELBOS, learning_rates=RATES).axes[0]
    bound, *drops = axes.get_lines()
    np.testing.assert_array_equal(bound.get_xdata(), STEPS)
    np.testing.assert_array_equal(bound.get_ydata(), ELBOS)
    assert [line.get_xdata()[0] for line in drops] == [500, 1000]
    assert "0.1 to 0.025" in axes.get_title()


def test_history_shows_the_range_of_the_later_steps():
    low, high = plot_history(STEPS, ELBOS).axes[0].get_ylim()
    assert ELBOS[0] < low < ELBOS[10] < ELBOS[-1] < high


@pytest.mark.parametrize("elbos", [[], [-1.0], [-1.0, -1.0], [np.nan, -np.inf]])
def test_history_draws_what_little_there_is(elbos):
    rates = np.full(len(elbos), 0.1)
    assert rendered(plot_history(range(len(elbos)), elbos, learning_rates=rates))


def test_fit_has_four_panels_for_two_sites(draws):
    figure = plot_fit(
        STEPS,
        ELBOS,
        learning_rates=RATES,
        log_weights=np.random.default_rng(1).normal(size=300),
        draws=draws,
        var_names=["theta", "z"],
    )
    assert len(figure.axes) == 4
    history, ratios, theta, z = figure.axes
    assert history.get_ylabel() == "ELBO"
    assert "k-hat" in ratios.get_title()
    assert theta.get_title() == "4 of 10 elements"
    assert theta.get_legend().get_texts()[3].get_text() == "theta[1, 1]"
    assert (z.get_xlabel(), z.get_ylabel()) == ("z", "probability")
    assert rendered(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("site", ["mu", "on", "count", "heavy", "constant", "lost"])
def test_fit_draws_any_site(draws, site):
    figure = plot_fit(
        [1], [-1.0], log_weights=np.zeros(300), draws=draws, var_names=[site]
    )
    assert figure.axes[2].get_xlabel() == site
    assert rendered(figure)


def test_fit_draws_the_first_sites_by_default(draws):
    figure = plot_fit([1], [-1.0], log_weights=np.zeros(300), draws=draws)
    assert len(figure.axes) == 2 + 4


@pytest.mark.parametrize(
    "log_weights", [[np.nan] * 50, [-np.inf] * 50, [0.0], [1, -np.inf]]
)
def test_fit_draws_weights_that_are_not_finite(log_weights):
    assert rendered(plot_fit([1], [-1.0], log_weights=log_weights, draws={}))


def test_fit_colours_a_tail_that_is_too_heavy():
    def colours(shape):
        survival = np.random.default_rng(0).uniform(size=4000)
        log_weights = np.log1p((survival**-shape - 1) / shape)
        figure = plot_fit([1], [-1.0], log_weights=log_weights, draws={})
        return {bar.get_facecolor() for bar in figure.axes[1].patches}

    assert len(colours(0.2)) == len(colours(1.2)) == 2
    assert colours(0.2) != colours(1.2)


def test_fit_names_the_sites_there_are():
    with pytest.raises(ValueError, match=r"found \['nu'\].*'mu'"):
        plot_fit([1], [-1.0], log_weights=[0.0], draws={"mu": [0.0]}, var_names=["nu"])


def test_figures_stay_out_of_pyplot():
    before = plt.get_fignums()
    plot_history(STEPS, ELBOS)
    assert plt.get_fignums() == before
