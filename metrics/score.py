"""From a trained model to lines in results.jsonl: generate -> Inception -> Moments -> FID, KID.

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

from dataset import check_split, identity
from fid import GROUPS, PROTOCOLS, fid_with_error
from inception import load_inception
from inception.moments import features_to_groups
from lib.config import Config
from lib.distributed import main_process_first, on_main_process
from lib.errors import UserError
from lib.results import format_drawing
from lib.runlog import RunLog, record
from metrics.kid import BLOCKS, MOST, Keeping, kid_with_error
from metrics.reference import find_reference
from trainer import Trainer


def score(trainer: Trainer, scorer: "Scorer | None" = None) -> list[dict[str, Any]]:
    """FID (and KID) by the config's protocol and the system's own scores: printed, logged, kept."""
    scorer = scorer or Scorer(trainer)
    measured = scorer.measure()
    keep_all(trainer, measured)  # before the rest, which may fail, as where LPIPS finds no weights
    print("\n".join(in_words(result) for result in measured))
    own = [r | circumstances(trainer) | r for r in trainer.evaluate(scorer.extractor)]
    keep_all(trainer, own)
    for result in own:
        print(own_in_words(result))
    return measured + own


def keep_all(trainer: Trainer, results: list[dict[str, Any]]) -> None:
    on_main_process(lambda: record(trainer.config, results))


def refuse_early(config: Config) -> None:
    """UserError where the score that is to follow the training would lack its real images or the
    weights that --inception_weights names.

    Known from the files' names alone, so it need not wait for the training to be over.
    """
    if (weights := config.inception_weights) and not Path(weights).is_file():
        raise UserError(
            f"--inception_weights {weights}: no file is there; leave it out for the standard ones."
        )
    check_split(config, PROTOCOLS[config.fid_protocol].split)
    if not config.dry_run:  # an archive is unpacked for it
        identity(config)  # every result has it, and an emoji's is of both splits


class Stopped(Exception):
    """A signal came while a FID was computed."""


def until(stopping: Callable[[], bool], batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The batches; Stopped as soon as stopping() is true."""
    for batch in batches:
        if stopping():
            raise Stopped
        yield batch


class Scorer:
    """The scores of a trainer's images, as often as one likes: what it takes is loaded once."""

    def __init__(self, trainer: Trainer) -> None:
        config = trainer.config
        self.trainer = trainer
        self.protocol = PROTOCOLS[config.fid_protocol]
        weights = config.inception_weights or None
        self.extractor = main_process_first(
            lambda: load_inception(trainer.device, config.fid_precision, weights)
        )
        self.reference = find_reference(trainer, self.extractor)

    def measure(self, stopping: Callable[[], bool] | None = None) -> list[dict[str, Any]]:
        """FID of generated images against the protocol's reference, with error and floor.

        And KID from the same features, where the protocol has it.
        """
        seed, protocol = self.trainer.config.seed, self.protocol
        real = self.reference
        n_fake = protocol.n_fake or real.moments.n
        images = self.trainer.generate_share(n_fake, seed)
        keeping = Keeping(self.extractor, MOST if protocol.kid else 0)
        groups = features_to_groups(
            until(stopping, images) if stopping else images,
            keeping,
            n_fake,
            groups=GROUPS,
            label=f"FID: {n_fake:,} generated images",
        )
        value, error = fid_with_error(real.moments, groups)
        results = [self.result("fid", value, error, real.floor, real.moments.n, n_fake)]
        if protocol.kid:
            x, y = real.features.to(self.trainer.device), keeping.features()
            floor, _ = real.kid_floor
            results.append(self.result("kid", *kid_with_error(x, y), floor, len(x), len(y)))
        return results

    def result(
        self, metric: str, value: float, error: float, floor: float, n_real: int, n_fake: int
    ) -> dict[str, Any]:
        """A line of results.jsonl, without its date."""
        return {
            "metric": metric,
            "value": value,
            "error": error,
            "floor": floor,
            "floor_of": self.protocol.floor_of,
            "protocol": self.trainer.config.fid_protocol,
            "split": self.protocol.split,
            "n_real": n_real,
            "n_fake": n_fake,
            "extractor": self.extractor.name,
            "precision": self.extractor.precision,
            "weights_sha256": self.extractor.digest,
            "score_size": self.trainer.score_size,
            **(KID_ESTIMATOR if metric == "kid" else {}),
        } | circumstances(self.trainer)

    def during_training(self, log: RunLog, stopping: Callable[[], bool]) -> None:
        """A point of the curve `fid` and a line of results.jsonl, once each (and so for KID).

        Nothing where stopping() turns true meanwhile: a resumed run makes up for it.
        """
        try:
            results = self.measure(stopping)
        except Stopped:
            return
        on_main_process(lambda: log.results(results))


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
    here = Path(__file__).parents[1]
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


KID_ESTIMATOR = {"estimator": "unbiased, all pairs, cubic kernel", "jackknife_blocks": BLOCKS}
DIGITS = {"fid": 2, "kid": 5}


def in_words(result: dict[str, Any]) -> str:
    digits = DIGITS[result["metric"]]
    value, error, floor = (f"{result[key]:.{digits}f}" for key in ("value", "error", "floor"))
    if not math.isfinite(result["floor"]):
        floor = "unknown: no other images"
    return (
        f"{result['metric'].upper()} {value} ± {error} at step {result['step']}"
        f" ({result['protocol']}: {result['n_real']:,} real images of the {result['split']} split"
        f" against {result['n_fake']:,} generated{format_drawing(result)};"
        f" {result['floor_of']} {floor})"
    )


def own_in_words(result: dict[str, Any]) -> str:
    error = f" ± {result['error']:.2g}" if math.isfinite(result.get("error", math.nan)) else ""
    about = f" ({result['about']})" if result.get("about") else ""
    return f"{result['metric']} {result['value']:.4g}{error}{about}"
