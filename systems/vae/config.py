"""The VAE's settings, and those of the convolutional one by name. docs/vae.md."""

from dataclasses import dataclass
from typing import Any, ClassVar

from data_config import DataConfig
from lib.config import setting
from lib.errors import UserError
from systems.vae.binarise import PIXELS
from systems.vae.elbo import LIKELIHOODS
from systems.vae.networks import ARCHITECTURES, IMAGE_SIZES
from training.decay import check_decay

PRESETS: dict[str, dict[str, Any]] = {
    # Ours: convolutions on the same 784 pixels, so that the nats compare, within 10 CPU minutes.
    "conv": {
        "arch": "conv",
        "hidden_dim": 256,
        "width": 16,
        "learning_rate": 1e-3,
        "decay_from": 4690,
        "decay_to": 9380,
        "ema": 0.998,
    },
}


@dataclass(frozen=True, kw_only=True)
class VAEConfig(DataConfig):
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    image_size: int = setting(
        28, "side of an image in pixels", group="data", tag="{}px", choices=IMAGE_SIZES
    )
    pixels: str = setting(
        "grey",
        "what is learned: grey values, bits drawn from them once (static) or anew each step"
        " (stochastic)",
        group="data",
        choices=PIXELS,
    )
    arch: str = setting(
        "fc", "linear layers alone, or convolutions", group="networks", choices=tuple(ARCHITECTURES)
    )
    latent_dim: int = setting(20, "size of z", group="networks", tag="z{}", at_least=1)
    hidden_dim: int = setting(
        400, "units of the hidden layer, in encoder and decoder", group="networks", at_least=1
    )
    width: int = setting(
        16,
        "channels of the largest feature map, in encoder and decoder of --arch conv",
        group="networks",
        at_least=1,
    )
    likelihood: str = setting(
        "bce",
        "reconstruction, in nats: cross-entropy, or squared error (a Gaussian of variance 1/2)",
        group="bound",
        choices=tuple(LIKELIHOODS),
    )
    beta: float = setting(
        1.0, "weight of the KL; only 1 is the evidence bound", group="bound", at_least=0
    )
    batch_size: int = setting(
        128, "images a step, of all processes together", group="training", tag="b{}", at_least=2
    )
    num_training_steps: int = setting(
        9380,  # 20 epochs x 60,000 images / 128
        "steps, counted from the start of the run",
        group="training",
        role="free",
        at_least=1,
    )
    learning_rate: float = setting(2e-3, "of Adam", group="training", above=0)
    beta1: float = setting(
        0.9, "of Adam: memory of the gradient", group="training", at_least=0, below=1
    )
    beta2: float = setting(
        0.999, "of Adam: memory of its square", group="training", at_least=0, below=1
    )
    decay_from: int = setting(
        0, "step from which the learning rate falls to 0, linearly", group="training", at_least=0
    )
    decay_to: int = setting(
        0, "step at which it is 0; 0: it stays constant", group="training", at_least=0
    )
    ema: float = setting(
        0.0,
        "decay a step of an average of the weights, which is sampled and scored in their place",
        group="training",
        at_least=0,
        below=1,
    )
    test_every: int = setting(
        1000,
        "steps between two passes over the test images; 0: none",
        group="logging",
        role="free",
        at_least=0,
    )
    latent_density: str = setting(
        "prior",
        "what z is drawn from when images are generated to be scored: N(0, I), or one Gaussian or a"
        " mixture of ten fitted to the encoder's z of the training images (by scikit-learn)",
        group="scoring",
        role="free",
        choices=("prior",),
    )
    importance_samples: int = setting(
        100,
        "z's an image that the log-likelihood is estimated from; 0 leaves it out",
        group="scoring",
        role="free",
        at_least=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_decay(self)
        if self.likelihood == "mse" and self.pixels != "grey":
            raise UserError(
                f"--likelihood mse --pixels {self.pixels}: squared error is a density of grey"
                " values, not of bits. Take --pixels grey or --likelihood bce."
            )
        unasked = (0, VAEConfig.importance_samples)
        if self.likelihood == "mse" and self.importance_samples not in unasked:
            raise UserError(
                f"--importance_samples {self.importance_samples}: --likelihood mse has no"
                " log-likelihood of bits. Leave it out, or take --likelihood bce."
            )
        if self.arch == "fc" and self.width != VAEConfig.width:
            raise UserError(
                f"--width {self.width} is of convolutions: --arch fc has none. Give --hidden_dim,"
                " or add --arch conv."
            )
