"""What a model and a behavior are once they were read."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpyro.distributions import biject_to
from numpyro.distributions.constraints import Constraint as Support

from numpyro_dsn.constraints import Constraint
from numpyro_dsn.constraints.constraint import Vector

Model = Callable[..., Any]
Behavior = Callable[[dict[str, Any]], None] | Mapping[str, Constraint]


class Program(NamedTuple):
    """A model and a behavior after they were read.

    model
        Callable with the model's sites and the behavior's, without parameters of its own.
    guide_model
        The same model with nothing but its latent sites, which is what an AutoGuide should see.
    constraints
        What is asked, by site name; targets are numbers.
    lower, upper
        Bounds on E[T], NumPy's, each of shape ``(num_constraints,)``; equal for equalities.
    units
        Unit of each entry of T, shape ``(num_constraints,)``; NaN where no spread was asked.
    labels
        One label for each of the ``num_constraints`` entries of T.
    latents
        Prototype message of each latent site; its value lies inside the support.
    supports
        Support of each latent site, with bounds that are numbers.
    sites
        Prototype messages of all sites, for names, shapes and plates. Nothing was computed: a
        value is a ``jax.ShapeDtypeStruct`` unless the site is latent.
    is_proper
        Whether every prior can be sampled.
    is_stochastic
        Whether the simulator draws noise.
    traces_arrays
        Whether the model can be compiled with its array arguments as inputs. If not, it looks at
        their values in Python, and other values need another compilation.
    """

    model: Model
    guide_model: Model
    constraints: dict[str, Constraint]
    lower: Vector
    upper: Vector
    units: Vector
    labels: list[str]
    latents: dict[str, dict]
    supports: dict[str, Support]
    sites: dict[str, dict]
    is_proper: bool
    is_stochastic: bool
    traces_arrays: bool

    @property
    def free_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each latent site in unconstrained space, in the order of the flat vector."""
        return {
            name: tuple(biject_to(self.supports[name]).inverse_shape(np.shape(site["value"])))
            for name, site in self.latents.items()
        }

    @property
    def num_latents(self) -> int:
        """D, the length of the flat unconstrained vector."""
        return sum(int(np.prod(shape)) for shape in self.free_shapes.values())
