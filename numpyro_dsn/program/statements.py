"""A model followed by what is stated about it, and what all statements ask together."""

from collections.abc import Mapping
from typing import Any

from numpyro import handlers
from numpyro.primitives import Messenger

from numpyro_dsn.constraints import Constraint
from numpyro_dsn.constraints.constraint import Vector, join
from numpyro_dsn.primitives import is_behavior
from numpyro_dsn.program.program import Behavior, Model


class Sites(handlers.trace):
    """A trace that refuses two sites of one name and notices simulator noise."""

    def __enter__(self) -> dict[str, dict]:
        self.noise = False
        return super().__enter__()

    def postprocess_message(self, message: dict) -> None:
        """Record the message."""
        if message["type"] == "prng_key":
            self.noise = True
        named = message["type"] in ("sample", "deterministic", "behavior")
        if named and message["name"] in self.trace:
            raise ValueError(_two_of_one_name(message))
        super().postprocess_message(message)


def _two_of_one_name(message: dict) -> str:
    if message["type"] == "behavior":
        name = message["infer"]["about"]
        return f"Two behaviors are stated about the site '{name}'; state one of them."
    name = message["name"]
    if is_behavior(message):
        return (
            f"Two sites are named '{name}'; rename one of them, or state the behavior about the "
            f"value of that site itself, `behavior('{name}', sites['{name}'], ...)`."
        )
    return (
        f"Two sites are named '{name}'; rename one of them, or pass a dict {{site: constraint}} as "
        "the behavior to state something about an existing site."
    )


class _AboutSites(Messenger):
    """Let a statement that has the name and the value of a site speak about that site."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        super().__init__()

    def process_message(self, message: dict) -> None:
        if not is_behavior(message):
            return
        name = message["name"]
        if name in self.values and self.values[name] is message["value"]:
            # A type that no handler knows: it only carries the constraint to our own traces.
            message["type"] = "behavior"
            message["name"] = f"behavior about {name}"
            message["infer"] = message["infer"] | {"about": name}


def with_behavior(model: Model, behavior: Behavior | None) -> Model:
    """Return the model followed by the statements of a behavior callable.

    Parameters
    ----------
    model
        A NumPyro model.
    behavior
        A callable that receives ``{site: value}`` of the model and makes ``behavior`` statements.
        Nothing is added for ``None`` or for a dict, which speaks about sites that exist.

    Returns
    -------
    A NumPyro model of the same arguments and return value.
    """
    if not callable(behavior):
        return model

    def model_and_behavior(*args: Any, **kwargs: Any) -> Any:
        with Sites() as sites:
            returned = model(*args, **kwargs)
        values = {
            name: site["value"]
            for name, site in sites.items()
            if site["type"] in ("sample", "deterministic") and not is_replaced(site)
        }
        with _AboutSites(values):
            behavior(values)
        return returned

    return model_and_behavior


def is_replaced(site: dict) -> bool:
    """Whether ``numpyro.handlers.do`` gave the model another value in place of this site's."""
    return "_intervener_id" in site


def stated_bounds(constraints: Mapping[str, Constraint]) -> tuple[Vector, Vector]:
    """Return lower and upper bounds of E[T], each of shape ``(num_constraints,)``."""
    lower, upper = zip(*(constraint.bounds() for constraint in constraints.values()), strict=True)
    return join(*lower), join(*upper)


def stated_units(constraints: Mapping[str, Constraint]) -> Vector:
    """Return the unit of each entry of T, NaN where no spread was asked; of shape as the bounds."""
    return join(*(constraint.units() for constraint in constraints.values()))
