"""Adversarial losses on logits and gradient penalties: free functions, an equation each.

Every loss takes the discriminator's value before the sigmoid, so that log D and log(1 - D) are
softplus terms that neither overflow nor lose their gradient:
    log D = -softplus(-logit)        log(1 - D) = -softplus(logit)
Each is a mean over the batch; the cross-entropies are in nats. LOSSES and PENALTIES are what
--loss and --penalty choose from.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class AdversarialLoss(NamedTuple):
    """The terms that D minimises on real and on fake logits (N,), and G on fake ones."""

    real: Callable[[Tensor], Tensor]
    fake: Callable[[Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


def real_log_d(real_logits: Tensor) -> Tensor:
    """-E log D(x). Goodfellow et al. 2014, eq. 1, first term."""
    return F.softplus(-real_logits).mean()


def fake_log_1_minus_d(fake_logits: Tensor) -> Tensor:
    """-E log(1 - D(G(z))). Goodfellow et al. 2014, eq. 1, second term."""
    return F.softplus(fake_logits).mean()


def generator_log_d(fake_logits: Tensor) -> Tensor:
    """-E log D(G(z)), the log-D trick of Goodfellow et al. 2014, sec. 3: not the minimax loss.

    Where D is sure of a fake (logit -> -inf) its gradient is -1 a logit; that of the minimax loss
    E log(1 - D(G(z))) is -sigmoid(logit) -> 0.
    """
    return F.softplus(-fake_logits).mean()


def mean_probability(logits: Tensor) -> Tensor:
    """E D(.), in [0, 1]: no loss, but what one logs beside them."""
    return logits.detach().sigmoid().mean()


def judgement(loss: Tensor, real_logits: Tensor, fake_logits: Tensor) -> dict[str, Tensor]:
    """Return what is logged of an update of D, by tag."""
    real, fake = mean_probability(real_logits), mean_probability(fake_logits)
    return {"discriminator_loss": loss.detach(), "D(x)": real, "D(G(z1))": fake}


BCE = AdversarialLoss(real=real_log_d, fake=fake_log_1_minus_d, generator=generator_log_d)


def real_least_squares(real_logits: Tensor) -> Tensor:
    """E (D(x) - 1)^2 / 2, with the raw value as D. Mao et al. 2017, eq. 9, a = 0, b = c = 1."""
    return (real_logits - 1).square().mean() / 2


def fake_least_squares(fake_logits: Tensor) -> Tensor:
    """E D(G(z))^2 / 2. Mao et al. 2017, eq. 9."""
    return fake_logits.square().mean() / 2


def generator_least_squares(fake_logits: Tensor) -> Tensor:
    """E (D(G(z)) - 1)^2, without the paper's half, as the emoji document has it."""
    return (fake_logits - 1).square().mean()


LSGAN = AdversarialLoss(
    real=real_least_squares, fake=fake_least_squares, generator=generator_least_squares
)


def real_hinge(real_logits: Tensor) -> Tensor:
    """E max(0, 1 - D(x)). Lim & Ye 2017; Miyato et al. 2018, eq. 16."""
    return F.relu(1 - real_logits).mean()


def fake_hinge(fake_logits: Tensor) -> Tensor:
    """E max(0, 1 + D(G(z))). Miyato et al. 2018, eq. 16."""
    return F.relu(1 + fake_logits).mean()


def generator_score(fake_logits: Tensor) -> Tensor:
    """-E D(G(z)): of the hinge and the Wasserstein game alike."""
    return -fake_logits.mean()


HINGE = AdversarialLoss(real=real_hinge, fake=fake_hinge, generator=generator_score)


def real_critic(real_logits: Tensor) -> Tensor:
    """-E D(x). Arjovsky et al. 2017, eq. 2; D must be kept Lipschitz: by --penalty gp, say."""
    return -real_logits.mean()


def fake_critic(fake_logits: Tensor) -> Tensor:
    """E D(G(z)). Arjovsky et al. 2017, eq. 2."""
    return fake_logits.mean()


WGAN = AdversarialLoss(real=real_critic, fake=fake_critic, generator=generator_score)

LOSSES: dict[str, AdversarialLoss] = {"bce": BCE, "lsgan": LSGAN, "hinge": HINGE, "wgan": WGAN}

# logits (N,) of images (N, C, H, W); x and fake of one shape; share (N, 1, 1, 1) in [0, 1]
Logits = Callable[[Tensor], Tensor]
Penalty = Callable[[Logits, Tensor, Tensor, Tensor], Tensor]


def squared_gradients(logits: Logits, x: Tensor) -> Tensor:
    """|dD/dx|^2 of each sample (N,), over all of C, H and W, itself differentiable in D's weights.

    Taken at a fresh leaf, so that nothing flows back into x. D must not have BatchNorm: the
    gradient of one sample would hold what its neighbours owe to it.
    """
    leaf = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(logits(leaf).sum(), leaf, create_graph=True)
    return gradient.square().flatten(1).sum(1)


def between(x: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """Points on the lines from fake to real images. Gulrajani et al. 2017, alg. 1."""
    return share * x.detach() + (1 - share) * fake.detach()


def r1_penalty(logits: Logits, x: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """E |dD/dx|^2 / 2 on real images. Mescheder et al. 2018, eq. 9."""
    return squared_gradients(logits, x).mean() / 2


def one_centred_penalty(logits: Logits, x: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """E (|dD/dx| - 1)^2 between real and fake images: WGAN-GP. Gulrajani et al. 2017, eq. 3."""
    norms = (squared_gradients(logits, between(x, fake, share)) + 1e-12).sqrt()
    return (norms - 1).square().mean()


def zero_centred_penalty(logits: Logits, x: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """E |dD/dx|^2 between real and fake images: GAN-0GP. Thanh-Tung et al. 2019, sec. 5."""
    return squared_gradients(logits, between(x, fake, share)).mean()


PENALTIES: dict[str, Penalty | None] = {
    "none": None,
    "gp": one_centred_penalty,
    "r1": r1_penalty,
    "zero": zero_centred_penalty,
}
