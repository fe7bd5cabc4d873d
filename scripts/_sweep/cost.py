"""How long the runs of a sweep will take, from steps and images timed on this machine, now."""

import dataclasses
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from fid import GROUPS, PROTOCOLS, covariance_factor, frechet_distance
from inception import InceptionV3, load_inception
from lib.config import Config
from main import SYSTEMS
from metrics.reference import SHIPPED, file_name
from trainer import Trainer

MAX_STEPS, MAX_SECONDS = 20, 1.5  # timed of each configuration, after one to warm up
IMAGES = 16  # timed through Inception, after 4 to warm up


@dataclass(frozen=True)
class Cost:
    """Seconds a training step, and seconds of the scoring. By default work is counted in steps."""

    step: float = 1.0
    scoring: float = 0.0

    def of(self, steps: int) -> float:
        return steps * self.step + self.scoring


def measure(configs: list[Config], device: torch.device) -> dict[str, Cost]:
    """Run name -> Cost. Each distinct configuration, seeds apart, is timed once.

    It fetches the dataset and the Inception weights if they are missing, as the runs would.
    """
    extractor = load_inception(
        device, configs[0].fid_precision, configs[0].inception_weights or None
    )
    distance = seconds_a_fid(configs[0], extractor)
    timed: dict[Config, tuple[float, float, str, int]] = {}
    costs, references = {}, set()
    for config in configs:
        kind = dataclasses.replace(config, seed=Config.seed)
        if kind not in timed:
            timed[kind] = time_one(SYSTEMS[config.model].build(config, device), extractor)
        step, image, reference, images = timed[kind]
        if reference not in references:
            references.add(reference)
            images += images_of_reference(config, reference, images)
        costs[config.run_name] = Cost(step, images * image + distance)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the runs want the memory
    return costs


def time_one(trainer: Trainer, extractor: InceptionV3) -> tuple[float, float, str, int]:
    """Seconds a step and a scored image; the real moments' file name; the images scored."""
    image = seconds_an_image(trainer, extractor)
    images = PROTOCOLS[trainer.config.fid_protocol].n_fake or len(trainer.load_data("train"))
    return seconds_a_step(trainer), image, file_name(trainer, extractor), images


def seconds_a_step(trainer: Trainer) -> float:
    """The median of a few training steps; what they learn is thrown away."""
    batches = trainer.batches()
    trainer.record_steps()
    times: list[float] = []
    while len(times) < 3 or (len(times) <= MAX_STEPS and sum(times) < MAX_SECONDS):
        start = time.perf_counter()
        scalars = trainer.train_step(batches(trainer.step))
        [float(value) for value in scalars.values()]  # waits for the device
        trainer.step += 1
        times.append(time.perf_counter() - start)
    trainer.graphed = None
    return statistics.median(times[1:])


def seconds_an_image(trainer: Trainer, extractor: InceptionV3) -> float:
    """Of the Inception network, on images of this system's shape."""
    images = next(iter(trainer.generate(IMAGES, seed=0)))
    extractor(images[:4]).cpu()
    start = time.perf_counter()
    extractor(images).cpu()
    return (time.perf_counter() - start) / len(images)


def seconds_a_fid(config: Config, extractor: InceptionV3) -> float:
    """Of the Frechet distance and its jackknife: one distance timed, between random moments."""
    most = extractor.dims + 1
    n = min(PROTOCOLS[config.fid_protocol].n_fake or most, most)
    covariance = torch.randn(n, extractor.dims, dtype=torch.float64).T.cov()
    mean = torch.zeros(extractor.dims, dtype=torch.float64)
    start = time.perf_counter()
    factor = covariance_factor(covariance)
    once = time.perf_counter()
    frechet_distance(mean, covariance, mean, covariance, factor1=factor)
    return once - start + (GROUPS + 1) * (time.perf_counter() - once)


def images_of_reference(config: Config, name: str, n_fake: int) -> int:
    """Real images that the first run has to measure; 0 if their moments are on disk."""
    if any((folder / name).is_file() for folder in (SHIPPED, Path(config.data_dir) / "reference")):
        return 0
    protocol = PROTOCOLS[config.fid_protocol]
    return (protocol.n_real or n_fake) + (protocol.n_floor or 0)


def in_words(seconds: float) -> str:
    """An estimate: "40 s", "12 min", "3 h 20 min"."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
