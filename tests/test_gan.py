"""The networks: shapes, parameter counts, initialisation."""

import pytest
import torch

from GAN import (
    ARCHITECTURES,
    IMAGE_SIZES,
    NORMS,
    Generator,
    count_parameters,
    get_discriminator,
    get_generator,
)
from training.modes import mixes_samples


def test_parameter_counts_of_the_homework_and_of_the_mlp_pair():
    assert count_parameters(get_generator(1, 16, 16, "cpu")) == 57_824
    assert count_parameters(get_generator(1, 100, 16, "cpu")) == 143_840
    assert count_parameters(get_discriminator(1, 16, "cpu")) == 42_432
    assert count_parameters(get_generator(1, 100, 256, "cpu", arch="mlp")) == 1_734_144
    assert count_parameters(get_discriminator(1, 256, "cpu", arch="mlp")) == 656_385


@pytest.mark.parametrize("image_size", IMAGE_SIZES)
@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_shapes_and_ranges(image_size, num_channels, arch):
    G = get_generator(num_channels, 7, 2, "cpu", image_size=image_size, arch=arch)
    D = get_discriminator(num_channels, 2, "cpu", image_size=image_size, arch=arch)
    image = G(torch.randn(3, 7, 1, 1))
    assert image.shape == (3, num_channels, image_size, image_size)
    assert image.abs().max() <= 1
    assert D(image).shape == D.logits(image).shape == (3,)
    assert torch.allclose(D(image), torch.sigmoid(D.logits(image)))


def test_init_statistics():
    torch.manual_seed(0)
    G = get_generator(1, 100, 64, "cpu")
    conv = G.project[0].weight  # 100 x 256 x 16 values
    assert conv.mean().item() == pytest.approx(0, abs=2e-4)
    assert conv.std().item() == pytest.approx(0.02, rel=0.01)
    norm = G.project[1]
    assert norm.weight.mean().item() == pytest.approx(1, abs=5e-3)
    assert norm.weight.std().item() == pytest.approx(0.02, rel=0.15)
    assert not norm.bias.any()


def test_scaled_init_knows_the_width_of_a_layer():
    torch.manual_seed(0)
    D = get_discriminator(1, 64, "cpu", init="scaled", norm="none")
    for conv, fan_in in ((D.downs[0][0], 64 * 16), (D.downs[1][0], 128 * 16)):
        assert conv.weight.std().item() == pytest.approx((3 * fan_in) ** -0.5, rel=0.02)
        assert not conv.bias.any()


def test_construction_is_keyword_only_and_refuses_odd_sizes():
    with pytest.raises(TypeError):
        Generator(1, 16, 16)
    with pytest.raises(ValueError, match="48"):
        Generator(image_size=48)


@pytest.mark.parametrize("norm", NORMS)
def test_only_batchnorm_lets_the_images_of_a_batch_see_each_other(norm):
    D = get_discriminator(1, 4, "cpu", norm=norm)
    x = torch.randn(6, 1, 32, 32)
    alone = torch.cat([D.logits(x[i : i + 2]) for i in (0, 2, 4)])
    together = torch.allclose(D.logits(x), alone, atol=1e-5)
    assert together is (norm != "batch")
    assert mixes_samples(D) is (norm == "batch")


def test_a_discriminator_without_norm_has_biases():
    assert count_parameters(get_discriminator(1, 16, "cpu", norm="none")) == 42_432 - 192 + 113
    D = get_discriminator(1, 4, "cpu", norm="none")
    biases = [m.bias for m in D.modules() if hasattr(m, "bias")]
    assert len(biases) == 4
    assert not any(bias.any() for bias in biases)


def test_resized_upsampling_has_no_transposed_convolution_and_the_same_shapes():
    for size in IMAGE_SIZES[:3]:
        G = get_generator(3, 7, 4, "cpu", image_size=size, upsample="resize")
        assert not any(isinstance(m, torch.nn.ConvTranspose2d) for m in G.modules())
        assert G.project(torch.randn(2, 7, 1, 1)).shape == (2, size // 2, 4, 4)
        assert G(torch.randn(2, 7, 1, 1)).shape == (2, 3, size, size)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_spectral_norm_makes_the_largest_singular_value_1(arch):
    torch.manual_seed(0)
    D = get_discriminator(1, 8, "cpu", arch=arch, norm="none", spectral_norm=True)
    x = torch.randn(4, 1, 32, 32)
    layers = [m for m in D.modules() if hasattr(m, "parametrizations")]
    with torch.no_grad():
        for layer in layers:  # of which the power iteration knows nothing yet
            layer.parametrizations.weight.original.normal_()
    for _ in range(30):
        D.logits(x)
    assert len(layers) == (4 if arch == "cnn" else 3)
    for layer in layers:
        top = torch.linalg.svdvals(layer.weight.detach().flatten(1))[0].item()
        assert top == pytest.approx(1, abs=0.1)
