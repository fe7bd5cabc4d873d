"""DCGAN (Radford et al. 2016): MNIST at 32x32 with the BCE loss is the main job. docs/dcgan.md.

Other data, sizes, losses and norms are settings alone.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from GAN import ARCHITECTURES, IMAGE_SIZES, UPSAMPLINGS
from lib.settings import default, logging, network, width
from sources.config import DataConfig
from training.config import ConvConfig, GANConfig

# A source's settings; best, mlp and the two *-best are ours. What is not named is the default,
# theirs too: Adam at 2e-4, beta1 0.5, transposed convolutions, BatchNorm in both, bce, one update.
# fmt: off
PRESETS: dict[str, dict[str, Any]] = {
    # Ours: the lowest FID found, in 50 minutes of a CPU core (docs/notebook.md).
    "best": dict(
        latent_dim=100, generator_hidden_dim=48, discriminator_hidden_dim=48,
        penalty="r1", penalty_weight=0.1, penalty_every=4, d_norm="none", init="scaled",
        learning_rate=1e-3, beta2=0.99, ema=0.998,
        decay_from=20_000, decay_to=40_000, num_training_steps=40_000,
    ),
    # Ours, like "best" with linear layers: 100-256-512-1024-1024 and 1024-512-256-1. docs/dcgan.md.
    "mlp": dict(
        arch="mlp", latent_dim=100, generator_hidden_dim=256, discriminator_hidden_dim=256,
        penalty="r1", penalty_weight=1.0, penalty_every=4,
        batch_size=128, learning_rate=1e-3, beta2=0.99, ema=0.998,
        decay_from=10_000, decay_to=20_000, num_training_steps=20_000,
    ),
    # "Generative Adversarial Network on MNIST", sec. 2.4. Its text leaves the learning
    # rate open; by its log, of 469 batches an epoch, the batch was 128.
    "mnist64": dict(
        dataset="mnist", image_size=64, latent_dim=100,
        generator_hidden_dim=64, discriminator_hidden_dim=64,  # 512, 256, 128, 64
        batch_size=64, num_training_steps=23_438,  # 25 epochs x 60,000 images / 64
        sample_every=200, log_lines=True,
    ),
    # Generative models on MNIST and STL-10, table 2. It leaves the epochs open.
    "stl10": dict(
        dataset="stl10", image_size=64, latent_dim=100,
        generator_hidden_dim=128, discriminator_hidden_dim=128,  # 1024, 512, 256, 128
        batch_size=128,
        num_training_steps=20_508,  # ours: 25 epochs x 105,000 images / 128
    ),
    # CSC413 2020, assignment 4, part 1. It leaves open the widths, z, the batch and the
    # learning rate: those of the notebook it goes with. Kernels are ours, 4 in D and 3 in G.
    "emoji": dict(
        dataset="emoji", emoji_style="Windows", image_size=32,
        loss="lsgan", fresh_noise=True, upsample="resize", latent_dim=100,
        generator_hidden_dim=32, discriminator_hidden_dim=64,  # 128, 64, 32; 64, 128, 256
        batch_size=32, learning_rate=3e-5,
        num_training_steps=20_000,  # 318 epochs x 2,014 images / 32
        sample_every=200,
    ),
}
# Ours: "best" for MNIST at 64x64. docs/notebook.md.
PRESETS["mnist64-best"] = PRESETS["best"] | dict(
    image_size=64, generator_hidden_dim=24, discriminator_hidden_dim=24, learning_rate=2e-3,
    decay_from=15_000, decay_to=30_000, num_training_steps=30_000,
)
# Ours: "best" for the 2,014 Windows emoji, which D would learn by heart but for diffaug.
PRESETS["emoji-best"] = PRESETS["best"] | dict(
    dataset="emoji", emoji_style="Windows", fresh_noise=True, upsample="resize", augment="diffaug",
    penalty_weight=1.0, decay_from=7500, decay_to=15_000, num_training_steps=15_000,
    fid_protocol="all",
)
# fmt: on
CNN = {"arch": "cnn"}


@dataclass(frozen=True, kw_only=True)
class DCGANConfig(ConvConfig, GANConfig, DataConfig):
    PRESETS: ClassVar = PRESETS

    image_size: int = default(32, choices=IMAGE_SIZES)
    arch: str = network(
        "cnn", "convolutions, or linear layers alone (mlp)", choices=tuple(ARCHITECTURES)
    )
    latent_dim: int = width(16, "size of z", tag="z{}", level="main")
    upsample: str = network(
        "transposed",
        "how G's maps grow: transposed convolution, or nearest upsampling and convolution",
        choices=UPSAMPLINGS,
        only_with=CNN,
    )
    init: str = default("normal", only_with=CNN)
    d_norm: str = default("batch", only_with=CNN)
    collapse_every: int = logging(
        0, "count the digits G makes every so many steps; 0: never", only_with={"dataset": "mnist"}
    )

    @classmethod
    def fitted(cls, preset: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """Take BatchNorm out of a preset's D if a penalty is asked for."""
        penalized = given.get("penalty", "none") != "none"
        settled = "d_norm" in preset | given or given.get("arch", "cnn") != "cnn"
        if not preset or not penalized or settled:
            return preset
        print(f"--penalty {given['penalty']}: so D is without BatchNorm (--d_norm none)")
        return preset | {"d_norm": "none"}
