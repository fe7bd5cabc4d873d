"""Conditional DCGAN: an image that shows the objects asked for, i-CLEVR at 64x64. docs/cdcgan.md.

The networks are in systems/cdcgan/; here is the step with --g_steps updates of G, what is sampled
and for which labels, and the validation that picks the best weights.
"""

import hashlib
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.utils import make_grid, save_image

from dataset import Batches, to_signed
from GAN import add_spectral_norm
from lib.distributed import on_main, world
from lib.errors import UserError
from lib.runlog import RunLog
from lib.seeding import global_stream
from sources.iclevr import LABELS, load_conditions, parse_prompt
from systems.cdcgan.accuracy import accuracy
from systems.cdcgan.best_weights import BestWeights
from systems.cdcgan.config import CDCGANConfig
from systems.cdcgan.evaluator import Evaluator, load_evaluator, predict, weights_path
from systems.cdcgan.hold_out import chosen_combinations, without
from systems.cdcgan.label_scores import LabelReport, in_a_table, report
from systems.cdcgan.networks import DISCRIMINATORS, ConditionalGenerator, decoded
from systems.cdcgan.trainer import ConditionalGANTrainer

DRAWS = 20  # of z a condition, for an accuracy that is reported
MOST_HELD_OUT = 320  # combinations of labels that are scored; ten times test.json's
COLUMNS = 8
LONGEST_NAME = 80  # letters of a prompt in the name of its file


class CDCGAN(ConditionalGANTrainer):
    config_class = CDCGANConfig
    config: CDCGANConfig

    def __init__(self, config: CDCGANConfig, device: torch.device) -> None:
        sizes = {"image_size": config.image_size, "init": config.init}
        with global_stream("weights", config.seed):  # drawn on the CPU: alike on every device
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
        self.best = BestWeights(self.G)
        self.networks["best"] = self.best
        self.epoch_steps = 0  # known once there are batches

    def batches(self) -> Batches:
        """An epoch ends with a short batch, as the source's DataLoader does."""
        config, data = self.config, self.load_data("train")
        if config.hold_out:
            data = without(data, self.held_out, config.hold_out)
        self.check_conditions()
        batch_size = config.d_steps * config.batch_size
        batches = Batches(data, batch_size=batch_size, seed=config.seed, keep_short=True)
        rest = len(data) % batch_size
        if rest % world():
            raise UserError(
                f"an epoch of {len(data):,} images ends with a batch of {rest}, which {world()}"
                " processes can't share evenly: give another --batch_size."
            )
        self.epoch_steps = batches.epoch_steps
        return batches

    @cached_property
    def held_out(self) -> Tensor:
        """(K, L) float: the combinations of labels that --hold_out keeps from training."""
        share, seed = self.config.hold_out, self.config.seed
        return chosen_combinations(self.training_labels, share, seed)

    def check_networks(self, saved: dict[str, Any]) -> None:
        """UserError where the checkpoint is of another list of labels, or of another order."""
        theirs = decoded(saved["G"]["label_names"])
        if theirs == LABELS:
            return
        if len(theirs) != len(LABELS):
            what = f"it knows {len(theirs)}, here there are {len(LABELS)}"
        else:
            i = next(i for i, name in enumerate(LABELS) if theirs[i] != name)
            what = f"its number {i} is {theirs[i]!r}, here it is {LABELS[i]!r}"
        raise UserError(
            f"the checkpoint in {self.checkpoint_dir} is of another set of labels: {what}."
            " Give another --run."
        )

    def sample_images(self) -> dict[str, Tensor]:
        """An image of each condition of test.json, 8 a row, from noise that never changes."""
        y = load_conditions(self.config.data_dir, "test.json").float()
        z = self.noise(len(y), "fixed noise", 0, device="cpu")
        (images,) = self.images_of([(z, y)])
        return {"samples": grid(images)}

    # Accuracy

    def check_conditions(self) -> None:
        """What is missing for the samples and the validation is told before the run."""
        load_conditions(self.config.data_dir, "test.json")
        if self.evaluator is None:
            print("no weights are kept as the best: --validate_on needs an evaluator")
        else:
            load_conditions(self.config.data_dir, f"{self.config.validate_on}.json")

    @cached_property
    def evaluator(self) -> Evaluator | None:
        """Ours or the course's; None where there is none, which is said once."""
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
        noise = (self.noise(len(y), purpose, i, device="cpu") for i in range(draws))
        images = self.images_of(((z, y) for z in noise), G)
        return torch.stack([predict(self.evaluator, batch) for batch in images])

    def watch(self, log: RunLog, scalars: dict[str, float] | None) -> None:
        """Every --validate_every steps: accuracy from noise that never changes, the best kept."""
        super().watch(log, scalars)
        every = self.config.validate_every or self.epoch_steps
        if self.evaluator is None or self.step % every:
            return
        y = load_conditions(self.config.data_dir, f"{self.config.validate_on}.json").float()
        G = self.sampled_generator()
        value = accuracy(self.label_scores(G, y, "validation noise", 1)[0], y)
        log.scalars({"validation_accuracy": value}, self.step)
        if self.best.offer(G, value, self.step):
            path = self.checkpoint_dir.parent / "best.pt"
            on_main(lambda: self.best.save(path, self.config))

    def evaluate(self, extractor: nn.Module) -> list[dict[str, Any]]:
        """Accuracy on every list of conditions, of the newest weights and of the best ones.

        Tables of its parts and of the objects that were missed: runs/<run>/labels-*.md.
        """
        if self.evaluator is None:
            return []
        generators = {"accuracy": (self.sampled_generator(), self.step)}
        if self.best.exists:
            generators["accuracy_best"] = (self.best.network, int(self.best.step))
        results = []
        for metric, (G, step) in generators.items():
            for name, y in self.lists_of_conditions().items():
                found = report(self.label_scores(G, y, f"accuracy {name}", DRAWS), y)
                path = self.config.run_dir / f"labels-{metric}-{name}.md"
                on_main(lambda f=found, p=path: write_table(p, in_a_table(f)))
                results.append(self.result(f"{metric}/{name}", found, y, step))
        return results

    def lists_of_conditions(self) -> dict[str, Tensor]:
        """name -> (M, L) float: test, new_test where it is there, what --hold_out held out."""
        folder = Path(self.config.data_dir) / "iclevr"
        lists = {
            name: load_conditions(self.config.data_dir, f"{name}.json").float()
            for name in ("test", "new_test")
            if (folder / f"{name}.json").is_file()
        }
        if self.config.hold_out:
            lists["held_out"] = self.held_out[:MOST_HELD_OUT]
        return lists

    def result(self, metric: str, found: LabelReport, y: Tensor, step: int) -> dict[str, Any]:
        """A line of results.jsonl, without its circumstances."""
        kind, _, name = metric.partition("/")
        chosen_on = self.config.validate_on if kind == "accuracy_best" else ""
        chose = ", the list that picks the best weights" if name == chosen_on else ""
        return found.as_result() | {
            "metric": metric,
            "conditions": len(y),
            "weights_step": step,
            "validated_on": chosen_on,
            "evaluator_sha256": self.evaluator.digest,
            "about": f"{found.in_words()}; {len(y)} conditions of {name}{chose}; weights of step"
            f" {step}",
        }

    def serve(self) -> None:
        """--prompt: a row of images for each list of objects; the columns share their noise."""
        y = parse_prompt(self.config.prompt).float()
        z = self.noise(COLUMNS, "prompt noise", 0, device="cpu")
        G, step = self.sampled_generator(), self.step
        if self.best.exists:
            G, step = self.best.network, int(self.best.step)
        pairs = [(z, row.expand(COLUMNS, -1)) for row in y]
        images = torch.cat(list(self.images_of(pairs, G)))
        path = self.config.run_dir / prompt_file(self.config.prompt)
        save_image((grid(images) + 1) / 2, path)
        chosen = f", the best on {self.config.validate_on}.json" if self.best.exists else ""
        print(f"weights of step {step}{chosen}\n{path}")


def prompt_file(prompt: str) -> str:
    """Its rows two dashes apart; a long name is cut, and a hash of the whole tells it apart."""
    rows = [re.sub(r"[^a-z]+", "-", row).strip("-") for row in prompt.lower().split(";")]
    words = "--".join(rows).rstrip("-")
    if len(words) > LONGEST_NAME:
        digest = hashlib.sha256(words.encode()).hexdigest()[:8]
        words = f"{words[:LONGEST_NAME]}-{digest}"
    return f"prompt-{words}.png"


def grid(images: Tensor) -> Tensor:
    """Bytes (N, C, S, S) -> one image in [-1, 1], 8 a row."""
    return make_grid(to_signed(images), nrow=COLUMNS, padding=2, pad_value=-1.0)


def write_table(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
