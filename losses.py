"""Adversarial losses on logits: free functions, an equation each.

Every loss takes the discriminator's value before the sigmoid, so that log D and log(1 - D) are
softplus terms that neither overflow nor lose their gradient:
    log D = -softplus(-logit)        log(1 - D) = -softplus(logit)
Each is a mean over the batch, in nats.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class AdversarialLoss(NamedTuple):
    """What D minimises on real and on fake logits (N,), and what G minimises on fake ones."""

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


BCE = AdversarialLoss(real=real_log_d, fake=fake_log_1_minus_d, generator=generator_log_d)
