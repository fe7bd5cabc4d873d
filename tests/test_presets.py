"""The presets of the DCGAN family: each source's layer table and parameter count."""

import pytest
from conftest import CPU
from torch import nn

from GAN import count_parameters
from lib.flags import parse
from main import SYSTEMS, build
from systems.dcgan import PRESETS
from trainer import GANTrainer
from training.modes import mixes_samples

# layers of G, then of D: channels in and out, kernel, stride, padding
GROW, SHRINK = (4, 2, 1), (4, 2, 1)
TABLES = {
    "mnist64": (
        [(100, 512, 4, 1, 0)]
        + [(a, b, *GROW) for a, b in ((512, 256), (256, 128), (128, 64), (64, 1))],
        [(a, b, *SHRINK) for a, b in ((1, 64), (64, 128), (128, 256), (256, 512))]
        + [(512, 1, 4, 1, 0)],
    ),
    "stl10": (
        [(100, 1024, 4, 1, 0)]
        + [(a, b, *GROW) for a, b in ((1024, 512), (512, 256), (256, 128), (128, 3))],
        [(a, b, *SHRINK) for a, b in ((3, 128), (128, 256), (256, 512), (512, 1024))]
        + [(1024, 1, 4, 1, 0)],
    ),
    "emoji": (
        [(100, 128 * 16, 1, 1, 0), (128, 64, 3, 1, 1), (64, 32, 3, 1, 1), (32, 3, 3, 1, 1)],
        [(a, b, *SHRINK) for a, b in ((3, 64), (64, 128), (128, 256))] + [(256, 1, 4, 1, 0)],
    ),
}
PARAMETERS = {
    "mnist64": (3_574_656, 2_763_520),
    "stl10": (12_658_432, 11_036_160),
    "emoji": (298_272, 663_296),
}


def table(network: nn.Module) -> list[tuple[int, ...]]:
    """Its convolutions, from the input to the output."""
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    if hasattr(network, "to_image"):  # it comes last, wherever G makes it
        convs.sort(key=set(network.to_image.modules()).__contains__)
    sizes = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
    rows = [[getattr(m, name) for name in sizes] for m in convs]
    return [tuple(v[0] if isinstance(v, tuple) else v for v in row) for row in rows]


def from_preset(name: str, model: str = "dcgan") -> GANTrainer:
    return build(parse(["--model", model, "--preset", name], SYSTEMS, ""), CPU)


@pytest.mark.parametrize("name", TABLES)
def test_layers_and_parameters_of_each_source(name):
    trainer = from_preset(name)
    assert (table(trainer.G), table(trainer.D)) == TABLES[name]
    assert (count_parameters(trainer.G), count_parameters(trainer.D)) == PARAMETERS[name]


def test_settings_of_each_source():
    mnist64, stl10, emoji = (from_preset(name).config for name in TABLES)
    assert (mnist64.batch_size, mnist64.latent_dim, mnist64.image_size) == (64, 100, 64)
    assert (stl10.batch_size, stl10.latent_dim, stl10.image_size) == (128, 100, 64)
    assert (stl10.learning_rate, stl10.loss, stl10.beta1) == (2e-4, "bce", 0.5)
    assert (emoji.loss, emoji.upsample, emoji.fresh_noise) == ("lsgan", "resize", True)
    assert (emoji.image_size, emoji.num_training_steps, emoji.sample_every) == (32, 20_000, 200)
    assert mnist64.sample_every == 200
    assert mnist64.num_training_steps == -(-25 * 60_000 // 64)
    assert stl10.num_training_steps == -(-25 * 105_000 // 128)
    assert set(PRESETS) == {*TABLES, "best", "mlp", "mnist64-best", "emoji-best"}


def test_the_mlp_preset_has_the_widths_people_use():
    mlp = from_preset("mlp")
    assert (count_parameters(mlp.G), count_parameters(mlp.D)) == (1_734_144, 656_385)


def test_the_best_preset_is_of_the_homeworks_networks():
    best = from_preset("best")
    config = best.config
    assert (config.dataset, config.image_size, config.batch_size) == ("mnist", 32, 64)
    widths = (config.latent_dim, config.generator_hidden_dim, config.discriminator_hidden_dim)
    assert widths == (100, 48, 48)
    assert config.decay_to == config.num_training_steps == 40_000
    assert (count_parameters(best.G), count_parameters(best.D)) == (677_280, 372_817)


def test_a_preset_with_a_penalty_takes_a_discriminator_without_batchnorm(capsys):
    config = parse(["--preset", "emoji", "--penalty", "zero"], SYSTEMS, "")
    assert (config.penalty, config.d_norm, config.loss) == ("zero", "none", "lsgan")
    assert "--penalty zero: so D is without BatchNorm" in capsys.readouterr().out
    assert not mixes_samples(build(config, CPU).D)
    for flags in (["--d_norm", "layer"], ["--arch", "mlp"], ["--penalty", "none"]):
        config = parse(["--preset", "mnist64", "--penalty", "zero", *flags], SYSTEMS, "")
        assert config.d_norm == ("layer" if "layer" in flags else "batch")
        assert capsys.readouterr().out == ""
