"""What a report knows of a run, read from its folder, and the protocol that compares runs."""

import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from GAN import count_parameters
from lib.config import Config
from lib.events import read_scalars
from lib.results import Result, drawing_of, scan_results, tensorboard_point
from scripts._saved_run import open_run
from trainer import Trainer

# name, precision, sha256 of the Inception weights, how z was drawn ("": from N(0, I))
Protocol = tuple[str, str, str, str]


@dataclass
class Run:
    """A run as its folder has it; `fid` is its newest result by the report's protocol, if any.

    Its results are those at its last step, of the weights it has now; a null is none.
    """

    name: str  # the folder's; the report tells runs of one name apart
    trainer: Trainer
    curves: dict[str, list[tuple[int, float]]]
    results: list[Result]
    samples: list[tuple[int, Path]]  # (step, PNG), oldest first
    fid: Result | None = None

    @property
    def others(self) -> dict[str, Result]:
        """The newest of its other results by their tag in TensorBoard, as kid, fid_10k, lpips."""
        own = [r for r in self.results if self.fid is None or not compare(r, self.fid)]
        return {tensorboard_point(result)[0]: result for result in own}

    @property
    def fixed(self) -> str:
        """What its sample grids are made from."""
        return "fixed noise" if hasattr(self.config, "latent_dim") else "fixed images"

    @property
    def config(self) -> Config:
        return self.trainer.config

    @property
    def parameters(self) -> dict[str, int]:
        return {name: count_parameters(net) for name, net in self.trainer.networks.items()}


def read_run(run_dir: Path, **changes: Any) -> tuple[Run, list[str]]:
    """The run, and a sentence on each part of it that is passed over.

    Raises UserError, a sentence, if the folder is empty or no run, or if its events are damaged.
    """
    trainer = open_run(run_dir, **changes)
    results, problems = scan_results(run_dir)
    last = [r for r in results if r["step"] == trainer.step and r["value"] is not None]
    samples = []
    for path in sorted((run_dir / "samples").glob("samples-*.png")):
        match = re.fullmatch(r"samples-(\d{1,18})", path.stem)
        if match and int(match[1]) <= trainer.step:
            if problem := damage_of(path):
                problems.append(problem)
            else:
                samples.append((int(match[1]), path))
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    run = Run(trainer.config.run_name, trainer, read_scalars(run_dir), last, samples)
    return run, problems


def damage_of(path: Path) -> str:
    """A sentence if the picture can't be read to its end; else ""."""
    try:
        with Image.open(path) as picture:
            picture.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"{path} is torn or no picture ({error})"
    return ""


def score_runs(runs: list[Run]) -> Protocol | None:
    """Set `fid` of each run to its newest one by the common protocol, which is returned."""
    protocol = choose_protocol(runs)
    for run in runs:
        run.fid = next((r for r in reversed(fids(run)) if protocol_of(r) == protocol), None)
    return protocol


def choose_protocol(runs: list[Run]) -> Protocol | None:
    """The one that most runs were scored by; the default one among equals.

    Images from a z that is not of N(0, I) come after those, and `smoke`, which is no result, last.
    """
    counts = Counter(p for run in runs for p in {protocol_of(r) for r in fids(run)})
    usual = ("homework", "fp32")
    rank = {p: (p[0] != "smoke", n, not p[3], p[:2] == usual, p) for p, n in counts.items()}
    return max(rank, key=rank.get) if rank else None


def fids(run: Run) -> list[Result]:
    return [result for result in run.results if result["metric"] == "fid"]


def protocol_of(result: Result) -> Protocol:
    weights = result.get("weights_sha256", "")
    return result["protocol"], result["precision"], weights, drawing_of(result)


def compare(result: Result, fid: Result) -> bool:
    """True if the result is a FID by the same protocol."""
    return result["metric"] == "fid" and protocol_of(result) == protocol_of(fid)


def best_run(runs: list[Run]) -> Run | None:
    scored = [run for run in runs if run.fid]
    return min(scored, key=lambda run: run.fid["value"]) if scored else None
