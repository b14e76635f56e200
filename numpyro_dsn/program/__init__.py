"""A model and a behavior, read once: latents, prior, statistics, targets, and every refusal."""

from numpyro_dsn.program.arguments import Static, join, split
from numpyro_dsn.program.coordinates import constrain, is_uniform, unconstrain
from numpyro_dsn.program.latents import require_latents
from numpyro_dsn.program.prior import draw_prior
from numpyro_dsn.program.program import Behavior, Model, Program
from numpyro_dsn.program.reading import read
from numpyro_dsn.program.simulation import BATCH_SIZE, Simulation, simulate, simulate_many
from numpyro_dsn.program.statements import stated_bounds, stated_units, with_behavior

__all__ = [
    "BATCH_SIZE",
    "Behavior",
    "Model",
    "Program",
    "Simulation",
    "Static",
    "constrain",
    "draw_prior",
    "is_uniform",
    "join",
    "read",
    "require_latents",
    "simulate",
    "simulate_many",
    "split",
    "stated_bounds",
    "stated_units",
    "unconstrain",
    "with_behavior",
]
