"""Conditional DCGAN: an image that shows the objects asked for, i-CLEVR. docs/cdcgan.md."""

import copy
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dataset import Batch, Batches, to_bytes
from GAN import add_spectral_norm
from lib import checkpoint
from lib.config import Config
from lib.errors import UserError
from lib.files import save_tensors
from lib.results import Result
from lib.runlog import RunLog, make_grid
from lib.seeding import generator, stream
from sources.iclevr import COLOURS, LABELS, SHAPES, load_conditions
from systems.cdcgan.accuracy import accuracy
from systems.cdcgan.config import CDCGANConfig
from systems.cdcgan.evaluator import Evaluator, load_evaluator, predict, weights_path
from systems.cdcgan.networks import DISCRIMINATORS, ConditionalGenerator, decoded
from systems.cdcgan.scores import label_results, lists_of_conditions
from trainer import AT_ONCE, STATISTICS, GANTrainer, Scalars
from training.config import set_rates
from training.ema import Inputs
from training.losses import judgement, mean_probability
from training.modes import frozen
from training.precision import compiled


class BestWeights(nn.Module):
    """A network as it was at its best validation; none yet while `step` is 0.

    It is one of the trainer's networks, so that a run that was stopped and goes on compares with
    the same best, whatever the steps that were lost had found.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("value", torch.tensor(-1.0, dtype=torch.float64))  # below any accuracy
        self.register_buffer("step", torch.tensor(0))

    @property
    def exists(self) -> bool:
        return int(self.step) > 0

    def offer(self, network: nn.Module, value: float, step: int) -> bool:
        """Takes the network's weights over if its value is higher; the first of equals stays."""
        if value <= float(self.value):
            return False
        self.network.load_state_dict(network.state_dict())
        self.value.fill_(value)
        self.step.fill_(step)
        return True

    def save(self, path: Path, config: Config) -> None:
        """Write a checkpoint that `checkpoint.read` reads, without optimizers."""
        facts = {"format": checkpoint.FORMAT, "step": int(self.step), "value": float(self.value)}
        state = checkpoint.pack(config, {"G": self.network}, {}, facts)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(state, path)


class CDCGAN(GANTrainer):
    """A game about (x, y): y (N, L) float says which objects an image shows.

    y stands beside z in G and beside x in D. A step has --g_steps updates of G.
    """

    config: CDCGANConfig

    def __init__(self, config: CDCGANConfig, device: torch.device) -> None:
        sizes = {name: getattr(config, name) for name in ("image_size", "arch", "init")}
        G = ConditionalGenerator(
            label_names=LABELS,
            latent_dim=config.latent_dim,
            embedding_dim=config.embedding_dim,
            hidden_dim=config.generator_hidden_dim,
            **sizes,
        )
        D = DISCRIMINATORS[config.condition](
            num_labels=len(LABELS),
            hidden_dim=config.discriminator_hidden_dim,
            norm=config.d_norm,
            **sizes,
        )
        D = add_spectral_norm(D) if config.spectral_norm else D
        super().__init__(config, device, G=G, D=D)
        self.step_D = compiled(self.D.judge, config, device)
        self.best = self.networks["best"] = BestWeights(self.G)
        self.observers.append(self.validate)
        self.epoch_steps = 0  # known once there are batches

    def batches(self) -> Batches:
        """An epoch ends with a short batch, as the source's DataLoader does."""
        config, data = self.config, self.load_data("train")
        load_conditions(config.data_dir, "test.json")
        _ = self.evaluator, lists_of_conditions(self)  # now, not in mid-run
        rest = len(data) % self.step_images
        if rest % self.ranks:
            raise UserError(
                f"an epoch of {len(data):,} images ends with a batch of {rest}, which {self.ranks}"
                " processes can't share evenly: give another --batch_size."
            )
        batches = Batches(data, batch_size=self.step_images, seed=config.seed, keep_short=True)
        self.epoch_steps = batches.epoch_steps
        return batches

    def check_state(self, state: dict[str, Any]) -> None:
        """Raises UserError too if the checkpoint is of another list of labels, or another order."""
        try:
            best = state["networks"]["best"]["network.label_names"]
            known = {decoded(state["networks"]["G"]["label_names"]), decoded(best)}
            theirs = next(iter(known - {LABELS}), LABELS)
        except ValueError:  # bytes that are no text
            theirs = ()
        except (LookupError, TypeError, AttributeError, RuntimeError):
            theirs = LABELS  # a damaged file, which the check below refuses
        if theirs != LABELS:
            found = f"it knows {len(theirs)}, here there are {len(LABELS)}"
            if len(theirs) == len(LABELS):
                i = next(i for i, name in enumerate(LABELS) if theirs[i] != name)
                found = f"its number {i} is {theirs[i]!r}, here it is {LABELS[i]!r}"
            raise UserError(
                f"the checkpoint in {self.checkpoint_dir} is of another set of labels: {found}."
                " Give another --run."
            )
        super().check_state(state)

    def train_step(self, batch: Batch) -> Scalars:
        """Update D --d_steps times, then G --g_steps times.

        G's first update learns from the fakes that D has just seen (--fresh_noise: from new ones),
        the others from new noise. Logged: the first update of G, and the loss of the last.
        """
        config = self.config
        set_rates(self.optimizers, self.learning_rates, config, self.step)
        parts = zip(*(t.chunk(config.d_steps) for t in (batch.x, batch.y.float())), strict=True)
        for k, (x, y) in enumerate(parts):
            index = self.step * config.d_steps + k
            with torch.set_grad_enabled(not config.fresh_noise):
                fake = self.fakes(self.noise(len(x), "noise", index), y)
            scalars = self.update_conditioned(x, fake.detach(), y, index)
        with frozen(self.D):
            condition = self.D.condition(y)  # once: D and y are the same for all updates of G
            for k in range(config.g_steps):
                index = self.step * config.g_steps + k
                if k or config.fresh_noise:
                    fake = self.fakes(self.noise(len(y), "fresh noise", index), y)
                values = self.update_towards(fake, condition, index)
                scalars = values | scalars
        if config.g_steps > 1:
            scalars["generator_loss_last"] = values["generator_loss"]
        return scalars

    def update_conditioned(self, x: Tensor, fake: Tensor, y: Tensor, index: int) -> Scalars:
        """D ascends log D(x, y) + log(1 - D(G(z, y), y)), or what --loss has in its place.

        With --mismatch_weight a real image with a wrong label is a fake too.
        """
        self.optimizers["D"].zero_grad()
        conditions, weight = [self.D.condition(y)], self.config.mismatch_weight
        if weight:
            draws = stream(self.device, "wrong labels", self.config.seed, index)
            conditions.append(self.D.condition(wrong_labels(y, draws)))
        x, fake = self.augment(x, "real", index), self.augment(fake, "fake", index)
        real_logits, *wrong_logits = self.logits(x, torch.stack(conditions))
        fake_logits = self.logits(fake, conditions[0])
        loss = self.loss.real(real_logits) + self.loss.fake(fake_logits)
        for logits in wrong_logits:
            loss = loss + weight * self.loss.fake(logits)
        loss.backward()
        scalars = self.penalize(x, fake, index, y)
        self.optimizers["D"].step()
        return scalars | judgement(loss, real_logits, fake_logits)

    def update_towards(self, fake: Tensor, condition: Tensor, index: int) -> Scalars:
        """G ascends log D(G(z, y), y), or what --loss has."""
        self.optimizers["G"].zero_grad()
        logits = self.logits(self.augment(fake, "for G", index), condition)
        loss = self.loss.generator(logits)
        loss.backward()
        self.optimizers["G"].step()
        return {"generator_loss": loss.detach(), "D(G(z2))": mean_probability(logits)}

    @cached_property
    def training_labels(self) -> Tensor:
        """(N, L) float on the CPU: what the images of the training set show."""
        return self.load_data("train").labels.float().cpu()

    def drawn_labels(self, n: int, purpose: str, seed: int) -> Tensor:
        """y (n, L) of training images drawn at random with replacement, by (seed, purpose)."""
        labels = self.training_labels
        return labels[torch.randint(len(labels), (n,), generator=generator("cpu", purpose, seed))]

    def sampling_inputs(self, n: int, seed: int) -> Iterator[Inputs]:
        labels = self.drawn_labels(n, "generated labels", seed).split(AT_ONCE)
        for z, y in zip(super().sampling_inputs(n, seed), labels, strict=True):
            yield *z, y

    def statistics_inputs(self) -> Iterator[Inputs]:
        labels = self.drawn_labels(STATISTICS, "statistics labels", self.config.seed)
        for z, y in zip(super().statistics_inputs(), labels.split(AT_ONCE), strict=True):
            yield *z, y

    def sample_images(self) -> dict[str, Tensor]:
        """An image of each condition of test.json, 8 a row, from noise that never changes."""
        y = load_conditions(self.config.data_dir, "test.json").float()
        images = self.sample(self.fixed_noise(len(y), "fixed noise"), y)
        return {"samples": make_grid(images, columns=8)}

    @cached_property
    def evaluator(self) -> Evaluator | None:
        """Ours or the course's; None, with one warning, if there is none."""
        path = weights_path(self.config.data_dir)
        if path.is_file():
            return load_evaluator(path, self.device)
        print(
            f"no evaluator in {path}: the accuracy of the labels is not measured"
            " (python scripts/evaluator.py train makes one)"
        )
        return None

    def label_scores(self, G: nn.Module, y: Tensor, purpose: str, draws: int) -> Tensor:
        """(draws, M, L): what the evaluator sees in G's images of y (M, L)."""
        noise = (self.fixed_noise(len(y), purpose, i) for i in range(draws))
        images = (to_bytes(self.sample(z, y, G=G)) for z in noise)
        return torch.stack([predict(self.evaluator, batch) for batch in images])

    def validate(self, log: RunLog, scalars: dict[str, float] | None) -> None:
        """Every --validate_every steps: accuracy from noise that never changes, the best kept."""
        if self.evaluator is None or not self.due(self.config.validate_every or self.epoch_steps):
            return
        y = load_conditions(self.config.data_dir, "test.json").float()
        G = self.sampled_generator()
        value = accuracy(self.label_scores(G, y, "validation noise", 1)[0], y)
        log.scalars({"validation_accuracy": value}, self.step)
        if self.best.offer(G, value, self.step):
            path = self.config.run_dir / "best.pt"
            self.on_main(lambda: self.best.save(path, self.config))

    def evaluate(self, extractor: nn.Module) -> list[Result]:
        """Compute the accuracy on every list of conditions, of the newest and the best weights."""
        return [] if self.evaluator is None else label_results(self)


def wrong_labels(y: Tensor, draws: torch.Generator) -> Tensor:
    """y (N, L) multi-hot -> the same with one object of another colour or, as often, shape.

    Reed et al. 2016 (arXiv:1605.05396), sec. 4.2, draw any other text; a near miss teaches D more.
    """
    old = torch.multinomial(y, 1, generator=draws)  # one object of each image
    colour, shape = (
        torch.randint(1, len(names), old.shape, generator=draws, device=y.device)
        for names in (COLOURS, SHAPES)
    )
    in_colour = torch.rand(old.shape, generator=draws, device=y.device) < 0.5
    first = old - old % len(COLOURS)  # LABELS has all colours of a shape, then those of the next
    recoloured = first + (old + colour) % len(COLOURS)
    reshaped = (old + shape * len(COLOURS)) % len(LABELS)
    return y.scatter(1, old, 0.0).scatter(1, torch.where(in_colour, recoloured, reshaped), 1.0)
