"""The settings of the adversarial game, which every system with a G and a D has."""

from dataclasses import dataclass

from lib.config import Config, setting
from lib.errors import UserError
from training.augment import AUGMENTATIONS
from training.decay import check_decay
from training.losses import LOSSES, PENALTIES


@dataclass(frozen=True, kw_only=True)
class GANConfig(Config):
    """What GANTrainer reads; a system's own config adds its data, its networks and a latent_dim."""

    loss: str = setting(
        "bce",
        "what D and G minimise: bce is the cross-entropy with the log-D trick",
        group="game",
        choices=tuple(LOSSES),
    )
    penalty: str = setting(
        "none",
        "on D's gradient: gp (WGAN-GP), r1 (at real images), zero (zero-centred, between real and"
        " fake); its D must do without BatchNorm (--d_norm, where there is one)",
        group="game",
        choices=tuple(PENALTIES),
    )
    penalty_weight: float = setting(10.0, "factor of the penalty", group="game", at_least=0)
    penalty_every: int = setting(
        1,
        "steps between two penalties, each as many times as heavy (lazy regularisation)",
        group="game",
        at_least=1,
    )
    augment: str = setting(
        "none",
        "what D sees of real and fake images, for small data: diffaug changes colours, moves them"
        " and cuts a square out",
        group="game",
        choices=AUGMENTATIONS,
    )
    d_steps: int = setting(
        1, "updates of D an update of G, each on images of its own", group="game", at_least=1
    )
    fresh_noise: bool = setting(
        False, "G learns from noise of its own, not from the fakes D has just seen", group="game"
    )
    learning_rate: float = setting(2e-4, "of Adam, both networks", group="training", above=0)
    learning_rate_d: float = setting(
        0.0, "of D's Adam; 0: that of --learning_rate", group="training", at_least=0
    )
    beta1: float = setting(
        0.5, "of Adam: memory of the gradient", group="training", at_least=0, below=1
    )
    beta2: float = setting(
        0.999, "of Adam: memory of its square", group="training", at_least=0, below=1
    )
    decay_from: int = setting(
        0, "step from which the learning rates fall to 0, linearly", group="training", at_least=0
    )
    decay_to: int = setting(
        0, "step at which they are 0; 0: they stay constant", group="training", at_least=0
    )
    ema: float = setting(
        0.0,
        "decay a step of an average of G's weights, which is sampled in its place; 0 samples G",
        group="training",
        at_least=0,
        below=1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.penalty == "none" and (self.penalty_weight, self.penalty_every) != (10.0, 1):
            raise UserError(
                f"--penalty_weight {self.penalty_weight} --penalty_every {self.penalty_every}:"
                " there is no penalty. Add --penalty, or leave them out."
            )
        check_decay(self)
