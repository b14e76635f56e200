"""Settings and fixtures of every test: one CPU platform, strict shapes, keys, no leaking config."""

import os
import zlib
from pathlib import Path

import jax
import jaxlib
import numpy as np
import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # for subprocesses; jax itself was imported before
os.environ["MPLBACKEND"] = "Agg"
# Compiling takes far longer than tests run. XLA stops at a flag that it does not know.
if jaxlib.__version__.startswith("0.10."):
    fewer = "--xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false"
    os.environ.setdefault("XLA_FLAGS", fewer)

# Programs are compiled once for all workers and runs, on Python 3.11 and on newer ones alike.
CACHE = Path(__file__).parent.parent / ".pytest_cache" / "xla"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))  # for subprocesses, too

jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
jax.config.update("jax_numpy_rank_promotion", "raise")

GUARDED_CONFIG = ("jax_enable_x64", "jax_numpy_rank_promotion")


@pytest.fixture
def rng_key(request: pytest.FixtureRequest) -> jax.Array:
    """A key of its own for each test, the same in every run."""
    return jax.random.key(zlib.crc32(request.node.name.encode()))


@pytest.fixture(scope="module")
def quick_compilation():
    """Leave out XLA's optimization: compiling takes far longer than small programs run."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def x64():
    """Compute in double precision."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def rng(rng_key: jax.Array) -> np.random.Generator:
    """A generator of its own for each test: draws of NumPy need no compilation."""
    return np.random.default_rng(np.asarray(jax.random.key_data(rng_key)))


@pytest.fixture
def numpyro_ranks():
    """Allow rank promotion, which NumPyro's own distributions need to draw many vectors at once."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(autouse=True)
def _no_config_leak():
    """Fail a test that changes a global setting of jax and leaves it changed."""
    before = {name: getattr(jax.config, name) for name in GUARDED_CONFIG}
    yield
    changed = [name for name in GUARDED_CONFIG if getattr(jax.config, name) != before[name]]
    for name in changed:
        jax.config.update(name, before[name])
    if changed:
        pytest.fail(f"The test changed {changed} and did not restore it.")
