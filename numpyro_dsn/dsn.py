"""The degenerate solution network: a flow fitted to a behavior, epoch by epoch."""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro import handlers
from numpyro.infer.autoguide import AutoContinuous
from numpyro.infer.util import transform_fn
from tqdm.auto import trange

from numpyro_dsn.certificate import infeasible
from numpyro_dsn.default_guide import default_guide
from numpyro_dsn.epoch import ChainState, Params, penalty_epoch, start_chain
from numpyro_dsn.fit import Fit
from numpyro_dsn.flow import build_flow, prior_sampler, require_density, set_up_guide
from numpyro_dsn.gradients import should_follow_gradients
from numpyro_dsn.guides import unconstrained_posterior
from numpyro_dsn.history import History, extend_history, start_history
from numpyro_dsn.multipliers import DualNewton, NewtonState, PenaltyMethod
from numpyro_dsn.newton import SMALLEST, newton_epoch, start_newton
from numpyro_dsn.objective import Particles, draw_particles
from numpyro_dsn.optim import as_numpyro_optim
from numpyro_dsn.inference_data import load_arrays
from numpyro_dsn.pool import component_of
from numpyro_dsn.program import Behavior, Model, read
from numpyro_dsn.result import DSNResult
from numpyro_dsn.status import Status, warn
from numpyro_dsn.summary import progress_text
from numpyro_dsn.trees import same, strong

NUM_DRAWS, NUM_NOISY, NUM_VALUES = 32_000, 8000, 8_000_000
"""Draws of an epoch, by default; fewer of a stochastic simulator, which runs each several times,
and of so many latents that they would have more values than the last number."""

NUM_REPLICATES = 16
"""Simulations of each draw behind a certificate of the penalty method, if there is noise."""


class DSNState(NamedTuple):
    """Everything needed to continue a run.

    chains
        State of every fit; arrays have a leading axis ``num_chains``.
    history
        What was recorded so far.
    """

    chains: ChainState
    history: History


class DSN:
    r"""Learn which parameters of a circuit produce a behavior, and are otherwise random.

    .. math:: q^* = \arg\max_q\; -KL(q \,\|\, p)
              \quad \text{s.t.} \quad E_{z \sim q}\, E_{x \sim p(x|z)} [T(x)] = \mu

    Parameters
    ----------
    model
        A NumPyro model: priors of the circuit's parameters and a simulator. Noise of the
        simulator comes from ``numpyro.prng_key()`` or from sites marked with ``simulator()``.
    behavior
        A callable of ``{site: value}`` that makes ``behavior`` statements, or a dict
        ``{site: constraint}``; ``None`` if the model itself states its behavior.
    guide
        A continuous AutoGuide; :class:`~numpyro_dsn.guides.AutoRealNVP` by default, with a
        mixture base, and one that rejects draws, for up to 8 latents under ``DualNewton``.
    optim
        A NumPyro or optax optimizer; by default ``SOAP(5e-3)`` for ``DualNewton``, which shrinks
        its steps, and ``Adam(1e-3)`` for ``PenaltyMethod``.
    multipliers
        How the dual variables move: ``DualNewton()``, or ``PenaltyMethod()`` as published.
    num_particles
        Number of draws in a step. The penalty method simulates each once, and so does
        ``DualNewton`` where it follows gradients, of more than 8 latents.
    num_steps
        Number of optimizer steps in an epoch.
    num_chains
        Number of independent fits, run together.

    Raises
    ------
    ValueError
        If a count is not positive, or the number of draws is too small for an unbiased penalty.

    References
    ----------
    The draft's eq. 1 and appendix A.1.
    """

    def __init__(
        self,
        model: Model,
        behavior: Behavior | None = None,
        guide: AutoContinuous | None = None,
        optim: Any = None,
        multipliers: PenaltyMethod | DualNewton = DualNewton(),  # noqa: B008 - immutable
        *,
        num_particles: int = 500,
        num_steps: int = 1000,
        num_chains: int = 1,
    ) -> None:
        for name, value, least in (
            ("num_particles", num_particles, 2),
            ("num_steps", num_steps, 1),
            ("num_chains", num_chains, 1),
        ):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, but is {value}.")
        self.model = model
        self.behavior = behavior
        self.guide = guide
        self.optim = as_numpyro_optim(optim, multipliers)
        self.multipliers = multipliers
        self.num_particles = num_particles
        self.num_steps = num_steps
        self.num_chains = num_chains
        self._arguments: tuple[tuple, dict] | None = None

    def init(self, rng_key: Array, *args: Any, **kwargs: Any) -> DSNState:
        """Read the model, set up the guide and measure the start.

        Parameters
        ----------
        rng_key
            Key of the whole run.
        args, kwargs
            Arguments of the model.

        Returns
        -------
        The state before the first epoch.

        Raises
        ------
        ValueError
            If the model or the behavior cannot be meant; the message names the site.
        """
        self._set_up(args, kwargs)
        began = time.perf_counter()
        chains, start = jax.block_until_ready(
            self._start(jax.random.split(rng_key, self.num_chains))
        )
        return DSNState(chains, start_history(start, time.perf_counter() - began))

    def update(self, state: DSNState) -> DSNState:
        """Run one epoch of every fit; :meth:`init` or :meth:`run` must have set up the model."""
        began = time.perf_counter()
        chains, epoch, steps = jax.block_until_ready(self._epoch(state.chains))
        seconds = time.perf_counter() - began
        return DSNState(chains, extend_history(state.history, epoch, steps, seconds))

    def run(
        self,
        rng_key: Array,
        *args: Any,
        num_epochs: int = 50,
        init_state: DSNState | None = None,
        progress_bar: bool = True,
        **kwargs: Any,
    ) -> DSNResult:
        """Fit the flow.

        Parameters
        ----------
        rng_key
            Key of the whole run; not used with ``init_state``, which holds its own.
        args, kwargs
            Arguments of the model.
        num_epochs
            Largest number of epochs. The dual Newton method stops when every fit has converged,
            or has shrunk its steps so far that it moves no more.
        init_state
            State to continue from, ``result.state``.
        progress_bar
            Whether to show entropy and largest violation while running.

        Returns
        -------
        The fit. After Ctrl-C it holds the last finished epoch and its status says so.
        """
        self._set_up(args, kwargs)
        status = None
        disable = not progress_bar or "CI" in os.environ
        with trange(num_epochs, desc="DSN", unit="epoch", disable=disable) as bar:
            bar.set_postfix_str("compiling, simulating the first circuits")
            state = self.init(rng_key, *args, **kwargs) if init_state is None else init_state
            bar.reset()
            try:
                for _ in bar:
                    bar.set_postfix_str(progress_text(state.history))
                    status = _failure(state.history)
                    if status is not None:
                        break
                    state = self.update(state)
                    bar.set_postfix_str(progress_text(state.history))
                    if _is_done(state):
                        break
            except KeyboardInterrupt:
                status = Status.INTERRUPTED
        return self._result(state, status or _failure(state.history))

    def get_params(self, state: DSNState) -> Params:
        """Return the guide's current parameters; arrays have a leading axis ``num_chains``."""
        return jax.vmap(self._constrain)(state.chains.params)

    def load(self, path: str | Path, *args: Any, **kwargs: Any) -> DSNResult:
        """Load a result saved by a DSN of the same model, behavior, guide and settings.

        Parameters
        ----------
        path
            File written by :meth:`DSNResult.save`.
        args, kwargs
            Arguments of the model.

        Returns
        -------
        The saved result; ``run(..., init_state=result.state)`` continues it.

        Raises
        ------
        ValueError
            If the file was saved from another model, behavior, guide or optimizer.
        """
        self._set_up(args, kwargs)
        template = self._start_template()
        state, code = load_arrays(path, (template, np.zeros((), int)), self._fingerprint())
        return self._result(state, list(Status)[int(code)])

    def _start_template(self) -> DSNState:
        keys = jax.random.split(jax.random.key(0), self.num_chains)
        chains, start = jax.eval_shape(self._start, keys)
        zeros = partial(jax.tree.map, lambda leaf: jnp.zeros(leaf.shape, leaf.dtype))
        chains = zeros(chains._replace(rng_key=None))._replace(rng_key=keys)
        return DSNState(chains, start_history(zeros(start), 0.0))

    def _set_up(self, args: tuple, kwargs: dict) -> None:
        """Read the model and build the compiled functions, once for the same arguments."""
        if self._arguments is not None and same(self._arguments, (args, kwargs)):
            return
        program = read(jax.random.key(0), self.model, self.behavior, args, kwargs)
        by_newton = isinstance(self.multipliers, DualNewton)
        by_gradients = by_newton and should_follow_gradients(program, args, kwargs)
        guide = self.guide
        if guide is None:
            guide = default_guide(program, needs_paths=by_gradients or not by_newton)
        transforms = set_up_guide(guide, program, args, kwargs)
        self._constrain = partial(transform_fn, transforms)

        def init_params(rng_key: Array) -> Params:
            trace = handlers.trace(handlers.seed(guide, rng_key)).get_trace(*args, **kwargs)
            params = {name: trace[name]["value"] for name in transforms}
            return transform_fn(transforms, params, invert=True)

        def draw(rng_key: Array, params: Params) -> Particles:
            return draw_particles(
                rng_key,
                self._constrain(params),
                program.model,
                guide,
                program.constraints,
                self.num_particles,
                args,
                kwargs,
            )

        method, optim, bounds = self.multipliers, self.optim, (program.lower, program.upper)
        sizes = self.num_particles, self.num_steps
        replicates = method.num_replicates if isinstance(method, DualNewton) else NUM_REPLICATES
        flow = build_flow(program, guide, self._constrain, replicates, args, kwargs)
        prior = prior_sampler(program, guide, args, kwargs)
        if isinstance(method, DualNewton):
            some = init_params(jax.random.key(0))
            require_density(flow.log_prob, some, guide.latent_dim)
            most = NUM_NOISY if program.is_stochastic else NUM_DRAWS
            most = min(most, NUM_VALUES // guide.latent_dim)
            num_draws = most if method.num_draws is None else method.num_draws
            per_epoch = num_draws, *sizes
            paths, params = None, self._constrain(some)
            if by_gradients and unconstrained_posterior(guide, params).has_rsample:
                paths = build_flow(program, guide, self._constrain, 1, args, kwargs)

            def start(rng_key: Array) -> Any:
                params = init_params(rng_key)
                return start_newton(rng_key, method, optim, flow, params, prior, *bounds, num_draws)

            def epoch(chain: ChainState) -> Any:
                return newton_epoch(chain, method, optim, flow, paths, *bounds, *per_epoch)

        else:

            def start(rng_key: Array) -> Any:
                params = init_params(rng_key)
                return start_chain(rng_key, method, optim, draw, params, *bounds, sizes[0])

            def epoch(chain: ChainState) -> Any:
                return penalty_epoch(chain, method, optim, draw, *bounds, *sizes)

        self._start = jax.jit(lambda keys: strong(_for_each(start, keys)))
        self._epoch = jax.jit(lambda chains: strong(_for_each(epoch, chains)))
        self._fit = Fit(program, guide, args, kwargs, flow, prior)
        self._arguments = args, kwargs

    def _result(self, state: DSNState, failure: Status | None) -> DSNResult:
        chains, epochs = state.chains, state.history.epochs
        converged = np.asarray(chains.best.epoch) >= 0

        def choose(best: Array, last: Array) -> Array:
            return jnp.where(converged.reshape((-1,) + (1,) * (best.ndim - 1)), best, last)

        params = jax.vmap(self._constrain)(jax.tree.map(choose, chains.best.params, chains.params))
        held = np.where(converged, chains.best.epoch, chains.epoch)
        # Converged fits first, by entropy; then those that are closest to what was asked.
        worst = np.abs(epochs.violation[-1]).max(-1)
        score = np.where(converged, chains.best.score, -np.nan_to_num(worst, nan=np.inf))
        chain = np.lexsort((-score, ~converged))[0]
        status = Status.CONVERGED if converged.any() else Status.NOT_CONVERGED
        status = failure or status
        # What cannot be met drives a fit ever further, in the end perhaps to NaN.
        aimless = status in (Status.NOT_CONVERGED, Status.DIVERGED)
        unmet = self._unmet(chains, chain) if aimless else None
        if unmet is not None:
            status = Status.INFEASIBLE
        if status is not Status.CONVERGED:
            warn(status.value if unmet is None else f"{status.value} Here {unmet}.")
        return DSNResult(
            fit=self._fit,
            params=params,
            state=state,
            status=status,
            epochs=held,
            chain=int(chain),
            fingerprint=self._fingerprint(),
        )

    def _unmet(self, chains: ChainState, chain: int) -> str | None:
        """Return what the circuits that a fit simulated cannot meet, if it kept them."""
        dual, program = chains.dual, self._fit.program
        if not isinstance(dual, NewtonState):
            return None
        dual = jax.tree.map(lambda leaf: leaf[chain], dual)
        lower, upper = ((b - dual.origin) / dual.scale for b in (program.lower, program.upper))
        newest = component_of(chains.epoch[chain], dual.pool)
        return infeasible(dual.pool, lower, upper, program.labels, newest)

    def _fingerprint(self) -> dict[str, Any]:
        program = self._fit.program
        return {
            "guide": type(self._fit.guide).__name__,
            "latents": {name: list(np.shape(s["value"])) for name, s in program.latents.items()},
            "statistics": program.labels,
            "bounds": np.stack([program.lower, program.upper]).astype(float).tolist(),
            "num_chains": self.num_chains,
        }


def _for_each(function: Callable[[Any], Any], chains: Any) -> Any:
    """Apply a function to every fit, side by side where an accelerator has several to do.

    Side by side, both branches of the optimizer's condition are computed in every step, and matrix
    decompositions are batched, which can block all threads of a CPU (see ``soap``).
    """
    several = jax.tree.leaves(chains)[0].shape[0] > 1
    if several and jax.default_backend() != "cpu":
        return jax.vmap(function)(chains)
    return jax.lax.map(function, chains)


def _is_done(state: DSNState) -> bool:
    """Whether every fit of the dual Newton method has converged, or has come to rest."""
    dual = state.chains.dual
    if not isinstance(dual, NewtonState):
        return False
    converged = np.any(state.history.epochs.converged, axis=0)
    return bool(np.all(converged | (np.asarray(dual.step_scale) <= SMALLEST)))


def _failure(history: History) -> Status | None:
    last = jax.tree.map(lambda leaf: leaf[-1], history.epochs)
    if np.all(last.nonfinite > 0.5):
        return Status.NONFINITE
    if np.all(last.skipped > 0.5) or not np.any(np.isfinite(last.entropy)):
        return Status.DIVERGED
    return None
