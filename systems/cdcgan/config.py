"""The conditional DCGAN's settings, its source's and our own by name. docs/cdcgan.md."""

from dataclasses import dataclass
from typing import Any, ClassVar

from GAN import IMAGE_SIZES, INITS, NORMS
from lib.config import setting
from lib.errors import UserError
from sources.iclevr import parse_prompt
from systems.cdcgan.networks import DISCRIMINATORS
from training.config import GANConfig

NO_PROMPT = "(none)"  # "" is a prompt that was left empty, and told so

# The source, "Conditional GAN on i-CLEVR" (spec row 7), sec. 2: its Adam has PyTorch's own betas,
# and each of its G updates has noise of its own. 500 epochs of 282 batches, the last one of 25.
PRESETS: dict[str, dict[str, Any]] = {
    "iclevr": {
        "dataset": "iclevr",
        "image_size": 64,
        "condition": "concat",
        "embedding_dim": 300,
        "latent_dim": 100,
        "generator_hidden_dim": 64,  # 512, 256, 128, 64
        "discriminator_hidden_dim": 64,
        "g_steps": 4,
        "fresh_noise": True,
        "learning_rate": 1e-4,
        "learning_rate_d": 4e-4,
        "beta1": 0.9,
        "batch_size": 64,
        "num_training_steps": 141_000,
        "saving_steps": 1410,
    },
    # Ours, chosen by what is known of such games and NOT searched yet: a D that must name the
    # objects of real images itself, kept Lipschitz by spectral norm instead of BatchNorm (Miyato et
    # al. 2018, whose betas these are), and an average of G's weights. One update of G an update of
    # D: with two learning rates of 1:4 that is Heusel et al. 2017's game, at 2/5 of the time.
    "iclevr-best": {
        "dataset": "iclevr",
        "image_size": 64,
        "condition": "acgan",
        "loss": "hinge",
        "d_norm": "none",
        "spectral_norm": True,
        "init": "scaled",
        "g_steps": 1,
        "fresh_noise": True,
        "learning_rate": 1e-4,
        "learning_rate_d": 4e-4,
        "beta1": 0.0,
        "ema": 0.999,
        "num_training_steps": 141_000,
        "saving_steps": 1410,
    },
    # Ours, for a CPU: small images, narrow networks, and the game of dcgan.py's "best", which
    # learns fast. Of the three conditionings the one whose objects look best (docs/cdcgan.md).
    "iclevr32": {
        "dataset": "iclevr",
        "image_size": 32,
        "condition": "projection",
        "generator_hidden_dim": 32,
        "discriminator_hidden_dim": 32,
        "loss": "bce",
        "penalty": "r1",
        "penalty_weight": 1.0,
        "penalty_every": 4,
        "d_norm": "none",
        "init": "scaled",
        "g_steps": 1,
        "fresh_noise": True,
        "learning_rate": 1e-3,
        "learning_rate_d": 1e-3,
        "beta1": 0.0,
        "beta2": 0.99,
        "ema": 0.998,
        "num_training_steps": 6000,
        "saving_steps": 500,
    },
}


@dataclass(frozen=True, kw_only=True)
class CDCGANConfig(GANConfig):
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    dataset: str = setting(
        "iclevr",
        "images with labels of what they show (docs/data.md)",
        group="data",
        tag="{}",
        choices=("iclevr",),
    )
    image_size: int = setting(
        64, "side of an image in pixels", group="data", tag="{}px", choices=IMAGE_SIZES
    )
    hold_out: float = setting(
        0.0,
        "share of the combinations of labels that are kept from training and scored by themselves",
        group="data",
        at_least=0,
        below=1,
    )
    condition: str = setting(
        "concat",
        "how D judges that an image shows its labels: they are one more channel of it (concat), are"
        " projected on its features (projection), or D names them itself (acgan)",
        group="networks",
        tag="{}",
        choices=tuple(DISCRIMINATORS),
    )
    latent_dim: int = setting(100, "size of z", group="networks", tag="z{}", at_least=1)
    embedding_dim: int = setting(
        300, "size of what G makes of the labels", group="networks", at_least=1
    )
    generator_hidden_dim: int = setting(
        64, "channels of G's largest feature map", group="networks", tag="g{}", at_least=1
    )
    discriminator_hidden_dim: int = setting(
        64, "channels of D's largest feature map", group="networks", tag="d{}", at_least=1
    )
    init: str = setting(
        "normal",
        "of convolutions: N(0, 0.02), or scaled by the layer's fan-in (a D without norm needs it)",
        group="networks",
        choices=tuple(INITS),
    )
    d_norm: str = setting("batch", "normalisation in D", group="networks", choices=tuple(NORMS))
    spectral_norm: bool = setting(
        False, "divide D's weights by their largest singular value", group="networks"
    )
    g_steps: int = setting(4, "updates of G a step", group="game", at_least=1)
    auxiliary_weight: float = setting(
        1.0,
        "of --condition acgan: factor of the labels' cross-entropy beside the game",
        group="game",
        at_least=0,
    )
    learning_rate: float = setting(1e-4, "of G's Adam", group="training", above=0)
    learning_rate_d: float = setting(
        4e-4, "of D's Adam; 0: that of --learning_rate", group="training", at_least=0
    )
    beta1: float = setting(
        0.9, "of Adam: memory of the gradient", group="training", at_least=0, below=1
    )
    validate_on: str = setting(
        "test",
        "the list of conditions (NAME.json) whose accuracy picks the best weights",
        group="scoring",
        choices=("test", "new_test"),
    )
    validate_every: int = setting(
        0,
        "steps between two validations, where there is an evaluator; 0: an epoch",
        group="scoring",
        role="free",
        at_least=0,
    )
    prompt: str = setting(
        NO_PROMPT,
        'make a grid of images of these objects and stop: "red cube, blue sphere"; a semicolon'
        " begins another row",
        group="what to do",
        role="once",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.condition != "acgan" and self.auxiliary_weight != CDCGANConfig.auxiliary_weight:
            raise UserError(
                f"--auxiliary_weight {self.auxiliary_weight} belongs to --condition acgan, and this"
                f" is {self.condition}. Leave one of the two out."
            )
        if self.request:
            parse_prompt(self.prompt)

    @property
    def request(self) -> str:
        return "" if self.prompt == NO_PROMPT else f'--prompt "{self.prompt}"'
