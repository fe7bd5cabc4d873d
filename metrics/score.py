"""From a trained model to lines in results.jsonl: generate -> Inception -> Moments -> FID, KID.

A line names everything the value depends on; a FID without those is not a result.
"""

import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache, cached_property
from pathlib import Path

import torch
from torch import Tensor

from dataset import check_split, identity
from fid import GROUPS, fid_with_error
from inception import load_inception
from inception.kid import BLOCKS, MOST, kid_with_error
from inception.moments import FeatureRecorder, features_to_groups
from lib.config import Config
from lib.distributed import main_process_first, on_main_process, share_size, world
from lib.errors import UserError
from lib.guards import sigterm_exits
from lib.results import Result, format_drawing
from lib.runlog import RunLog, record
from metrics.features import made_by
from metrics.protocols import PROTOCOLS
from metrics.reference import Reference, fetch_images, find_reference
from trainer import Trainer


def score(trainer: Trainer, scorer: "Scorer | None" = None) -> list[Result]:
    """Print and keep FID (and KID) by the config's protocol, then the system's own scores."""
    with keeping(trainer) as tell:
        scorer = scorer or Scorer(trainer)
        measured = scorer.measure()
        tell(measured)  # before the rest, which may fail, as if LPIPS finds no weights
        own = [r | provenance(trainer) | r for r in trainer.evaluate(scorer.extractor)]
        tell(own)
    return measured + own


@contextmanager
def keeping(trainer: Trainer) -> Iterator[Callable[[list[Result]], None]]:
    """tell(results) prints results, then writes them; raises UserError at the end if that failed.

    A signal ends the block with a sentence on what is kept.
    """
    kept: list[str] = []
    problems: list[str] = []
    folder = trainer.config.run_dir

    def tell(results: list[Result]) -> None:
        try:
            for result in results:
                print(format_result(result), flush=True)
        finally:  # even if nobody reads what is printed
            try:
                on_main_process(lambda: record(trainer.config, results))
                kept.extend(result["metric"] for result in results)
            except (OSError, UserError) as error:
                why = getattr(error, "strerror", None) or str(error)
                problems.append(f"the scores could not be kept in {folder}: {why.rstrip('.')}.")

    try:
        with nullcontext() if world() > 1 else sigterm_exits():  # or torchrun stops them
            yield tell
    except UserError as error:
        raise UserError(" ".join([str(error), *problems])) from None
    except (KeyboardInterrupt, SystemExit):
        names = ", ".join(kept)
        said = f"{names} kept in {folder}; not the rest" if kept else "no score was kept"
        print(f"scoring stopped: {said}. The same command scores again.", file=sys.stderr)
        raise
    if problems:
        raise UserError(problems[0])


def refuse_early(config: Config) -> None:
    """Raises UserError if the score after the training would lack its real images or its weights.

    The files' names alone tell, so it need not wait for the training to be over.
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
    """The batches; raises Stopped as soon as stopping() is true."""
    for batch in batches:
        if stopping():
            raise Stopped
        yield batch


class Scorer:
    """The scores of a trainer's images, as often as one likes; network and moments load once.

    Made before a training, it fetches what the scores need; raises UserError if it can't.
    """

    def __init__(self, trainer: Trainer) -> None:
        config = trainer.config
        self.trainer = trainer
        self.protocol = PROTOCOLS[config.fid_protocol]
        weights = config.inception_weights or None
        try:
            self.extractor = main_process_first(
                lambda: load_inception(trainer.device, config.fid_precision, weights)
            )
            self.to_come = fetch_images(trainer, self.extractor)
        except UserError as error:
            other = " Or give --no_score: it trains, and fetches nothing for a score."
            raise UserError(f"{error}{other * config.do_train}") from None
        trainer.fetch()
        if config.fid_every:  # now, not amid the steps
            self.reference = find_reference(trainer, self.extractor)

    @cached_property
    def reference(self) -> Reference:
        return find_reference(self.trainer, self.extractor)

    @torch.no_grad()
    def seconds(self) -> float:
        """Estimate how long `measure` will take at first, from the time of eight images."""
        n = self.protocol.n_fake or self.to_come or self.reference.moments.n
        images = torch.zeros(8, 1, 32, 32, dtype=torch.uint8, device=self.trainer.device)
        for _ in range(2):  # the first one warms up
            start = time.perf_counter()
            self.extractor(images).sum().item()
        return (time.perf_counter() - start) / 8 * share_size(n + self.to_come)

    def measure(self, stopping: Callable[[], bool] = lambda: False) -> list[Result]:
        """FID of generated images against the protocol's reference, with error and floor.

        And KID from the same features, if the protocol has it.
        """
        real, protocol, seed = self.reference, self.protocol, self.trainer.config.seed
        n_fake = protocol.n_fake or real.moments.n
        images = until(stopping, self.trainer.generate(n_fake, seed, shared=True))
        recorder = FeatureRecorder(self.extractor, MOST if protocol.kid else 0)
        label = f"FID: {n_fake:,} generated images"
        groups = features_to_groups(images, recorder, n_fake, groups=GROUPS, label=label)
        found = fid_with_error(real.moments, groups)
        results = [self.result("fid", found, real.floor, real.moments.n, n_fake)]
        if protocol.kid:
            x, y = real.features.to(self.trainer.device), recorder.features()
            floor, _ = real.kid_floor
            results.append(self.result("kid", kid_with_error(x, y), floor, len(x), len(y)))
        return results

    def result(
        self, metric: str, found: tuple[float, float], floor: float, n_real: int, n_fake: int
    ) -> Result:
        """A line of results.jsonl, without its date; found: value and error."""
        numbers = dict(zip(("value", "error"), found, strict=True))
        counts = {"floor": floor, "n_real": n_real, "n_fake": n_fake}
        by = {
            "floor_of": self.protocol.floor_of,
            "protocol": self.trainer.config.fid_protocol,
            "split": self.protocol.split,
            "score_size": self.trainer.score_size,
        } | made_by(self.extractor)
        estimator = KID_ESTIMATOR if metric == "kid" else {}
        return {"metric": metric} | numbers | counts | by | estimator | provenance(self.trainer)

    def during_training(self, log: RunLog, stopping: Callable[[], bool]) -> None:
        """A point of the curve `fid` and a line of results.jsonl, once each (and so for KID).

        Nothing if stopping() turns true meanwhile: a resumed run makes up for it.
        """
        try:
            results = self.measure(stopping)
        except Stopped:
            return
        on_main_process(lambda: log.results(results))


def provenance(trainer: Trainer) -> Result:
    """The fields of every result of this model, whatever the metric."""
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
    """The commit of this code, "+changes" if the working tree differs; "" outside git.

    Asked once, when the process starts: the code that runs is what was there then.
    """
    command = ["git", "-C", str(Path(__file__).parents[1]), "describe"]
    command += ["--always", "--abbrev=40", "--dirty=+changes"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


git_commit()


KID_ESTIMATOR = {"estimator": "unbiased, all pairs, cubic kernel", "jackknife_blocks": BLOCKS}
DIGITS = {"fid": 2, "kid": 5}


def format_result(result: Result) -> str:
    """A FID or KID with its error, floor and protocol; other scores with their own words."""
    if (metric := result["metric"]) not in DIGITS:
        error = f" ± {result['error']:.2g}" if math.isfinite(result.get("error", math.nan)) else ""
        about = f" ({result['about']})" if result.get("about") else ""
        return f"{metric} {result['value']:.4g}{error}{about}"
    form = f"{{:.{DIGITS[metric]}f}}".format
    floor = result["floor"]
    return (
        f"{metric.upper()} {form(result['value'])} ± {form(result['error'])} at step"
        f" {result['step']} ({result['protocol']}: {result['n_real']:,} real images of the"
        f" {result['split']} split against {result['n_fake']:,} generated"
        f"{format_drawing(result)}; {result['floor_of']}"
        f" {form(floor) if math.isfinite(floor) else 'unknown: no other images'})"
    )
