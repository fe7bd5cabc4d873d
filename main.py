"""Train a system, score it, or both.

    python main.py --do_train     train from the latest checkpoint (or from the start), then score
    python main.py                score the latest checkpoint
    tensorboard --logdir runs     see it

Under torchrun several processes share the work (docs/distributed.md).
"""

import sys

import lib  # isort: skip  # noqa: F401 (first: Ctrl-C while torch is imported is one word)
import torch

from dataset import num_channels
from GAN import get_discriminator, get_generator
from lib import command, distributed
from lib.command import be_deterministic, no_checkpoint, pick_device, plan, summary
from lib.config import Config
from lib.flags import parse
from lib.guards import Pace, use_threads
from lib.seeding import global_stream
from metrics.curves import watch_curves
from metrics.score import Scorer, refuse_early, score
from systems import OTHERS, System
from systems.dcgan import DCGANConfig
from trainer import GANTrainer, Trainer


def build_dcgan(config: DCGANConfig, device: torch.device) -> GANTrainer:
    """The main job: G and D from GAN.py, handed to a Trainer."""
    channels = num_channels(config)
    with global_stream("weights", config.seed):  # drawn on the CPU: alike on every device
        G = get_generator(
            channels,
            config.latent_dim,
            config.generator_hidden_dim,
            device,
            image_size=config.image_size,
            arch=config.arch,
            init=config.init,
            upsample=config.upsample,
        )
        D = get_discriminator(
            channels,
            config.discriminator_hidden_dim,
            device,
            image_size=config.image_size,
            arch=config.arch,
            init=config.init,
            norm=config.d_norm,
            spectral_norm=config.spectral_norm,
        )
    return GANTrainer(config, device, G=G, D=D)


SYSTEMS = {"dcgan": System(lambda: (DCGANConfig, build_dcgan)), **OTHERS}


def build(config: Config, device: torch.device) -> Trainer:
    """A config -> the Trainer of its --model, freshly initialised."""
    trainer = SYSTEMS[config.model].build(config, device)
    trainer.observers.append(watch_curves(trainer))
    if getattr(config, "collapse_every", 0):
        from metrics.digits.panel import watch_digits  # here: matplotlib would slow every start

        trainer.observers.append(watch_digits(trainer))
    return trainer


def main(argv: list[str] | None = None) -> int:
    """Return the exit status: 0; 1 for what the user can mend, 2 for flags; 130, 143 if stopped."""
    voice = sys.stderr  # for an error of this rank alone; rank 0 prints what all raise together
    distributed.silence_other_ranks()
    argv = sys.argv[1:] if argv is None else argv
    return command.run(lambda: run(argv), voice=voice)


def run(argv: list[str]) -> None:
    config = parse(argv, SYSTEMS, (__doc__ or "").split("\n\n")[0])
    device = distributed.own_device(pick_device(config))
    use_threads(config.threads)
    if config.deterministic:
        be_deterministic()
    with distributed.session(device):
        train_and_score(config, device)


def train_and_score(config: Config, device: torch.device) -> None:
    """Train and score as the flags say; each process of several runs this."""
    trainer = build(config, device)
    print(summary(trainer))
    if not config.no_score:
        distributed.main_process_first(lambda: refuse_early(config))
    if config.dry_run:
        print(plan(trainer))
        return
    scorer = None if config.no_score else Scorer(trainer)
    if config.do_train:
        trainer.observers.append(Pace(trainer, scorer and scorer.seconds))
        trainer.train(scorer and scorer.during_training)
    elif not distributed.agree(trainer.resume):
        print(distributed.agree(lambda: no_checkpoint(trainer)))
    if not config.no_score:
        score(trainer, scorer)
    print(f"next: tensorboard --logdir {config.runs_dir}")


if __name__ == "__main__":
    sys.exit(main())
