"""The `Estimator` interface and the `Situation` that it judges."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

from bbvi.analysis import Site


class Situation(NamedTuple):
    """What is known about one latent site when its estimator is chosen.

    Attributes:
        site: The site of the model.
        factor: Class name of its factor of q; empty if q leaves the site out.
        is_differentiable: Whether the factor's draws can be differentiated.
        support_moves: Whether the factor's support may depend on parameters.
        joint: Name of the auxiliary site that draws it together with others.
        joint_size: Elements of all sites that are drawn so.
        coupled: Number of elements of the site that share cost terms; 1 if none do.
        colours: Groups of elements that share no cost term within; 1 if none do.
        scales: Different scales, of their plates, of the cost terms it reaches.
        feeds: Later draws of the guide that depend on it.
        bounded: Other sites whose support depends on it.
        route: How it can be summed out of the model, in words.
        obstacle: Why it cannot be.
        evaluations: Evaluations of the model that summing it out takes.
        has_entropy: Whether the factor knows its entropy in closed form.
        jump: Where the log density jumps along the site, as a clause; empty if it
            does not.
        num_particles: Draws of q in one gradient estimate.
        is_bernoulli: Whether the factor is a Bernoulli.
        is_hidden: Whether its draw is out of reach, as inside NumPyro's scan.
        fed_by: Draws of the guide on which the factor depends.
        unrelaxed: Why the model takes no fractions at a Bernoulli site; empty if it
            does.
        drawn: The statement of the guide as a site of its own.
        rows: For each axis of the site the number of its elements, those outside of a
            minibatch too; 0 where they share cost terms.
        arguments: Shapes of the data by name.
    """

    site: Site
    factor: str = ""
    is_differentiable: bool = False
    support_moves: bool = False
    joint: str = ""
    joint_size: int = 0
    coupled: int = 1
    colours: int = 1
    scales: tuple[float, ...] = (1.0,)
    feeds: tuple[str, ...] = ()
    bounded: tuple[str, ...] = ()
    route: str = ""
    obstacle: str = ""
    evaluations: int = 0
    has_entropy: bool = False
    jump: str = ""
    num_particles: int = 4
    is_bernoulli: bool = False
    is_hidden: bool = False
    fed_by: tuple[str, ...] = ()
    unrelaxed: str = "whether the model takes fractions was not tried"
    drawn: Site | None = None
    rows: tuple[int, ...] = ()
    arguments: Mapping[str, tuple[int, ...]] = {}

    @property
    def num_values(self) -> int:
        """Size of the finite support, 0 if there is none."""
        return 0 if self.site.values is None else len(self.site.values)


@dataclass(frozen=True)
class Option:
    """A choice that is written as a call, with only what differs from its defaults."""

    def __repr__(self) -> str:
        changed = (
            f"{f.name}={getattr(self, f.name)!r}"
            for f in fields(self)
            if getattr(self, f.name) != f.default
        )
        return f"{type(self).__name__}({', '.join(changed)})"


@dataclass(frozen=True, repr=False)
class Estimator(Option):
    """How the gradient gets through one site.

    To write your own:
      - make a frozen dataclass (`repr=False`) whose fields are the options;
      - `refusal` returns why it would be unsound at a site, or None;
      - `reason` returns why it is the right one there, as a clause;
      - teach `bbvi.surrogates` the terms it adds to the bound.
    """

    @abstractmethod
    def refusal(self, situation: Situation) -> str | None:
        """Why the estimator would be wrong here, or None if it is sound."""

    @abstractmethod
    def reason(self, situation: Situation) -> str:
        """Why it is a good choice here, given that it is sound."""

    def cost(self, situation: Situation) -> int:
        """Evaluations of the model that a particle needs beyond its own."""
        return 0
