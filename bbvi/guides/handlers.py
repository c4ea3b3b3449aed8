"""NumPyro handlers around a guide: couple, tap or watch its draws."""

from typing import Any

import jax.numpy as jnp
from numpyro.primitives import Messenger

from bbvi._types import Values


class Couple(Messenger):
    """Draw the named Bernoulli statements from given uniform numbers."""

    def __init__(self, uniforms: Values) -> None:
        super().__init__()
        self.uniforms = uniforms
        self.drawn: set[str] = set()

    def process_message(self, msg: dict[str, Any]) -> None:
        is_open = msg["type"] == "sample" and msg["value"] is None
        if is_open and msg["name"] in self.uniforms:
            ones = self.uniforms[msg["name"]] < msg["fn"].mean
            msg["value"] = ones.astype(jnp.result_type(bool, int))
            self.drawn.add(msg["name"])

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        missed = self.uniforms.keys() - self.drawn
        if missed and exception[0] is None:
            raise RuntimeError(f"the draws of {sorted(missed)} were not coupled")


class Tap(Messenger):
    """Let every draw depend on an input of its own as well as on its parents."""

    def __init__(self, inputs: Values) -> None:
        super().__init__()
        self.inputs = inputs

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] in self.inputs:
            draw = msg["value"]
            msg["value"] = self.inputs[msg["name"]] + (draw - draw)
            msg["intermediates"] = []


class Watch(Messenger):
    """Note the statements whose draws are made here, and can be replaced.

    Those of NumPyro's scan come with values, which were drawn out of reach.
    """

    def __init__(self) -> None:
        super().__init__()
        self.drawn: set[str] = set()

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["value"] is None:
            self.drawn.add(msg["name"])
