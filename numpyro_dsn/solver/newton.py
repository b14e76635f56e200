"""The dual Newton method: solve the dual, fit the flow, simulate, measure, decide."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_dsn.solver.aim import Aim, Limits, settle, solve, weighted_target
from numpyro_dsn.solver.decision import Rules, decide, report
from numpyro_dsn.solver.gradients import count_simulations
from numpyro_dsn.solver.history import Epoch, StepRecords
from numpyro_dsn.solver.inputs import Inputs
from numpyro_dsn.solver.measurement import Measured, measure
from numpyro_dsn.solver.newton_state import NewtonState, build_state, first_state
from numpyro_dsn.solver.optim import adam, soap
from numpyro_dsn.solver.problem import Params, Problem
from numpyro_dsn.solver.simulation import Search, add_draws, first_draws
from numpyro_dsn.solver.state import Held, same
from numpyro_dsn.solver.training import Blocks, LossSettings, Training, fit_in_blocks
from numpyro_dsn.weighted.compilation import quick_jit
from numpyro_dsn.weighted.search import unweighted
from numpyro_dsn.weighted.targets import Targets, in_units

NUM_DRAWS, MAX_VALUES = 16_384, 32_000_000
"""Draws of an epoch by default, and most values that those of many latents have."""

OWN_PROPOSALS, OWN_BATCHES = 3, 8
"""Flows that are kept, with the prior, and batches of the prior's draws, at the most, where the
flow's own draws tell of it: others hardly do."""


class DualNewton(NamedTuple):
    r"""Newton's method on the dual, on weighted draws and inside a trust region.

    .. math:: \min_\eta\; \log E_p[\exp(\eta^\top T)] - \eta^\top \mu

    The solution is the prior tilted by :math:`\exp(\eta^\top T)`. An epoch solves the dual on all
    draws so far, as far as their effective sample size allows; fits the flow to draws of the
    tilted prior; and simulates new draws from the flow. Nothing depends on a penalty, and nothing
    on a gradient of the simulator but where there are many latents.

    Parameters
    ----------
    num_draws
        Number of draws that are simulated in an epoch; three of four are for training. By default
        16,384, half as many of a stochastic simulator, and fewer of thousands of latents.
    num_proposals
        Number of flows whose draws are kept, and the prior.
    num_replicates
        Number of simulations of each draw, if the simulator is stochastic.
    max_simulations
        Largest number of simulations of the prior's draws. More than ``num_draws`` are drawn where
        the property is so rare that these do not know the optimum.
    min_ess
        Smallest effective sample size of the tilted draws: the trust region.
    max_units
        Units of what was asked, from the target, beyond which a statistic counts as if it were
        there. At the optimum nothing is further out; circuits that blow up would otherwise rule
        the dual.
    max_log_ratio
        Log ratios of flow and target count up to this many nats in the loss.
    square_root_at
        Mean squared log ratios, in squared nats, count by their root beyond about this value: far
        from the optimum a few stray draws would outweigh the likelihood.
    offset_rate
        Fraction of the flow's own violation that is undone in an epoch, by aiming beside the
        target.
    max_loss
        An epoch that adds this many nats to the gap is rejected.
    least_gain, shrink, min_step
        An epoch that does not lower the gap to this fraction had steps that were too long; the
        factor of the next ones; and the fraction of the first at which a fit is at rest.
    tolerance
        Largest violation, plus a standard error, in units of what was asked.
    gap_tolerance
        Largest divergence to the tilted prior, plus a standard error and what the violation is
        worth, in nats.
    envelope
        Where the simulator has no noise, draws are rejected as far as this many times the flow's
        density exceeds that of the optimum. The larger, the closer is the fit, and the more draws
        are simulated for each that is kept.
    """

    num_draws: int | None = None
    num_proposals: int = 8
    num_replicates: int = 16
    max_simulations: int = 1_000_000
    min_ess: float = 2000.0
    max_units: float = 60.0
    max_log_ratio: float = 30.0
    square_root_at: float = 9.0
    offset_rate: float = 1.0
    max_loss: float = 1.0
    least_gain: float = 0.9
    shrink: float = 0.7
    min_step: float = 0.02
    tolerance: float = 0.02
    gap_tolerance: float = 0.05
    envelope: float = 4.0

    @property
    def needs_gradients(self) -> bool:
        """Whether the circuit must have gradients."""
        return False

    def default_optim(self, follows_gradients: bool) -> Any:
        """Return the optimizer, whose steps shrink as a fit comes closer.

        A density that is thin in some directions needs steps that differ between them. SOAP has
        them; fits by gradients use Adam.
        """
        return adam(5e-3, 0.99) if follows_gradients else soap(5e-3)

    @property
    def default_num_particles(self) -> int:
        """Number of draws in a step."""
        return 250

    def require(self, flow: Any, params: Params) -> None:
        """Raise unless a flow knows its density at draws that are not its own."""
        try:
            jax.eval_shape(flow.log_prob, params, jnp.zeros((1, flow.dim)))
        except NotImplementedError as error:
            raise ValueError(
                "The guide's flow has no inverse, so it cannot be fitted to weighted draws; leave "
                "the guide out, or use `method=PenaltyMethod()`, which needs no such density."
            ) from error

    def init(self, problem: Problem, rng_key: Array) -> tuple[NewtonState, Epoch]:
        """Simulate draws of the prior and return the state before the first epoch."""
        params = quick_jit(problem.start)(rng_key)
        found, first, strays = first_draws(problem, rng_key, params, self._search(problem))
        num_proposals = self._num_proposals(problem)
        state = first_state(rng_key, params, problem.optim, found, first, num_proposals)
        aim = Aim(state.offset, state.solved, state.gap, state.acceptance)
        measured = self._measure(problem, state, state, aim)[0]
        strays = strays._replace(nonfinite=found.num_nonfinite / found.num_simulated)
        spent = float(found.num_simulated) * self._replicates(problem)
        return state, report(self._rules(problem), state, measured, strays, spent)

    def step(self, problem: Problem, state: NewtonState) -> tuple[NewtonState, Epoch, StepRecords]:
        """Run one epoch; return the state after it, its measurements and one record of them."""
        aim = self._solve(problem, state)
        training, aim = self._fit(problem, state, aim)
        new, strays = add_draws(problem, state, training)
        aim = self._settle(problem, new, aim)
        both = self._measure(problem, new, state, aim)
        rules = self._rules(problem)
        state, measured = decide(rules, state, new, aim, both)
        epoch = report(rules, state, measured, strays, self._num_simulations(problem))
        num_steps = np.asarray(state.epoch)[None] * problem.num_steps
        return state, epoch, StepRecords(num_steps, epoch.entropy[None], epoch.mean[None])

    def is_done(self, state: NewtonState) -> bool:
        """Whether a fit has converged, or its steps have shrunk so far that it moves no more."""
        at_rest = float(state.training.step_scale) <= self.min_step
        return int(state.best.epoch) >= 0 or at_rest

    def inputs(self, problem: Problem, state: NewtonState, held: Held) -> Inputs:
        """Return what a certificate of a fit rests on."""
        params, acceptance = held
        if not same(params, state.params):
            state, _ = add_draws(problem, state, state.training._replace(params=params))
        # The draws of the last epoch came after its multipliers.
        aim = self._solve(problem, state)
        from_prior = jnp.asarray(problem.circuit.prior is not None)
        eta = aim.natural_parameters
        return Inputs(state.pool, state.last, eta, state.targets, from_prior, acceptance)

    def rejects(self, problem: Problem) -> bool:
        """Whether draws of the flow may be rejected by their statistics."""
        return problem.follows_gradients or not problem.is_stochastic

    def template(self, problem: Problem) -> NewtonState:
        """Return shapes and types of a state; nothing is computed."""
        num_proposals = self._num_proposals(problem)

        def build(rng_key: Array) -> NewtonState:
            flat = jnp.zeros((self._num_draws(problem), problem.flow.dim))
            targets = Targets(*[jnp.zeros(len(problem.lower))] * 5)
            first = in_units(problem.circuit.simulate(rng_key, flat), targets)
            start = problem.start(rng_key), problem.optim, unweighted(first)
            return build_state(rng_key, *start, (targets, first.log_prior), num_proposals)

        return jax.eval_shape(build, jax.random.key(0))

    def _solve(self, problem: Problem, state: NewtonState) -> Aim:
        """Solve the dual on all draws."""
        begin = state.pool, state.natural_parameters, state.offset, state.targets
        by_weights = not problem.follows_gradients and self.rejects(problem)
        limits = Limits(self.min_ess, by_weights * self.envelope, problem.follows_gradients)
        return solve(*begin, limits)

    def _fit(self, problem: Problem, state: NewtonState, aim: Aim) -> tuple[Training, Aim]:
        """Fit the flow to the tilted prior, by weighted draws or by gradients of the circuit."""
        key = jax.random.fold_in(jax.random.fold_in(state.rng_key, state.epoch), 1)
        if problem.descend is not None:
            training, aimed = problem.descend(key, state.training, aim.aimed, state.targets)
            return training, aim._replace(acceptance=aim.acceptance._replace(aimed=aimed))
        target = weighted_target(state.pool, aim, state.last)
        blocks = Blocks(self.gap_tolerance / 10, state.pool.log_share.shape[1])
        settings = LossSettings(problem.num_particles, self.max_log_ratio, self.square_root_at)
        return fit_in_blocks(key, state.training, target, problem, settings, blocks), aim

    def _settle(self, problem: Problem, new: NewtonState, aim: Aim) -> Aim:
        """Choose which draws of a flow that followed gradients are kept."""
        if not problem.follows_gradients:
            return aim
        return settle(new.pool, new.last, aim, new.targets, self.envelope)

    def _measure(
        self, problem: Problem, new: NewtonState, old: NewtonState, aim: Aim
    ) -> tuple[Measured, Measured]:
        """Measure the new flow and the one before it, on the same draws and beside one target."""

        def one(state: NewtonState) -> Measured:
            places = state.last, new.last
            return measure(new.pool, *places, aim, new.targets, problem.follows_gradients)

        return one(new), one(old)

    def _rules(self, problem: Problem) -> Rules:
        asked = self.tolerance, self.gap_tolerance
        own = problem.follows_gradients
        # There what is aimed at moves by itself; epochs are not cut short, so they are to be fewer.
        shrink, rate = (self.shrink**2, 0.0) if own else (self.shrink, self.offset_rate)
        return Rules(*asked, self.max_loss, self.least_gain, shrink, self.min_step, rate, own)

    def _search(self, problem: Problem) -> Search:
        size = self._num_draws(problem)
        max_units = np.inf if problem.follows_gradients else self.max_units
        most = self.max_simulations // (size * self._replicates(problem))
        most = min(most, OWN_BATCHES) if problem.follows_gradients else most
        return Search(size, max(self.min_ess, size / 4), most, max_units)

    def _replicates(self, problem: Problem) -> int:
        return self.num_replicates if problem.is_stochastic else 1

    def _num_proposals(self, problem: Problem) -> int:
        most = OWN_PROPOSALS + 1 if problem.follows_gradients else self.num_proposals
        return min(most, self.num_proposals)

    def _num_draws(self, problem: Problem) -> int:
        if self.num_draws is not None:
            return self.num_draws
        most = NUM_DRAWS // 2 if problem.is_stochastic else NUM_DRAWS
        return min(most, MAX_VALUES // problem.flow.dim)

    def _num_simulations(self, problem: Problem) -> float:
        """Return how many simulations an epoch takes."""
        spent = self._num_draws(problem) * self._replicates(problem)
        if problem.follows_gradients:
            sizes = problem.num_particles, problem.num_steps
            spent += count_simulations(*sizes, problem.is_stochastic)
        return float(spent)
