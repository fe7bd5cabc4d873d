"""Learning rates that fall: constant up to --decay_from, then linear down to 0 at --decay_to."""

from collections.abc import Iterable

from torch import Tensor
from torch.optim import Adam, Optimizer

from lib.config import Config
from lib.errors import UserError


def check_decay(config: Config) -> None:
    """UserError where --decay_from and --decay_to contradict each other or the number of steps."""
    first, last = config.decay_from, config.decay_to
    if (first or last) and first >= last:
        raise UserError(
            f"--decay_from {first} --decay_to {last}: wanted the first below"
            " the second; leave both out for constant learning rates."
        )
    if 0 < last < config.num_training_steps:
        raise UserError(
            f"--decay_to {last} is before --num_training_steps {config.num_training_steps}:"
            " the steps between would teach nothing. Move one."
        )


def adam(parameters: Iterable[Tensor], rate: float, config: Config) -> Adam:
    """Build an Adam with the config's betas."""
    return Adam(parameters, lr=rate, betas=(config.beta1, config.beta2), fused=True)


def set_rates(
    optimizers: dict[str, Optimizer], rates: dict[str, float], config: Config, step: int
) -> None:
    """Each optimizer's share of its own rate: a function of the step alone, for an exact resume."""
    first, last = config.decay_from, config.decay_to
    if not last:
        return
    share = min(max((last - step) / (last - first), 0.0), 1.0)
    for name, optimizer in optimizers.items():
        for group in optimizer.param_groups:
            group["lr"] = rates[name] * share
