"""The settings of Adam, of the adversarial game, and of networks like those of GAN.py."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.optim import Adam, Optimizer

from lib.config import Config
from lib.errors import UserError
from lib.settings import MOST_REPEATS, game, network, training, width
from training.augment import AUGMENTATIONS
from training.losses import LOSSES, PENALTIES

PENALIZED = {"penalty": tuple(name for name in PENALTIES if name != "none")}


@dataclass(frozen=True, kw_only=True)
class AdamConfig(Config):
    """Adam, at a rate that may fall: constant up to --decay_from, then linear to 0."""

    NAMED_LAST: ClassVar = ("learning_rate", "beta1", "beta2", "decay_from", "decay_to", "ema")

    learning_rate: float = training(2e-4, "step size of Adam", level="main", above=0)
    beta1: float = training(0.5, "Adam's memory of the gradient", level="main", below=1)
    beta2: float = training(0.999, "Adam's memory of the squared gradient", below=1)
    decay_from: int = training(0, "step from which the learning rates fall to 0, linearly")
    decay_to: int = training(0, "step at which they reach 0; 0: they stay constant")

    def __post_init__(self) -> None:
        super().__post_init__()
        first, last = self.decay_from, self.decay_to
        if (first or last) and first >= last:
            raise UserError(
                f"--decay_from {first} --decay_to {last}: wanted the first below the second;"
                " leave both out for constant learning rates."
            )
        if 0 < last < self.num_training_steps:
            raise UserError(
                f"--decay_to {last} is before --num_training_steps {self.num_training_steps}:"
                " the steps between would teach nothing. Move one."
            )


# To make an optimizer, torch imports torch._dynamo (2 s), which keeps torch.compile out of these
# methods. Here only networks are compiled.
for method in (Optimizer.add_param_group, Optimizer.load_state_dict, Optimizer.zero_grad):
    if plain := getattr(method, "__wrapped__", None):
        plain.__dynamo_disable = plain


def adam(parameters: Iterable[Tensor], rate: float, config: AdamConfig) -> Adam:
    """Build an Adam with the config's betas."""
    return Adam(parameters, lr=rate, betas=(config.beta1, config.beta2), fused=True)


def set_rates(
    optimizers: dict[str, Optimizer], rates: dict[str, float], config: AdamConfig, step: int
) -> None:
    """Set each optimizer's learning rate: a function of the step alone, for an exact resume."""
    first, last = config.decay_from, config.decay_to
    if not last:
        return
    share = min(max((last - step) / (last - first), 0.0), 1.0)
    for name, optimizer in optimizers.items():
        for group in optimizer.param_groups:
            group["lr"] = rates[name] * share


@dataclass(frozen=True, kw_only=True)
class AveragedConfig(AdamConfig):
    ema: float = training(
        0.0, "decay per step of an average of the weights, which is sampled; 0: none", below=1
    )


@dataclass(frozen=True, kw_only=True)
class AugmentedConfig(AveragedConfig):
    augment: str = game(
        "none", "how all images that D sees are changed, for small data", choices=AUGMENTATIONS
    )


@dataclass(frozen=True, kw_only=True)
class GANConfig(AugmentedConfig):
    """The settings that GANTrainer reads; a system whose G takes noise adds latent_dim."""

    NAMED_LAST: ClassVar = ()

    loss: str = game("bce", "what D and G minimise; bce has the log-D trick", choices=tuple(LOSSES))
    penalty: str = game(
        "none",
        "on D's gradient: gp (WGAN-GP), r1 (at real images), zero (between real and fake images,"
        " centred at 0); needs a D without BatchNorm (--d_norm none)",
        choices=tuple(PENALTIES),
    )
    penalty_weight: float = game(10.0, "factor of the penalty", only_with=PENALIZED)
    penalty_every: int = game(
        1,
        "add the penalty every so many steps, so many times as heavy",
        at_least=1,
        only_with=PENALIZED,
    )
    d_steps: int = game(
        1, "updates of D per update of G, on other images each", at_least=1, at_most=MOST_REPEATS
    )
    fresh_noise: bool = game(False, "G learns from new noise, not from the fakes D has just seen")
    learning_rate_d: float = training(0.0, "Adam's step size for D; 0: --learning_rate")


@dataclass(frozen=True, kw_only=True)
class WidthConfig(Config):
    """Holds the widths of G and D."""

    generator_hidden_dim: int = width(16, "channels of G's largest map", tag="g{}", level="main")
    discriminator_hidden_dim: int = width(
        16, "channels of D's largest map", tag="d{}", level="main"
    )


@dataclass(frozen=True, kw_only=True)
class ConvConfig(WidthConfig):
    """The choices of GAN.py: for systems whose D is its own or one like it."""

    init: str = network(
        "normal",
        "weights of convolutions: N(0, 0.02), or scaled by fan-in (for a D without norm)",
        choices=("normal", "scaled"),
    )
    d_norm: str = network(
        "batch",
        "normalisation in D; none: biases instead",
        choices=("batch", "none", "instance", "layer"),
    )
    spectral_norm: bool = network(False, "divide D's weights by their largest singular value")
