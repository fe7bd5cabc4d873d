"""The training loop, and the two-part adversarial step.

`Trainer` knows no generator, no discriminator and no loss: it runs steps, logs, saves, resumes.
`GANTrainer` is the algorithm of Goodfellow et al. 2014 with the log-D trick.
"""

import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from tqdm import tqdm

import dataset
import graphs
from dataset import Batch, Batches, ImageData
from from_noise import FromNoise
from lib import checkpoint, distributed
from lib.config import Config, differences
from lib.distributed import agreed_signal, in_turn, mean_scalars, on_main, shard, together, world
from lib.errors import UserError
from lib.guards import alone, progress_bar, refuse_broken_weights, refuse_nan, stop_signals
from lib.log_lines import GAN_VALUES, write_line
from lib.runlog import RunLog, open_log
from lib.seeding import generator
from metrics.curves import Watcher
from sources.spec import DataSpec
from training.augment import Augment, diffaug
from training.config import GANConfig
from training.decay import set_rates
from training.layers import memory_format
from training.losses import LOSSES, PENALTIES, AdversarialLoss, Penalty, mean_probability
from training.modes import Average, frozen, in_training_form, is_bounded, mixes_samples

# score(log, stopping): a FID during training, given up as soon as stopping() is true
Score = Callable[[RunLog, Callable[[], bool]], None]


class Trainer:
    """Runs a system to --num_training_steps; whatever must survive a resume is in two dicts.

    A subclass fills `networks` and `optimizers` in its constructor and gives the four methods
    at the end of this class.
    """

    config_class: type[Config]
    networks: dict[str, nn.Module]
    optimizers: dict[str, Optimizer]
    recordable = False  # whether it is graphs.Recordable: its steps can be a CUDA graph

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.records = graphs.may_record(config, device, recordable=self.recordable)
        self.graphed: Callable[[Batch], dict[str, Tensor]] | None = None
        self.step = 0  # steps done
        self.ranks = world()  # processes that share each batch
        self.trained_on = ""  # the fingerprint of the data that the weights have seen

    @property
    def checkpoint_dir(self) -> Path:
        return self.config.run_dir / "checkpoints"

    def train(self, score: Score | None = None) -> None:
        """From the latest checkpoint to the last step. SIGINT and SIGTERM save and exit.

        score(log, stopping) is called every --fid_every steps, between two steps.
        """
        config = self.config
        distributed.check(self.device, batch_size=config.batch_size, sync_bn=config.sync_bn)
        with alone(config.run_dir):
            self.train_on(score)

    def train_on(self, score: Score | None) -> None:
        """`train`, where no other process trains the run."""
        config, last = self.config, self.config.num_training_steps
        together(self.resume)
        if self.step >= last:
            print(f"nothing to train: the checkpoint is at step {self.step} of {last}")
            return
        distributed.refuse_other_number(self.ranks)
        distributed.prepare(self.networks, self.optimizers, step=self.step, sync_bn=config.sync_bn)
        self.record_steps()
        batches = in_turn(self.batches)
        together(lambda: self.refuse_other_data(batches.fingerprint()))
        log = together(lambda: open_log(config, self.step))
        try:
            with stop_signals() as received, progress_bar(self.step, last) as bar:
                while self.step < last:
                    if score and self.step and self.step % config.fid_every == 0:
                        score(log, lambda: bool(agreed_signal(received)))
                        if stop := agreed_signal(received):  # the resumed run scores this step
                            self.stop(stop, log, bar)
                    self.one_step(batches, log, bar, received)
        finally:
            log.close()
            self.graphed = None  # its memory is wanted for the score

    def one_step(self, batches: Batches, log: RunLog, bar: tqdm, received: list[int]) -> None:
        """A step of the algorithm, then what is due after it: curves, samples, a checkpoint."""
        scalars = self.train_step(batches(self.step))
        distributed.average_batchnorm(self.networks.values())
        self.step += 1
        bar.update()
        stop = agreed_signal(received)
        config, last = self.config, self.step == self.config.num_training_steps
        logs = self.step % config.logging_steps == 0
        saves = self.step % config.saving_steps == 0 or last
        shows = self.step % (config.sample_every or config.saving_steps) == 0 or last
        if logs or saves or stop or config.log_lines:
            values = mean_scalars(scalars)
            refuse_nan(values, self.step)
            bar.set_postfix({tag: f"{values[tag]:.3f}" for tag in self.bar_tags}, refresh=False)
        if config.log_lines:
            write_line(self.step, config.num_training_steps, batches, values, self.line_form)
        if logs:
            log.scalars(values, self.step)
        self.watch(log, values if logs else None)
        if shows or saves or stop:
            refuse_broken_weights(self.networks, self.step)
        if shows:
            log.images(self.sample_images(), self.step)
        if stop:
            self.stop(stop, log, bar)
        if saves:
            self.save_with(log)

    def stop(self, number: int, log: RunLog, bar: tqdm) -> NoReturn:
        """Save, and exit as the signal of this number wants."""
        self.save_with(log)
        bar.close()
        name = signal.Signals(number).name
        print(f"{name}: saved step {self.step}; the same command goes on from there")
        sys.exit(128 + number)

    def record_steps(self) -> None:
        """Before the first step: have steps played from a recording, where --cuda_graph may."""
        if self.records:
            self.graphed = graphs.WithFallback(self, insist=self.config.cuda_graph == "on")

    def save_with(self, log: RunLog) -> None:
        log.flush()  # the curves reach the disk before the checkpoint that continues them
        on_main(self.save)

    def save(self) -> None:
        state = {
            "model": self.config.model,
            "config": asdict(self.config),
            "step": self.step,
            "ranks": self.ranks,
            "data": self.trained_on,
            "networks": {name: net.state_dict() for name, net in self.networks.items()},
            "optimizers": {name: opt.state_dict() for name, opt in self.optimizers.items()},
        }
        checkpoint.save(self.checkpoint_dir, state, keep=self.config.keep_checkpoints)

    def resume(self) -> bool:
        """Load the newest whole checkpoint; False if there is none, and the weights are fresh.

        Raises UserError naming the fields if the checkpoint is of another configuration.
        """
        state = checkpoint.load_newest(self.checkpoint_dir, model=self.config.model)
        if state is None:
            return False
        differing = differences(self.config, state["config"])
        if differing:
            raise UserError(
                f"the checkpoint in {self.checkpoint_dir} is of another configuration:"
                f" {'; '.join(differing)}. Match it, or give another --run."
            )
        try:
            self.check_networks(state["networks"])
            for name, network in self.networks.items():
                network.load_state_dict(state["networks"][name])
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise UserError(
                f"step {state['step']} in {self.checkpoint_dir} holds other tensors than this"
                f" model's ({' '.join(str(error).split())[:200]}). Move it away, or give another"
                " --run."
            ) from None
        self.step, self.ranks = state["step"], state.get("ranks", 1)
        self.trained_on = state.get("data", "")
        return True

    def check_networks(self, saved: dict[str, Any]) -> None:
        """UserError where a system can tell that the saved tensors, by network, are of no use."""

    def refuse_other_data(self, found: str) -> None:
        """UserError where the images are no longer those that the checkpoint was trained on."""
        if self.trained_on not in ("", found):
            raise UserError(
                f"the checkpoint in {self.checkpoint_dir} was trained on other images:"
                f" {self.trained_on} there, {found} here. Bring them back, or give another --run."
            )
        self.trained_on = found

    def batches(self) -> Batches:
        """batches(step) -> Batch, of the training split."""
        return Batches(
            self.load_data("train"), batch_size=self.config.batch_size, seed=self.config.seed
        )

    def load_data(self, split: str) -> ImageData:
        """A split of the config's dataset on the device."""
        spec = DataSpec.of(self.config)
        return dataset.load_spec(self.config.dataset, split, spec, self.device)

    @property
    def score_size(self) -> int:
        """Side of the images that FID compares, generated and real."""
        return self.config.image_size

    def real_images(self, split: str) -> ImageData:
        """What generated images are compared with, at score_size."""
        return self.load_data(split)

    bar_tags: tuple[str, ...] = ()  # the scalars shown beside the progress bar
    line_form = ""  # of the scalars in a line of --log_lines; "": all of them

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """One update of every network; detached scalars by TensorBoard tag."""
        raise NotImplementedError

    def sample_images(self) -> dict[str, Tensor]:
        """Grids (C, H, W) in [-1, 1] by tag."""
        raise NotImplementedError

    def generate(self, n: int, seed: int) -> Iterator[Tensor]:
        """n images in batches (B, C, S, S) of uint8: what is scored is what would be saved."""
        raise NotImplementedError

    def generate_share(self, n: int, seed: int) -> Iterator[Tensor]:
        """This rank's share of `generate`; a subclass may save itself making the others'."""
        start = 0
        for images in self.generate(n, seed):
            yield shard(images, start)
            start += len(images)

    def sampling_mode(self) -> dict[str, str | bool]:
        """How `generate` runs the model: part of every result."""
        return {"ema": False, "batchnorm": "running statistics"}

    def evaluate(self, extractor: nn.Module) -> list[dict[str, Any]]:
        """The system's own scores beside FID, which the protocols give. extractor: Inception-v3.

        A dict each: metric (its tag), value, error (a standard error, where there is one), about
        (in words: of what and of how many), and whatever else the value depends on.
        """
        return []

    def serve(self) -> None:
        """What the flag `config.request` asks of the trained networks."""
        raise NotImplementedError

    def watch(self, log: RunLog, scalars: dict[str, float] | None) -> None:
        """After every step, for panels and warnings; `scalars` on logging steps only.

        It must leave the training as it is: the weights may not depend on whether it was called.
        """


class GANTrainer(FromNoise, Trainer):
    """The two-part step: D on real and fake batches, then G on fakes judged by the new D."""

    bar_tags = ("discriminator_loss", "generator_loss")
    line_form = GAN_VALUES
    slope_bounds = "--penalty gp or --spectral_norm, and --d_norm none"  # in words
    config: GANConfig

    def __init__(self, config: GANConfig, device: torch.device, *, G: nn.Module, D: nn.Module):
        super().__init__(config, device)
        self.G = G.to(device, memory_format=memory_format(device))
        self.D = D.to(device, memory_format=memory_format(device))
        self.loss: AdversarialLoss = LOSSES[config.loss]
        self.penalty: Penalty | None = PENALTIES[config.penalty]
        if self.penalty and mixes_samples(D):
            raise UserError(
                f"--penalty {config.penalty}: it takes the gradient of D at one image, and in a D"
                " with BatchNorm that depends on the whole batch. Add --d_norm none (or layer)."
            )
        if config.loss == "wgan" and config.penalty == "none" and not is_bounded(D):
            warnings.warn(
                f"--loss wgan with nothing to bound D's slope: add {self.slope_bounds}",
                stacklevel=2,
            )
        self.play_G, self.play_D = (
            in_training_form(forward, config, device) for forward in (self.G, self.D.logits)
        )
        self.augment = Augment(config.augment, config.seed)
        self.tape = graphs.Tape()
        self.watcher = Watcher(config.logging_steps)
        self.networks = {"G": self.G, "D": self.D}
        self.learning_rates = {
            "G": config.learning_rate,
            "D": config.learning_rate_d or config.learning_rate,
        }
        betas = (config.beta1, config.beta2)
        self.optimizers = {
            name: Adam(self.networks[name].parameters(), lr=lr, betas=betas, fused=True)
            for name, lr in self.learning_rates.items()
        }
        self.average = None  # of G's weights over the steps, with this decay
        if config.ema:
            self.average = Average(self.G, config.ema)
            self.networks["G_average"] = self.average

    def batches(self) -> Batches:
        """As many images a step as its D updates take together."""
        config, data = self.config, self.load_data("train")
        return Batches(data, batch_size=config.d_steps * config.batch_size, seed=config.seed)

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """A step's updates at the step's learning rates, and the average of G after them."""
        self.set_learning_rates()
        scalars = (self.graphed or self.update)(batch)
        if self.average is not None:
            self.average.update_parameters(self.G)
        return scalars

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Goodfellow et al. 2014, algorithm 1: --d_steps updates of D, then one of G.

        graphs.Recordable: what the step draws, it draws through the tape.
        """
        for part, x in enumerate(batch.x.chunk(self.config.d_steps)):
            n = len(x)
            z = self.tape(lambda n=n, k=part: self.batch_noise(n, "noise", self.d_updates(k)))
            fake, scalars = self.update_discriminator(x, z, part=part)
        if self.config.fresh_noise:
            fake = self.play_G(self.tape(lambda: self.batch_noise(n, "fresh noise", self.step)))
        return scalars | self.update_generator(fake)

    def variant(self) -> bool:
        """What of a step is not the same for all of them: whether it has a penalty."""
        return self.is_penalized

    def d_updates(self, part: int) -> int:
        """Updates of D before this part of the step: the index of what it draws."""
        return self.step * self.config.d_steps + part

    def update_discriminator(
        self, x: Tensor, z: Tensor, *, part: int = 0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Part 1: D ascends log D(x) + log(1 - D(G(z))), or what --loss has in its place.

        The backward passes accumulate. part: which of the step's updates of D this is. Returns
        G(z), through which G can still learn.
        """
        G, D = self.play_G, self.play_D
        self.optimizers["D"].zero_grad()
        x = self.augmented(x, "real", part)
        real_logits = D(x)
        real_loss = self.loss.real(real_logits)
        real_loss.backward()
        fake = G(z)
        seen = self.augmented(fake.detach(), "fake", part)
        fake_logits = D(seen)
        fake_loss = self.loss.fake(fake_logits)
        fake_loss.backward()
        scalars = self.penalize(x, seen, part=part)
        self.optimizers["D"].step()
        return fake, scalars | {
            "discriminator_loss": (real_loss + fake_loss).detach(),
            "D(x)": mean_probability(real_logits),
            "D(G(z1))": mean_probability(fake_logits),
        }

    def augmented(self, images: Tensor, purpose: str, part: int | None = None) -> Tensor:
        """As D sees them, in that part of the step's updates of D; None: in G's."""
        if self.augment.name == "none":
            return images
        shape = images.shape
        draws = self.tape(
            lambda: self.augment.draws(
                shape, self.device, purpose, self.step if part is None else self.d_updates(part)
            )
        )
        return diffaug(images, draws)

    def penalize(
        self,
        x: Tensor,
        fake: Tensor,
        *,
        part: int = 0,
        logits: Callable[[Tensor], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The gradient penalty, on every --penalty_every-th step and that much heavier.

        Karras et al. 2020, sec. 4.1 (lazy regularization). x and fake as D saw them: its gradient
        is taken at the augmented images.
        """
        if not self.is_penalized:
            return {}
        n = len(x)
        share = self.tape(lambda: self.penalty_share(n, self.d_updates(part)))
        penalty = self.penalty(logits or self.D.logits, x, fake, share)
        (self.config.penalty_weight * self.config.penalty_every * penalty).backward()
        return {"gradient_penalty": penalty.detach()}

    @property
    def is_penalized(self) -> bool:
        """Whether the step that comes has a penalty."""
        return self.penalty is not None and not (self.step + 1) % self.config.penalty_every

    def penalty_share(self, n: int, index: int) -> Tensor:
        """This rank's (n, 1, 1, 1) in [0, 1): how far between a fake and a real image."""
        stream = generator(self.device, "penalty", self.config.seed, index)
        share = torch.rand(n * world(), 1, 1, 1, generator=stream, device=self.device)
        return shard(share)

    def update_generator(self, fake: Tensor) -> dict[str, Tensor]:
        """Part 2: G ascends log D(G(z)), or what --loss has, as the D just updated judges it."""
        self.optimizers["G"].zero_grad()
        with frozen(self.D):
            logits = self.play_D(self.augmented(fake, "for G"))
            loss = self.loss.generator(logits)
            loss.backward()
        self.optimizers["G"].step()
        return {"generator_loss": loss.detach(), "D(G(z2))": mean_probability(logits)}

    def set_learning_rates(self) -> None:
        """Before a step's updates: as --decay_from and --decay_to have it."""
        set_rates(self.optimizers, self.learning_rates, self.config, self.step)

    def watch(self, log: RunLog, scalars: dict[str, float] | None) -> None:
        """A line beside the bar when the game has been ill for long, and when it is so no more."""
        if scalars and (line := self.watcher.note(self.step, scalars)):
            tqdm.write(line)
