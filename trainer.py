"""The training loop, and the two-part adversarial step.

`Trainer` knows no generator, no discriminator and no loss: it runs steps, logs, saves, resumes.
`GANTrainer` is the algorithm of Goodfellow et al. 2014 with the log-D trick.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import dataset
from dataset import Batch, Batches, ImageData
from lib import checkpoint, distributed, guards
from lib.config import Config
from lib.distributed import agree, agreed_signal, main_process_first, on_main_process
from lib.results import Result
from lib.runlog import GAN_VALUES, NoLog, RunLog, make_grid, open_log, tidy, write_line
from lib.seeding import generator, stream
from sources import DataSpec
from training.augment import Augment
from training.config import GANConfig, adam, set_rates
from training.ema import Average, Inputs
from training.layers import placed
from training.losses import LOSSES, PENALTIES, judgement, mean_probability
from training.modes import check_slope, frozen, logits_of, sampling
from training.precision import autocast, compiled

Scalars = dict[str, Tensor]  # detached, by TensorBoard tag
# score(log, stopping): a FID during training, given up as soon as stopping() is true
Score = Callable[[RunLog, Callable[[], bool]], None]
# after every step, with the step's curves if they are logged; it may not change the training
Observer = Callable[[RunLog, dict[str, float] | None], None]
AT_ONCE = 100  # images in a forward pass of sampling
STATISTICS = 2000  # images from which BatchNorm's statistics are re-estimated for --ema


class Trainer:
    """Runs a system to --num_training_steps; what must survive a kill is in two dicts.

    A subclass fills these in its constructor and gives the four methods.
    """

    networks: dict[str, nn.Module]
    optimizers: dict[str, Optimizer]
    train_step: Callable[[Batch], Scalars]  # update every network once
    sample_images: Callable[[], dict[str, Tensor]]  # grids (C, H, W) in [-1, 1] by tag
    # the inputs of n generated images, a function of (n, seed), in batches of AT_ONCE: (z,), (z, y)
    sampling_inputs: Callable[[int, int], Iterator[Inputs]]
    sample: Callable[..., Tensor]  # a batch of inputs -> images (N, C, S, S) in [-1, 1]

    bar_tags: tuple[str, ...] = ()  # the scalars shown beside the progress bar
    line_form = ""  # of the scalars in a line of --log_lines; "": all of them
    on_main, main_first = staticmethod(on_main_process), staticmethod(main_process_first)

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device
        self.step = 0  # steps done
        self.step_images = config.batch_size  # taken from the dataset at each step
        self.score_size = config.image_size  # side of the images that FID compares
        self.ranks = distributed.world()  # processes that share each batch
        self.threads = 0  # of the CPU that trained the checkpoint
        self.trained_on = ""  # the fingerprint of the data that the weights have seen
        self.averages: dict[str, Average] = {}  # --ema, by the name of the averaged network
        self.autocast = autocast(config, device)  # the context of a step's forward passes
        self.observers: list[Observer] = []
        self.checkpoint_dir = config.run_dir / "checkpoints"

    def train(self, score: Score | None = None) -> None:
        """Train from the latest checkpoint to the last step. SIGINT and SIGTERM save and exit."""
        config, last = self.config, self.config.num_training_steps
        distributed.check(self.device, batch_size=config.batch_size, sync_bn=config.sync_bn)
        with ExitStack() as stack:
            on_main_process(lambda: stack.enter_context(guards.run_lock(config.run_dir)))
            agree(self.resume)
            if self.step >= last:
                on_main_process(lambda: tidy(config, self.step))
                print(f"nothing to train: the checkpoint is at step {self.step} of {last}")
                return
            guards.use_threads(config.threads, self.threads)
            distributed.refuse_other_number(self.ranks)
            distributed.prepare(self.networks, self.optimizers, self.step, config.sync_bn)
            batches = main_process_first(self.batches)
            self.trained_on = agree(lambda: checkpoint.same_data(self.trained_on, batches, config))
            log = agree(lambda: NoLog() if distributed.rank() else open_log(config, self.step))
            stack.callback(log.close)
            self.run_steps(batches, log, score)

    def run_steps(self, batches: Batches, log: RunLog, score: Score | None) -> None:
        """Train step by step, and log and save what is due, until the last step or a signal."""
        config, last = self.config, self.config.num_training_steps
        bar = guards.Bar(initial=self.step, total=last, unit="step", delay=0)
        with bar, guards.stop_signals(alone=self.ranks == 1) as received:
            while self.step < last:
                if score and self.step and self.due(config.fid_every):
                    score(log, lambda: bool(agreed_signal(received)))
                    if stop := agreed_signal(received):  # the resumed run scores this step
                        self.save(log)
                        guards.leave(stop, self.step, bar)
                scalars, values = self.train_step(batches(self.step)), None
                self.step += 1
                for name, average in self.averages.items():
                    average.update_parameters(self.networks[name])
                distributed.average_batchnorm(self.networks.values())
                bar.update()
                stop, ends = agreed_signal(received), self.step == last
                saves = stop or ends or self.due(config.saving_steps)
                shows = ends or self.due(config.sample_every or config.saving_steps)
                if saves or config.log_lines or self.due(config.logging_steps):
                    values = distributed.mean_scalars(scalars)  # waits for the GPU
                    guards.refuse_nan(values, self.step)
                    bar.set_postfix({t: f"{values[t]:.3f}" for t in self.bar_tags}, refresh=False)
                if config.log_lines:
                    write_line(self.step, last, batches.epoch_steps, values, self.line_form)
                if self.due(config.logging_steps):
                    log.scalars(values, self.step)
                for observe in self.observers:
                    observe(log, values if self.due(config.logging_steps) else None)
                if shows or saves:
                    guards.refuse_broken_weights(self.networks, self.step)
                if shows:
                    log.images(self.sample_images(), self.step)
                if saves:
                    self.save(log)
                if stop:
                    guards.leave(stop, self.step, bar)

    def due(self, every: int) -> bool:
        return bool(every) and self.step % every == 0

    def save(self, log: RunLog) -> None:
        """Write a checkpoint, behind the curves that it continues."""
        log.flush()
        facts = {"step": self.step, "ranks": self.ranks, "data": self.trained_on}
        state = checkpoint.pack(self.config, self.networks, self.optimizers, facts)
        keep = self.config.keep_checkpoints
        on_main_process(lambda: checkpoint.save(self.checkpoint_dir, state, keep=keep))

    def resume(self) -> bool:
        """Load the newest whole checkpoint; False if there is none, UserError if none fits."""
        guards.refuse_misplaced(self.config.run_dir)
        state = checkpoint.load_newest(self.checkpoint_dir, self.config.model, self.check_state)
        if state is not None:
            self.restore(state)
        return state is not None

    def check_state(self, state: dict[str, Any]) -> None:
        checkpoint.check_state(state, self.config, self.networks, self.optimizers)

    def restore(self, state: dict[str, Any]) -> None:
        for name, network in self.networks.items():
            network.load_state_dict(state["networks"][name])
        for name, optimizer in self.optimizers.items():  # its settings are the configuration's
            saved = {"state": state["optimizers"][name]["state"]}
            optimizer.load_state_dict(optimizer.state_dict() | saved)
        self.step, self.ranks, self.trained_on = state["step"], state["ranks"], state["data"]
        self.threads = state["threads"]

    def batches(self) -> Batches:
        """batches(step) -> Batch of the training split."""
        return Batches(self.load_data("train"), batch_size=self.step_images, seed=self.config.seed)

    def load_data(self, split: str) -> ImageData:
        return dataset.load_spec(self.config.dataset, split, DataSpec.of(self.config), self.device)

    def images_from(self, *inputs: Tensor) -> Tensor:
        """Make uint8 images (N, C, S, S): what is scored is what would be saved."""
        return dataset.to_bytes(self.sample(*inputs))

    def generate(self, n: int, seed: int, *, shared: bool = False) -> Iterator[Tensor]:
        """Yield n images in batches of uint8, a function of the weights and the seed.

        shared: only every world()-th of them, this process's share.
        """
        for i, inputs in enumerate(self.sampling_inputs(n, seed)):
            own = (distributed.shard(x, i * AT_ONCE) for x in inputs) if shared else inputs
            yield self.images_from(*own)

    def sampling_mode(self) -> dict[str, Any]:
        """Say how `sample` runs the model: part of every result."""
        return {"ema": bool(self.averages), "batchnorm": "running statistics"}

    def fetch(self) -> None:
        """Fetch what `evaluate` needs and say what can't be had: before a training."""

    def evaluate(self, extractor: nn.Module) -> list[Result]:
        """Compute the system's own scores beside FID. extractor: Inception-v3."""
        return []


class GANTrainer(Trainer):
    """The two-part step: D on real and fake batches, then G on fakes judged by the new D.

    Any G that maps z (N, latent_dim, 1, 1) to images (N, C, S, S) in [-1, 1] will do, and any D
    that returns the probability (N,) or (N, 1) that an image is real; it uses `D.logits` if there.
    """

    bar_tags = ("discriminator_loss", "generator_loss")
    line_form = GAN_VALUES
    slope_bounds = "--penalty gp or --spectral_norm, and --d_norm none"  # in words
    config: GANConfig

    def __init__(self, config: GANConfig, device: torch.device, *, G: nn.Module, D: nn.Module):
        super().__init__(config, device)
        self.G, self.D = placed(G, device), placed(D, device)
        self.loss, self.penalty = LOSSES[config.loss], PENALTIES[config.penalty]
        check_slope(D, config, self.slope_bounds)
        self.step_G = compiled(self.G, config, device)
        self.penalized = partial(logits_of, self.D)  # x -> (N,) whose gradient the penalty takes
        self.step_D = compiled(self.penalized, config, device)
        self.augment = Augment(config.augment, config.seed)
        self.networks = {"G": self.G, "D": self.D}
        rate = config.learning_rate
        self.learning_rates = {"G": rate, "D": config.learning_rate_d or rate}
        self.optimizers = {
            name: adam(network.parameters(), self.learning_rates[name], config)
            for name, network in self.networks.items()
        }
        self.step_images = config.d_steps * config.batch_size
        if config.ema:
            self.averages["G"] = self.networks["G_average"] = Average(self.G, config.ema)

    def train_step(self, batch: Batch) -> Scalars:
        """Update D --d_steps times, then G on the fakes that D saw last (or --fresh_noise)."""
        set_rates(self.optimizers, self.learning_rates, self.config, self.step)
        for k, x in enumerate(batch.x.chunk(self.config.d_steps)):
            index = self.step * self.config.d_steps + k  # the key of this update's draws
            fake = self.fakes(self.noise(len(x), "noise", index))
            scalars = self.update_discriminator(x, fake.detach(), index)
        if self.config.fresh_noise:
            fake = self.fakes(self.noise(len(x), "fresh noise", self.step))
        return scalars | self.update_generator(fake)

    def update_discriminator(self, x: Tensor, fake: Tensor, index: int) -> Scalars:
        """Part 1: D ascends log D(x) + log(1 - D(G(z))), or what --loss has in its place."""
        self.optimizers["D"].zero_grad()
        x, fake = self.augment(x, "real", index), self.augment(fake, "fake", index)
        real_logits = self.logits(x)
        real_loss = self.loss.real(real_logits)
        real_loss.backward()
        fake_logits = self.logits(fake)
        fake_loss = self.loss.fake(fake_logits)
        fake_loss.backward()  # adds to the gradients of the real batch
        scalars = self.penalize(x, fake, index)
        self.optimizers["D"].step()
        return scalars | judgement(real_loss + fake_loss, real_logits, fake_logits)

    def update_generator(self, fake: Tensor) -> Scalars:
        """Part 2: G ascends log D(G(z)), or what --loss has, as the D just updated judges it."""
        self.optimizers["G"].zero_grad()
        with frozen(self.D):
            logits = self.logits(self.augment(fake, "for G", self.step))
            loss = self.loss.generator(logits)
            loss.backward()
        self.optimizers["G"].step()
        return {"generator_loss": loss.detach(), "D(G(z2))": mean_probability(logits)}

    def penalize(self, x: Tensor, fake: Tensor, index: int, *labels: Tensor) -> Scalars:
        """Add the penalty's gradient, in float32; rarely and heavier by --penalty_every."""
        if self.penalty is None or (self.step + 1) % self.config.penalty_every:
            return {}
        draws = stream(self.device, "penalty", self.config.seed, index)
        share = torch.rand(len(x), 1, 1, 1, generator=draws, device=self.device)
        penalty = self.penalty(lambda x: self.penalized(x, *labels), x, fake, share)
        (self.config.penalty_weight * self.config.penalty_every * penalty).backward()
        return {"gradient_penalty": penalty.detach()}

    def logits(self, x: Tensor, *labels: Tensor) -> Tensor:
        """Run D as a step does, in --precision -> float32: (N,)."""
        with self.autocast:
            return self.step_D(x, *labels).float()

    def fakes(self, *inputs: Tensor) -> Tensor:
        """Run G as a step does, in --precision -> images (N, C, S, S) float32."""
        with self.autocast:
            return self.step_G(*inputs).float()

    @property
    def z_shape(self) -> tuple[int, ...]:
        return self.config.latent_dim, 1, 1

    def noise(self, n: int, purpose: str, index: int) -> Tensor:
        """z (n, *z_shape) ~ N(0, I) of a step, a function of (seed, purpose, index, rank)."""
        draws = stream(self.device, purpose, self.config.seed, index)
        return torch.randn(n, *self.z_shape, generator=draws, device=self.device)

    def fixed_noise(self, n: int, purpose: str, index: int = 0) -> Tensor:
        """z (n, *z_shape) on the CPU, alike on every device and in every process."""
        draws = generator("cpu", purpose, self.config.seed, index)
        return torch.randn(n, *self.z_shape, generator=draws)

    def sampling_inputs(self, n: int, seed: int) -> Iterator[Inputs]:
        draws = generator("cpu", "generate", seed)
        for start in range(0, n, AT_ONCE):
            yield (torch.randn(min(AT_ONCE, n - start), *self.z_shape, generator=draws),)

    def statistics_inputs(self) -> Iterator[Inputs]:
        """Make inputs like those of training, for an average's BatchNorm statistics."""
        return ((self.fixed_noise(AT_ONCE, "statistics", i),) for i in range(STATISTICS // AT_ONCE))

    def sampled_generator(self) -> nn.Module:
        """G, or with --ema its average with fresh BatchNorm statistics."""
        return self.averages["G"].sampled(self.statistics_inputs) if self.averages else self.G

    def sample(self, *inputs: Tensor, G: nn.Module | None = None) -> Tensor:
        """Make images (N, C, S, S) in [-1, 1] by G in eval mode: the sampled one, or another."""
        G = self.sampled_generator() if G is None else G
        with sampling(G):
            return G(*(x.to(self.device) for x in inputs))

    def sample_images(self) -> dict[str, Tensor]:
        return {"samples": make_grid(self.sample(self.fixed_noise(64, "fixed noise")), columns=8)}

    def sampling_mode(self) -> dict[str, Any]:
        norm = f"re-estimated on {STATISTICS} generated images"
        return {"ema": True, "batchnorm": norm} if self.averages else super().sampling_mode()
