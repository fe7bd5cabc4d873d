"""The super-resolution GAN's settings, its source's and our own by name. docs/srgan.md."""

from dataclasses import dataclass
from typing import Any, ClassVar

from data_config import DataConfig
from dataset import DATASETS
from GAN import INITS, NORMS
from lib.config import setting
from lib.errors import UserError
from metrics.lpips import BACKBONES, VGG_LAYERS
from systems.srgan.flips import POSITIONS
from systems.srgan.losses import RECONSTRUCTIONS
from systems.srgan.networks import GENERATORS
from systems.srgan.resampling import DOWNSAMPLINGS
from training.config import GANConfig
from user_files import check_request

PRESETS: dict[str, dict[str, Any]] = {
    # CIS 680 2019, assignment 4, part 3 (spec row 13): its networks, 1:1, BCE, batch 32, Adam at
    # 2e-4, 100 epochs of 20,000 images. It leaves open which pixel-wise loss, Adam's betas and the
    # kernel that shrinks.
    "course": {
        "arch": "unet",
        "generator_hidden_dim": 32,
        "discriminator_hidden_dim": 32,
        "reconstruction": "squared",
        "reconstruction_weight": 1.0,
        "adversarial_weight": 1.0,
        "loss": "bce",
        "batch_size": 32,
        "learning_rate": 2e-4,
        "num_training_steps": 62_500,  # 100 epochs x 20,000 images / 32
    },
    # Ours, chosen by what is known of such games and NOT searched: SRResNet in EDSR's form, trained
    # on turned and mirrored images as EDSR is, VGG16's maps (Ledig et al. 2017), a D without
    # BatchNorm under spectral norm with the hinge (Miyato et al. 2018), its maps matched (Wang et
    # al. 2018), an average of G's weights. The weights make the gradients at G's image
    # 1 : 0.6 : 0.1 : 0.7 in size, as measured on the course's nets.
    "best": {
        "positions": 8,
        "arch": "residual",
        "generator_hidden_dim": 64,
        "residual_blocks": 8,
        "reconstruction": "euclidean",
        "reconstruction_weight": 1.0,
        "adversarial_weight": 0.3,
        "feature_matching_weight": 5.0,
        "perceptual_weight": 5.0,
        "loss": "hinge",
        "d_norm": "none",
        "spectral_norm": True,
        "init": "scaled",
        "ema": 0.995,
        "batch_size": 16,
        "num_training_steps": 125_000,
    },
}


@dataclass(frozen=True, kw_only=True)
class SRGANConfig(GANConfig, DataConfig):
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    dataset: str = setting(
        "stl10",
        "images to learn from (docs/data.md)",
        group="data",
        tag="{}",
        choices=tuple(DATASETS),
    )
    image_size: int = setting(
        64,
        "side of a large image in pixels; the small one has a quarter of it",
        group="data",
        tag="{}px",
        choices=(32, 64, 128, 256),
    )
    downsample: str = setting(
        "bilinear",
        "kernel that shrinks an image, antialiased; it is enlarged bilinearly for the unet",
        group="data",
        choices=DOWNSAMPLINGS,
    )
    positions: int = setting(
        1,
        "in how many of the square's positions an image is trained on, at random: as it is; 2: and"
        " mirrored; 8: and turned by quarters",
        group="data",
        choices=tuple(POSITIONS),
    )
    batch_size: int = setting(
        32, "images a step, of all processes together", group="training", tag="b{}", at_least=2
    )
    num_training_steps: int = setting(
        62_500,
        "steps, counted from the start of the run",
        group="training",
        role="free",
        at_least=1,
    )
    start_from: str = setting(
        "",
        "name of a trained run in --runs_dir whose G (its average, where it has one) this"
        " run begins with, as Ledig et al. begin the game with the G of the lowest MSE",
        group="training",
    )
    arch: str = setting(
        "unet",
        "G: the course's encoder-decoder with skips, or residual blocks on the small image",
        group="networks",
        choices=tuple(GENERATORS),
    )
    generator_hidden_dim: int = setting(
        32,
        "channels of G's first feature map (unet: the last of the encoder has 16 times as many)",
        group="networks",
        tag="g{}",
        at_least=2,
    )
    residual_blocks: int = setting(8, "of --arch residual", group="networks", at_least=1)
    discriminator_hidden_dim: int = setting(
        32,
        "channels of D's first feature map; the last has 16 times as many",
        group="networks",
        tag="d{}",
        at_least=1,
    )
    init: str = setting(
        "normal",
        "of convolutions: N(0, 0.02), or scaled by the layer's fan-in; not of --arch residual",
        group="networks",
        choices=tuple(INITS),
    )
    d_norm: str = setting(
        "batch", "normalisation in D; none gives it biases", group="networks", choices=tuple(NORMS)
    )
    spectral_norm: bool = setting(
        False, "divide D's weights by their largest singular value", group="networks"
    )
    reconstruction: str = setting(
        "squared",
        "squared: sum over an image of (x - G)^2 in [0, 1]; euclidean: |x - G|_2 in [-1, 1]; mse,"
        " l1: mean over pixels of the squared or absolute error in [-1, 1]",
        group="game",
        choices=tuple(RECONSTRUCTIONS),
    )
    reconstruction_weight: float = setting(
        1.0, "of the reconstruction loss in G's", group="game", at_least=0
    )
    adversarial_weight: float = setting(
        1.0,
        "of the adversarial loss in G's; 0: there is no D, whatever its settings, and G minimises"
        " the rest",
        group="game",
        at_least=0,
    )
    feature_matching_weight: float = setting(
        0.0,
        "of the mean |difference| of D's maps of the true image and of G's (pix2pixHD)",
        group="game",
        at_least=0,
    )

    perceptual_weight: float = setting(
        0.0,
        "of the mean |difference| of VGG16's maps of the true image and of G's; its weights are"
        " fetched (64 MB)",
        group="game",
        at_least=0,
    )
    perceptual_layer: str = setting(
        "relu2_2", "whose maps those are", group="game", choices=tuple(VGG_LAYERS)
    )
    lpips_net: str = setting(
        "alex",
        "network of the score LPIPS; alex is the one to report",
        group="scoring",
        role="free",
        choices=tuple(BACKBONES),
    )
    self_ensemble: bool = setting(
        False,
        "enlarge each image in its 8 positions, turned and mirrored, and take their mean: scored"
        " beside G as mse_x8 and so on, and what --upscale does (EDSR+)",
        group="scoring",
        role="free",
    )
    upscale: str = setting(
        "",
        'pictures to enlarge 4 times by the trained run: a folder, a file, or "a/*.png", quoted',
        group="what to do",
        role="once",
    )
    out: str = setting("", "of --upscale: where they go", group="what to do", role="once")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_request("--upscale", self.upscale, self.out)
        if self.fresh_noise:
            raise UserError("--fresh_noise: G has no noise here, but small images. Leave it out.")
        if not self.adversarial_weight and self.d_steps > 1:
            raise UserError(
                f"--d_steps {self.d_steps}: --adversarial_weight 0 has no D. Leave one of the two"
                " out."
            )
        if not self.adversarial_weight and self.feature_matching_weight:
            raise UserError(
                f"--feature_matching_weight {self.feature_matching_weight} compares maps of D, and"
                " --adversarial_weight 0 trains none. Leave one of the two out."
            )
        if not self.adversarial_weight and self.penalty != "none" and self.d_norm == "batch":
            raise UserError(
                f"--penalty {self.penalty}: --adversarial_weight 0 has no D. Leave one of the two"
                " out."
            )
        if self.arch == "unet" and self.residual_blocks != SRGANConfig.residual_blocks:
            raise UserError(
                f"--residual_blocks {self.residual_blocks}: --arch unet has none. Add --arch"
                " residual, or leave it out."
            )
        if not self.perceptual_weight and self.perceptual_layer != SRGANConfig.perceptual_layer:
            raise UserError(
                f"--perceptual_layer {self.perceptual_layer}: there is no perceptual loss. Add"
                " --perceptual_weight, or leave it out."
            )
        if not (self.adversarial_weight or self.reconstruction_weight or self.perceptual_weight):
            raise UserError("G has no loss: give a --reconstruction_weight above 0.")

    @property
    def request(self) -> str:
        return "--upscale" if self.upscale else ""
