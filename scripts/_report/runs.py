"""A run as a report reads it from its folder, and the protocol that compares runs."""

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from GAN import count_parameters
from lib.config import Config
from lib.errors import UserError
from lib.events import read_scalars
from lib.results import Result, drawing_of, scan_results, tensorboard_point
from scripts._saved_run import open_run
from scripts.evolution import find_grids, read_picture
from trainer import Trainer


@dataclass
class Run:
    """A run as its folder has it."""

    name: str  # the folder's; the report tells runs of one name apart
    trainer: Trainer
    curves: dict[str, list[tuple[int, float]]]
    results: list[Result]  # at its last step, of the weights it has now, without nulls
    samples: list[tuple[int, Path]]  # (step, PNG), oldest first
    problems: list[str]  # a sentence on each part of it that is passed over
    fid: Result | None = None  # the newest by the report's protocol
    short: str = ""  # "latent 100, width 16": what tells it from the others

    @property
    def others(self) -> dict[str, Result]:
        """The newest of its other results by their tag in TensorBoard, as kid, fid_10k, lpips."""
        fid = self.fid and protocol_of(self.fid)
        own = [r for r in self.results if r["metric"] != "fid" or protocol_of(r) != fid]
        return {tensorboard_point(result)[0]: result for result in own}

    @property
    def config(self) -> Config:
        return self.trainer.config

    @property
    def parameters(self) -> dict[str, int]:
        return {name: count_parameters(net) for name, net in self.trainer.networks.items()}


def read_run(run_dir: Path, **changes: Any) -> Run:
    """Raises UserError if the folder is empty or no run, or if its events are damaged."""
    trainer = open_run(run_dir, **changes)
    results, problems = scan_results(run_dir)
    last = [r for r in results if r["step"] == trainer.step and r["value"] is not None]
    samples = []
    for step, path in find_grids(run_dir, "samples"):
        try:
            if step <= trainer.step:
                read_picture(path)
                samples.append((step, path))
        except UserError as error:
            problems.append(str(error))
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    name, curves = trainer.config.run_name, read_scalars(run_dir)
    return Run(name, trainer, curves, last, samples, problems)


def of_one_kind(runs: list[Run]) -> list[Run]:
    """The runs of the system and the data that most of them have: only their scores compare."""
    kinds = [(run.config.model, run.trainer.trained_on) for run in runs]
    return [r for r, kind in zip(runs, kinds, strict=True) if kind == max(kinds, key=kinds.count)]


def score_runs(runs: list[Run]) -> None:
    """Set `fid` of each run to its newest one by the protocol that most runs were scored by.

    The default one among equals. Images from a z that is not of N(0, I) come after those, and
    `smoke`, which is no result, last.
    """
    fids = [[result for result in run.results if result["metric"] == "fid"] for run in runs]
    counts = Counter(p for own in fids for p in set(map(protocol_of, own)))
    usual = ("homework", "fp32")
    rank = {p: (p[0] != "smoke", n, not p[3], p[:2] == usual, p) for p, n in counts.items()}
    common = max(rank, key=rank.get, default=None)
    for run, own in zip(runs, fids, strict=True):
        run.fid = next((r for r in reversed(own) if protocol_of(r) == common), None)


def protocol_of(result: Result) -> tuple[str, str, str, str]:
    """Name, precision, sha256 of the Inception weights, how z was drawn ("": from N(0, I))."""
    weights = result.get("weights_sha256", "")
    return result["protocol"], result["precision"], weights, drawing_of(result)


def best_run(runs: list[Run]) -> Run | None:
    return min((run for run in runs if run.fid), key=lambda run: run.fid["value"], default=None)
