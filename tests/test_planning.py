"""Which estimator `bbvi.plan` chooses, why, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

import bbvi
from bbvi import estimators, guides
from bbvi.planning import PlanError
from tests import cases
from tests.cases import (
    Antithetic,
    Landing,
    Local,
    Marginalized,
    Partly,
    Pathwise,
    Score,
    ScoreOfChoice,
)

sample = numpyro.sample
Y3 = cases.PLATE.data["y"]


def single(prior, mean=lambda z: 1.0 * z, **infer):
    """One site of any kind under a normal observation."""

    def model(y):
        z = sample("z", prior, **infer)
        sample("y", dist.Normal(mean(z), 1.0), obs=y)

    return model, {"y": cases.SCALAR.data["y"]}


def made(case, **changes):
    guide = case.guide if case.family is None else None
    return bbvi.plan(case.model, case.data, **{"guide": guide, **changes})


def coupled(number):
    """`number` Bernoullis that share one observation."""
    return single(dist.Bernoulli(jnp.full(number, 0.3)), lambda z: z.sum())


def long_chain(number, **infer):
    """Neighbours share a factor."""

    def model(y):
        z = sample(
            "z", dist.Categorical(jnp.full((number, 3), 1 / 3)).to_event(1), infer=infer
        )
        numpyro.factor("turns", -jnp.abs(z[1:] - z[:-1]))
        sample("y", dist.Normal(z, 1.0).to_event(1), obs=y)

    return model, {"y": jnp.zeros(number)}


# {id: (model and data, guide, {site: (estimator, words of the reason)})}
CHOICES = {
    "one finite element": (
        single(dist.Bernoulli(0.3)),
        None,
        {"z": (Marginalized, "one element: 2 evaluations")},
    ),
    "offset support": (
        single(dist.DiscreteUniform(2, 5)),
        None,
        {"z": (Marginalized, "4 evaluations")},
    ),
    "a plate": (cases.PLATE, None, {"z": (Marginalized, "each element on its own")}),
    "a minibatch": (
        cases.minibatch(2),
        None,
        {"z": (Marginalized, "each element on its own")},
    ),
    "a mixture": (
        cases.MIXTURE,
        None,
        {
            "mu": (Pathwise, "entropy in closed form"),
            "z": (Marginalized, "each element"),
        },
    ),
    "nested plates": (
        cases.NESTED,
        None,
        {
            "a": (Marginalized, "a and b along their plates: 4 evaluations"),
            "b": (Marginalized, "a and b along their plates: 4 evaluations"),
        },
    ),
    "a shared likelihood": (
        cases.SHARED,
        None,
        {
            "a": (Marginalized, "a and b: 6 evaluations"),
            "b": (Marginalized, "a and b: 6 evaluations"),
        },
    ),
    "a coupled plate": (
        cases.COUPLED["sum"],
        None,
        {"z": (Local, "coupled elements: 3 further evaluations")},
    ),
    "a chain in scan": (
        cases.SCAN,
        None,
        {"z": (Marginalized, "chain of 3 steps with 2 states: 4 evaluations and one")},
    ),
    "a chain in a loop": (
        cases.LOOP,
        None,
        {
            f"z{t}": (Marginalized, "finite chain of z0, z1 and z2: 4 evaluations")
            for t in range(3)
        },
    ),
    "events": (cases.EVENT, None, {"z": (Local, "coupled elements")}),
    "no plate": (cases.NO_PLATE, None, {"z": (Local, "coupled elements")}),
    "a long chain": (
        long_chain(50),
        None,
        {"z": (Marginalized, "chain of 50 steps with 3 states: 9 evaluations and")},
    ),
    "a long chain, its neighbours told apart": (
        long_chain(50, bbvi=Local),
        None,
        {"z": (Local, "50 coupled elements in 2 colours: 4 further evaluations")},
    ),
    "a grid": (
        cases.ISING,
        None,
        {"z": (Local, "9 coupled elements in 2 colours: 2 further evaluations")},
    ),
    "many coupled": (
        coupled(40),
        None,
        {"z": (cases.Antithetic, "discrete, 40 coupled elements")},
    ),
    "countable": (
        cases.POISSON,
        None,
        {"z": (cases.Partly, "16 likely values summed, the others sampled")},
    ),
    "masked": (cases.MASKED, None, {"z": (Local, "share no cost term: 1 further")}),
    "local of a global": (
        cases.IMPUTATION,
        None,
        {
            "p": (Pathwise, "differentiable sampler"),
            "y_unobserved": (Local, "1 further"),
        },
    ),
    "continuous": (
        cases.LOCATION_SCALE,
        None,
        {
            "mu": (Pathwise, "through the joint Gaussian"),
            "sigma": (Pathwise, "through the joint Gaussian"),
        },
    ),
    "own guide, discrete first": (
        cases.DOWNSTREAM,
        cases.downstream_guide,
        {
            "z": (cases.Antithetic, "later draws of the guide depend"),
            "x": (Pathwise, "differentiable sampler"),
        },
    ),
    "own guide, discrete last": (
        cases.UPSTREAM,
        cases.upstream_guide,
        {"z": (Local, "1 further"), "x": (Pathwise, "differentiable sampler")},
    ),
    "own guide in scan": (
        cases.AUTOREGRESSIVE_SCAN,
        cases.autoregressive_scan_guide,
        {"z": (ScoreOfChoice, "later draws of the guide depend")},
    ),
    "von mises": (
        cases.VONMISES,
        cases.VONMISES.guide,
        {"mu": (Pathwise, "differentiable sampler")},
    ),
    "von mises cut open": (
        cases.CUT_CIRCLE,
        cases.VONMISES.guide,
        {"mu": (ScoreOfChoice, "jumps where the circle of its draws closes")},
    ),
    "mixture as a guide": (
        cases.MIXTURE_GUIDE,
        cases.two_normals_guide,
        {"mu": (Pathwise, "differentiable sampler")},
    ),
    "implicit gradient": (
        cases.GAMMA,
        cases.GAMMA.guide,
        {"mu": (Pathwise, "differentiable sampler")},
    ),
}


def parts(situation):
    if isinstance(situation, cases.Case):
        return situation.model, situation.data
    return situation


@pytest.mark.parametrize("name", CHOICES)
def test_choice_and_reason(name):
    situation, guide, expected = CHOICES[name]
    model, data = parts(situation)
    plan = bbvi.plan(model, data, guide=guide)
    assert {n: c.estimator for n, c in plan.choices.items()} == {
        n: estimator for n, (estimator, _) in expected.items()
    }
    for site, (_, words) in expected.items():
        choice = plan.choices[site]
        assert any(word in choice.reason for word in words.split("|")), choice.reason
        # Every other estimator has left its reason.
        kinds = {type(e) for e in choice.rejected} | {type(choice.estimator)}
        assert kinds == {type(e) for e in (Marginalized, Local, Pathwise, Score)}
        assert all(choice.rejected.values())


# {id: (case or model, guide, site, refused estimator, words of the refusal)}
REFUSALS = {
    "coupled elements summed out": (
        cases.COUPLED["sum"],
        None,
        "z",
        Marginalized,
        "3 of its elements share cost terms",
    ),
    "an event summed out": (cases.EVENT, None, "z", Marginalized, "share cost terms"),
    "masked summed out": (cases.MASKED, None, "z", Marginalized, "masked"),
    "countable summed out": (cases.POISSON, None, "z", Marginalized, "no known finite"),
    "countable summed under q": (cases.POISSON, None, "z", Local, "no known finite"),
    "continuous summed under q": (cases.NORMAL, None, "mu", Local, "no known finite"),
    "discrete pathwise": (cases.COUPLED["sum"], None, "z", Pathwise, "its draws jump"),
    "discrete, landing": (cases.COUPLED["sum"], None, "z", Landing, "its draws jump"),
    "von mises cut open, pathwise": (
        cases.CUT_CIRCLE,
        cases.VONMISES.guide,
        "mu",
        Pathwise,
        "jumps where the circle of its draws closes: -pi and pi",
    ),
    "mixture of t, pathwise": (
        cases.NORMAL,
        lambda y: sample(
            "mu",
            dist.MixtureSameFamily(
                dist.Categorical(logits=jnp.zeros(2)), dist.StudentT(jnp.ones(2), 0.0)
            ),
        ),
        "mu",
        Pathwise,
        "sampler of its factor MixtureSameFamily cannot be differentiated",
    ),
    "summed under q upstream": (
        cases.DOWNSTREAM,
        cases.downstream_guide,
        "z",
        Local,
        r"later draws of the guide \(x\)",
    ),
    "summed under q in scan": (
        cases.AUTOREGRESSIVE_SCAN,
        cases.autoregressive_scan_guide,
        "z",
        Local,
        r"later draws of the guide \(z\)",
    ),
    "part of a joint Gaussian": (
        cases.LOCATION_SCALE,
        None,
        "mu",
        Score,
        r"drawn together.*guides\.MeanField\(\)",
    ),
    "antithetic categorical": (
        cases.CATEGORICAL,
        guides.MeanField(),
        "z",
        cases.Antithetic,
        r"CategoricalLogits is no Bernoulli\. Use estimators\.SumAndSample\(\) or ",
    ),
    "antithetic after other draws": (
        cases.UPSTREAM,
        cases.upstream_guide,
        "z",
        cases.Antithetic,
        r"depend on other draws \(x\).*Use .* or estimators\.LeaveOneOut\(\) or",
    ),
    "antithetic inside scan": (
        cases.SCAN,
        cases.flat_scan_guide,
        "z",
        cases.Antithetic,
        "made inside scan",
    ),
    "support that moves": (
        cases.MOVING_SUPPORT,
        guides.MeanField(),
        "x",
        Score,
        "support of its factor .* may depend on parameters",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_unsound_override_is_refused(name):
    case, guide, site, estimator, words = REFUSALS[name]
    with pytest.raises(PlanError, match=words) as caught:
        bbvi.plan(case.model, case.data, guide=guide, estimators={site: estimator})
    message = str(caught.value)
    assert f"site {site!r}" in message
    assert f"cannot use {estimator!r}" in message
    assert "Use estimators." in message or "Leave the override out" in message


def test_refusal_names_the_sound_ones():
    with pytest.raises(
        PlanError,
        match=r"Use estimators\.LocalExpectation\(\) or estimators\.ScoreFunction\(\)",
    ):
        made(cases.SCAN, estimators={"z": Pathwise})


@pytest.mark.parametrize("control", ["LeaveOneOut", "OptimalScale", "Antithetic"])
def test_one_particle_has_no_others(control):
    wanted = estimators.ScoreFunction(control_variate=getattr(estimators, control)())
    words = r"no others to compare with\. Use .* or estimators\.RunningAverage\(\)"
    with pytest.raises(PlanError, match=words):
        bbvi.plan(
            cases.PLATE.model,
            cases.PLATE.data,
            guide=guides.MeanField(),
            estimators={"z": wanted},
            num_particles=1,
        )


def test_coupled_bernoulli_elements_have_antithetic_particles():
    choice = bbvi.plan(*coupled(40)).choices["z"]
    assert choice.reason.endswith("the other particles, which are antithetic")
    alone = bbvi.plan(*coupled(40), num_particles=1).choices["z"]
    assert alone.estimator == ScoreOfChoice
    assert alone.reason.endswith("minus a running average of past steps")


def test_a_control_variate_is_an_object():
    with pytest.raises(TypeError, match=r"estimators\.LeaveOneOut\(\); found 0\.9"):
        estimators.ScoreFunction(control_variate=0.9)
    with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\); found 1"):
        estimators.RunningAverage(decay=1)
    with pytest.raises(ValueError, match="scale must be finite, or None; found nan"):
        estimators.DoubleControl(scale=float("nan"))


def test_a_power_of_a_density_lies_within_the_sum():
    def model(y):
        z = sample("z", dist.Bernoulli(0.3))
        with handlers.scale(scale=3.0):
            sample("y", dist.Normal(1.0 * z, 1.0), obs=y)

    plan = bbvi.plan(model, {"y": 0.4})
    assert plan.choices["z"].estimator == Marginalized
    value, _ = bbvi.loss(plan)({}, jax.random.key(0), {"y": 0.4})
    z = jnp.array([0, 1])
    power = 3.0 * dist.Normal(1.0 * z, 1.0).log_prob(0.4)
    exact = jax.nn.logsumexp(dist.Bernoulli(0.3).log_prob(z) + power)
    np.testing.assert_allclose(-value, exact, rtol=1e-6)


def test_global_over_a_minibatch_is_not_summed():
    def model(y):
        z = sample("z", dist.Bernoulli(0.3))
        with numpyro.plate("rows", 3, 2) as index:
            sample("y", dist.Normal(1.0 * z, 1.0), obs=y[index])

    assert bbvi.plan(model, {"y": Y3}).choices["z"].estimator == Local
    with pytest.raises(PlanError, match=r"'z'.*different scales.*a minibatch"):
        bbvi.plan(model, {"y": Y3}, estimators={"z": Marginalized})


def test_uniform_support_may_move_with_parameters():
    def guide(y):
        sample("mu", dist.Uniform(numpyro.param("a", 0.0), numpyro.param("b", 1.0)))

    case = cases.NORMAL
    plan = bbvi.plan(case.model, case.data, guide=guide)
    assert plan.choices["mu"].estimator == Pathwise
    with pytest.raises(PlanError, match=r"'mu'.*support of its factor Uniform"):
        bbvi.plan(case.model, case.data, guide=guide, estimators={"mu": Score})


def test_no_sound_estimator():
    """A sampler without a derivative whose support moves."""

    class Fixed(dist.Uniform):
        reparametrized_params = ()

    def guide(y):
        low = numpyro.param("low", 0.0)
        sample("mu", Fixed(low, low + 1.0))

    case = cases.NORMAL
    with pytest.raises(PlanError, match=r"'mu'.*no sound estimator.*Write a guide"):
        bbvi.plan(case.model, case.data, guide=guide)


# --- overrides -----------------------------------------------------------------------


def test_override_by_argument():
    plan = made(cases.PLATE, estimators={"z": Score})
    choice = plan.choices["z"]
    assert choice.estimator == Score
    assert choice.reason.startswith("as asked")
    assert f"overridden by {Score!r}" in choice.rejected[Local]
    assert f"overridden by {Score!r}" in choice.rejected[Marginalized]
    assert plan.marginalized == ()


def test_a_score_function_that_names_no_control_variate_has_one_chosen():
    few = made(cases.PLATE, estimators={"z": ScoreOfChoice}).choices["z"]
    assert few.estimator == Partly
    assert few.reason.startswith("as asked")
    assert few.reason.endswith("all its values summed")
    many = bbvi.plan(*coupled(40), estimators={"z": ScoreOfChoice}).choices["z"]
    assert many.estimator == Antithetic


@pytest.mark.parametrize(
    ("case", "what"),
    [
        (cases.PLATE, "discrete, elements that share no cost term; "),
        (cases.SCALAR, "discrete, one element; "),
        (cases.COUPLED["sum"], "discrete, 3 coupled elements; "),
    ],
)
def test_a_score_function_says_how_elements_hang_together(case, what):
    found = made(case, estimators={"z": Score}).choices["z"].reason
    assert found.startswith(f"as asked; {what}costs that each")


def test_override_in_the_model():
    model, data = single(dist.Bernoulli(0.3), infer={"bbvi": Score})
    assert bbvi.plan(model, data).choices["z"].estimator == Score
    both = bbvi.plan(model, data, estimators={"z": Local})
    assert both.choices["z"].estimator == Local, "the argument wins"


def test_override_with_options():
    landing = bbvi.plan(*single(dist.Normal(0, 1)), estimators={"z": Landing})
    assert landing.choices["z"].estimator.stick_the_landing
    assert "sticking the landing" in landing.choices["z"].reason
    assert "Reparameterized(stick_the_landing=True)" in repr(landing)
    slow = estimators.ScoreFunction(
        control_variate=estimators.RunningAverage(decay=0.99)
    )
    plan = made(cases.PLATE, estimators={"z": slow})
    assert plan.choices["z"].estimator == slow


def test_a_large_joint_gaussian_sticks_the_landing_late():
    def choice(dim, **options):
        prior = dist.Normal(jnp.zeros(dim), 1).to_event(1)
        model, data = single(prior, mean=jnp.sum)
        return bbvi.plan(model, data, **options).choices["z"]

    late = choice(21)
    assert late.estimator == estimators.Reparameterized(stick_the_landing="late")
    assert late.reason.endswith("sticking the landing once q has come near")
    plain = estimators.Reparameterized()
    assert choice(20).estimator == plain
    assert choice(21, guide=guides.MeanField()).estimator == plain
    assert choice(21, estimators={"z": plain}).estimator == plain
    for other in ("early", 1, np.True_):
        with pytest.raises(ValueError, match="True, False or 'late'; found"):
            estimators.Reparameterized(stick_the_landing=other)


def test_asking_to_sum_out_with_a_guide_of_ones_own():
    def guide(y):
        sample("mu", dist.Normal(numpyro.param("mu.loc", 0.0), 1.0))

    case = cases.MIXTURE
    plan = bbvi.plan(case.model, case.data, guide=guide, estimators={"z": Marginalized})
    assert plan.marginalized == ("z",)
    assert bbvi.plan(case.model, case.data, guide=guide).marginalized == ("z",)
    with pytest.raises(PlanError, match=r"'z'.*summed out, and .* draws it: leave it"):
        bbvi.plan(
            case.model, case.data, guide=case.guide, estimators={"z": Marginalized}
        )


# --- bad input -----------------------------------------------------------------------


def refused(match, case=cases.PLATE, kind=ValueError, **arguments):
    with pytest.raises(kind, match=match) as caught:
        bbvi.plan(case.model, case.data, **arguments)
    return str(caught.value)


def test_unknown_site():
    refused(r"'w', which is no latent site; .* are z", estimators={"w": Score})
    refused(r"'y', which is no latent site", estimators={"y": Score})


@pytest.mark.parametrize("wrong", ["score", estimators.ScoreFunction, None, 3])
def test_estimator_of_a_wrong_type(wrong):
    refused(r"'z' must be one of bbvi.estimators", estimators={"z": wrong})


def test_estimator_of_a_wrong_type_in_the_model():
    model, data = single(dist.Bernoulli(0.3), infer={"bbvi": {"estimator": "score"}})
    with pytest.raises(PlanError, match=r"'z' must be one of bbvi.estimators"):
        bbvi.plan(model, data)


@pytest.mark.parametrize("number", [0, -1])
def test_too_few_particles(number):
    refused(f"num_particles must be at least 1; found {number}", num_particles=number)


@pytest.mark.parametrize("number", [1.5, "2", True])
def test_particles_of_a_wrong_type(number):
    refused("num_particles must be an int", num_particles=number)


def test_guide_class():
    refused(r"guide is the class FullRank: write FullRank\(\)", guide=guides.FullRank)


def test_guide_of_a_wrong_type():
    refused(r"guide must be a family .* found str", guide="mean field")


def test_guide_that_misses_a_latent():
    refused(
        r"'mu'.* has no statement in plate_guide",
        cases.MIXTURE,
        guide=cases.plate_guide,
    )


def test_guide_that_misses_a_discrete_latent_that_cannot_be_summed_out():
    case = cases.COUPLED["sum"]
    refused(
        r"'z'.* has no statement in <lambda> \(3 of its elements share .*\): add",
        case,
        guide=lambda y: None,
    )
    refused(
        r"'z'.* has no statement in <lambda> \(overridden by ScoreFunction",
        guide=lambda y: None,
        estimators={"z": Score},
    )


def test_guide_with_an_unknown_draw():
    def guide(y):
        sample("z", dist.Bernoulli(0.5 * jnp.ones(3)))
        sample("extra", dist.Normal(0, 1))

    message = refused(
        r"guide draws 'extra', which is no latent of the model \(z\)", guide=guide
    )
    assert "is_auxiliary" in message


def test_guide_of_another_shape():
    def guide(y):
        sample("z", dist.Bernoulli(0.5 * jnp.ones(2)))

    refused(r"draws 'z' with shape \(2,\), the model has \(3,\)", guide=guide)


def test_guide_of_another_kind():
    def guide(y):
        sample("z", dist.Normal(jnp.zeros(3), 1))

    refused(r"'z' from a Normal, .* one is discrete, the other is not", guide=guide)


def test_guide_that_takes_other_arguments():
    def guide(x):
        sample("z", dist.Bernoulli(0.5 * jnp.ones(3)))

    refused("guide cannot be run.*unexpected keyword argument 'y'", guide=guide)


def test_guide_that_branches_on_a_draw():
    def guide(y):
        z = sample("z", dist.Bernoulli(0.5 * jnp.ones(3)))
        if z[0]:
            pass

    refused(r"guide uses the value of a latent.*jnp\.where", guide=guide)


def test_guide_with_a_constraint_that_moves():
    def guide(y):
        top = dist.constraints.interval(0.0, y.max())
        p = numpyro.param("p", 0.1 * jnp.ones(3), constraint=top)
        sample("z", dist.Bernoulli(p))

    refused("parameter 'p' has a constraint that is computed", guide=guide)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (cases.mixed_minibatch(2), None),
        (cases.minibatch(2), "none"),
    ],
)
def test_full_rank_on_minibatches(case, words):
    """It carries no local continuous site; discrete ones are not its business."""
    plan = bbvi.plan(case.model, case.data, guide=guides.FullRank())
    assert plan.guide == guides.FullRank()


def test_full_rank_refuses_subsampled_sites():
    def model(y):
        with numpyro.plate("rows", 3, 2) as index:
            z = sample("z", dist.Normal(0, 1))
            sample("y", dist.Normal(z, 1), obs=y[index])

    with pytest.raises(PlanError, match=r"'z'.*subsampled.*use guides\.MeanField\(\)"):
        bbvi.plan(model, {"y": Y3}, guide=guides.FullRank())
    assert bbvi.plan(model, {"y": Y3}).guide == guides.MeanField()


def test_support_without_a_factor():
    class Even(dist.constraints.Constraint):
        is_discrete = True

        def __call__(self, x):
            return x % 2 == 0

        def feasible_like(self, prototype):
            return jnp.zeros_like(prototype)

        def tree_flatten(self):
            return (), ((), {})

    class Doubled(dist.Poisson):
        support = Even()

    model, data = single(Doubled(2.0))
    with pytest.raises(PlanError, match=r"'z'.*no factor of q.*guide="):
        bbvi.plan(model, data)


@pytest.mark.parametrize("kind", ["latent", "param", "data"])
def test_bounds_that_numpyro_differentiates_wrongly(kind):
    def model(y, top):
        if kind == "latent":
            top = sample("top", dist.LogNormal(0.0, 1.0)) + top
        if kind == "param":
            top = numpyro.param("top", 1.0, constraint=dist.constraints.positive) + top
        z = sample("z", dist.Normal(0.0, 1.0))
        sample("y", dist.DoublyTruncatedPowerLaw(z, 0.1, top), obs=y)

    data = {"y": np.float32(1.2), "top": np.float32(4.0)}
    if kind == "data":
        assert bbvi.plan(model, data).choices["z"].estimator == Pathwise
    else:
        with pytest.raises(ValueError, match="'y'.*log_prob in them is wrong"):
            bbvi.plan(model, data)


def test_all_problems_in_one_error():
    message = refused(
        "plate_model has no sound plan",
        guide="nonsense",
        estimators={"w": Score, "z": 3},
        num_particles=0,
    )
    assert message.count("\n  - ") == 4


def test_analysis_problems_come_first():
    with pytest.raises(ValueError, match="argument 'y' has 1 values that are NaN"):
        bbvi.plan(cases.plate_model, {"y": np.array([np.nan, 1.0, 2.0])})


# --- the plan itself -----------------------------------------------------------------


def test_prints():
    lines = repr(made(cases.MIXTURE, num_particles=1)).splitlines()
    assert lines[0] == "Plan for tests.cases.mixture_model"
    assert "guide      MeanField(): one dimension" in lines
    assert "gradient   1 particle a step" in lines
    assert any(x.startswith("mu    Reparameterized()  continuous") for x in lines)
    assert any(x.startswith("z     Marginalized()     finite") for x in lines)
    assert "  z: LocalExpectation, ScoreFunction: Marginalized is preferred" in lines
    assert "  z: Reparameterized: its draws jump as the parameters move" in lines
    assert "gradient   2 particles a step" in repr(made(cases.MIXTURE, num_particles=2))


def test_init_has_the_shapes_of_the_parameters():
    plan = bbvi.plan(
        cases.LOCATION_SCALE.model, cases.LOCATION_SCALE.data, guide=guides.MeanField()
    )
    first, again = plan.init(jax.random.key(0)), plan.init(jax.random.key(0))
    assert set(first) == set(plan.parameters) == set(cases.LOCATION_SCALE.params)
    assert all(np.array_equal(first[n], again[n]) for n in first)
    other = plan.init(jax.random.key(1))
    assert any(not np.array_equal(first[n], other[n]) for n in first)


def test_init_holds_whole_plates_and_the_models_parameters():
    plan = made(cases.minibatch(2), estimators={"z": Score})
    assert plan.init(jax.random.key(0))["z.logits"].shape == (5,)
    plan = made(cases.CATEGORICAL)
    assert plan.init(jax.random.key(0))["m"].shape == (3,)


def test_fingerprint_tells_plans_apart():
    plain, scored = made(cases.PLATE), made(cases.PLATE, estimators={"z": Score})
    assert plain.fingerprint == made(cases.PLATE).fingerprint
    assert plain.fingerprint != scored.fingerprint


def test_plan_feeds_the_loss():
    plan = made(cases.MIXTURE)
    value, info = bbvi.loss(plan)(
        plan.init(jax.random.key(0)), jax.random.key(1), cases.MIXTURE.data
    )
    assert np.isfinite(value)
    np.testing.assert_allclose(-value, info.elbo, rtol=1e-6)
    np.testing.assert_allclose(sum(info.terms.values()), info.elbo, rtol=1e-5)


def test_jit_grad_and_vmap_work_on_the_loss():
    model, data = single(dist.Bernoulli(0.3))
    loss = bbvi.loss(bbvi.plan(model, data))
    y = data["y"]
    exact = np.logaddexp(
        np.log(0.3) + dist.Normal(1.0, 1.0).log_prob(y),
        np.log(0.7) + dist.Normal(0.0, 1.0).log_prob(y),
    )
    keys = jax.random.split(jax.random.key(0), 3)
    value, info = jax.jit(jax.vmap(loss, (None, 0, None)))({}, keys, data)
    np.testing.assert_allclose(-value, np.full(3, exact), rtol=1e-5)
    again, _ = jax.jit(loss)({}, keys[0], data)
    np.testing.assert_allclose(again, value[0], rtol=1e-6)
    slope = jax.jit(jax.grad(lambda y: loss({}, keys[0], {"y": y})[0]))(y)
    on = np.exp(np.log(0.3) + dist.Normal(1.0, 1.0).log_prob(y) - exact)
    np.testing.assert_allclose(slope, y - on, rtol=1e-5)


def test_a_loss_is_of_a_plan():
    model, _ = single(dist.Bernoulli(0.3))
    with pytest.raises(TypeError, match=r"loss takes a plan, .*; found function"):
        bbvi.loss(model)
