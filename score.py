"""From a trained model to lines in results.jsonl: generate -> Inception -> Moments -> FID.

A line names everything the value depends on; a FID without those is not a result.
"""

import math
import subprocess
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dataset import identity
from distributed import in_turn, on_main
from fid import GROUPS, PROTOCOLS, fid_with_error
from inception import load_inception
from moments import features_to_groups
from reference import find_reference
from runlog import RunLog, keep, record
from trainer import Trainer


def score(trainer: Trainer, scorer: "Scorer | None" = None) -> list[dict[str, Any]]:
    """FID by the config's protocol and the system's own scores: printed, logged, kept."""
    results = [(scorer or Scorer(trainer)).fid()]
    for metric, value in trainer.evaluate().items():
        results.append({"metric": metric, "value": value} | circumstances(trainer))
    on_main(lambda: [record(trainer.config.run_dir, result) for result in results])
    print(in_words(results[0]))
    return results


class Stopped(Exception):
    """A signal came while a FID was computed."""


def until(stopping: Callable[[], bool], batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The batches; Stopped as soon as stopping() is true."""
    for batch in batches:
        if stopping():
            raise Stopped
        yield batch


class Scorer:
    """The FID of a trainer's images, as often as one likes: what it takes is loaded once."""

    def __init__(self, trainer: Trainer) -> None:
        config = trainer.config
        self.trainer = trainer
        weights = config.inception_weights or None
        self.extractor = in_turn(
            lambda: load_inception(trainer.device, config.fid_precision, weights)
        )
        self.reference = find_reference(trainer, self.extractor)

    def fid(self, stopping: Callable[[], bool] | None = None) -> dict[str, Any]:
        """FID of generated images against the protocol's reference, with error and floor."""
        config = self.trainer.config
        protocol = PROTOCOLS[config.fid_protocol]
        images = self.trainer.generate_share(protocol.n_fake, config.seed)
        groups = features_to_groups(
            until(stopping, images) if stopping else images,
            self.extractor,
            protocol.n_fake,
            groups=GROUPS,
            label=f"FID: {protocol.n_fake:,} generated images",
        )
        value, error = fid_with_error(self.reference.moments, groups)
        return {
            "metric": "fid",
            "value": value,
            "error": error,
            "floor": self.reference.floor,
            "protocol": config.fid_protocol,
            "split": protocol.split,
            "n_real": self.reference.moments.n,
            "n_fake": protocol.n_fake,
            "extractor": self.extractor.name,
            "precision": self.extractor.precision,
            "weights_sha256": self.extractor.digest,
        } | circumstances(self.trainer)

    def during_training(self, log: RunLog, stopping: Callable[[], bool]) -> None:
        """A point of the curve `fid` and a line of results.jsonl, once each; training goes on.

        Nothing where stopping() turns true meanwhile: a resumed run makes up for it.
        """
        try:
            result = self.fid(stopping)
        except Stopped:
            return
        on_main(lambda: keep(log, result))


def circumstances(trainer: Trainer) -> dict[str, Any]:
    """What every result of this model depends on, whatever the metric."""
    config = trainer.config
    return {
        "model": config.model,
        "dataset": config.dataset,
        "data": identity(config),
        "image_size": config.image_size,
        "seed": config.seed,
        "step": trainer.step,
        "training_precision": config.precision,
        "ranks": trainer.ranks,
        **trainer.sampling_mode(),
        "device": device_name(trainer.device),
        "torch": torch.__version__,
        "git_commit": git_commit(),
    }


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else "mps"


@cache
def git_commit() -> str:
    """The commit of this code, "+changes" where the working tree differs; "" outside git.

    Asked once, when the process starts: what runs is what was there then.
    """
    here = Path(__file__).parent
    try:
        command = [
            "git",
            "-C",
            str(here),
            "describe",
            "--always",
            "--abbrev=40",
            "--dirty=+changes",
        ]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


git_commit()


def in_words(result: dict[str, Any]) -> str:
    floor = "unknown: no other images"
    if math.isfinite(result["floor"]):
        floor = f"{result['floor']:.2f}"
    return (
        f"FID {result['value']:.2f} ± {result['error']:.2f} at step {result['step']}"
        f" ({result['protocol']}: {result['n_real']:,} real images of the {result['split']} split"
        f" against {result['n_fake']:,} generated; real against real {floor})"
    )
