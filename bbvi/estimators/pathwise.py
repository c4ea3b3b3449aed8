"""`Reparameterized`: the gradient goes through the draw itself."""

from dataclasses import dataclass
from typing import Literal

from bbvi.estimators.base import Estimator, Situation

LATE = 20
"""Size of a joint Gaussian above which a fit sticks the landing late.

The noise of the other gradient grows with the square of the size.
"""


@dataclass(frozen=True, repr=False)
class Reparameterized(Estimator):
    r"""Pathwise gradient of a continuous site.

    $$\nabla_\lambda E_q[f(z)] = E_\epsilon[\nabla_z f(z)\,\nabla_\lambda z(\epsilon,
      \lambda)]$$

    with the draw written as a function of noise (explicit), or $\nabla_\lambda z$ from
    the distribution function (implicit: Gamma, Beta, Dirichlet, Student's t). One
    evaluation a particle. The entropy of the factor is taken in closed form where it
    is known. It needs a log joint that is continuous along the site, with its true
    derivative; kinks are harmless.

    Args:
        stick_the_landing: Use $-\log q(z)$ at the draw, differentiated through $z$
            alone, in place of the entropy: the noise vanishes as q reaches the
            posterior, and is larger far from it. With ``"late"`` `bbvi.fit` does so
            once its bound has nearly stopped rising, and `bbvi.loss` does not.

    Raises:
        ValueError: The argument is anything else.

    Example:
        >>> import bbvi
        >>> bbvi.estimators.Reparameterized()
        Reparameterized()

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, section 2.4;
        Figurnov, Mohamed and Mnih (2018), Implicit reparameterization gradients,
        eq. 5; Roeder, Wu and Duvenaud (2017), Sticking the landing, eq. 8.
    """

    stick_the_landing: bool | Literal["late"] = False

    def __post_init__(self) -> None:
        given = self.stick_the_landing
        if not isinstance(given, bool) and given != "late":
            raise ValueError(
                f"stick_the_landing must be True, False or 'late'; found {given!r}"
            )

    def refusal(self, situation: Situation) -> str | None:
        if situation.site.is_discrete:
            return "its draws jump as the parameters move"
        if not situation.factor:
            return "q has no factor for it"
        if not situation.is_differentiable:
            return (
                f"the sampler of its factor {situation.factor} cannot be "
                f"differentiated correctly"
            )
        return situation.jump or None

    def reason(self, situation: Situation) -> str:
        known = "in closed form" if situation.has_entropy else "from the draws"
        entropy = {
            True: "sticking the landing",
            False: f"entropy {known}",
            "late": f"entropy {known}, sticking the landing once q has come near",
        }[self.stick_the_landing]
        through = "through the joint Gaussian, " if situation.joint else ""
        return f"continuous, with a differentiable sampler; {through}{entropy}"
