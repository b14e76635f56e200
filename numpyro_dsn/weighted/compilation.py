"""Compiling what runs a few times, which takes longer than it runs."""

from functools import partial

import jax

quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""``jax.jit`` without XLA's optimizations, for programs of a fit that run once an epoch or less:
compilation takes a fifth of the time, a run perhaps three times as long."""
