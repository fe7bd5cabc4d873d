"""From a trained model to lines in results.jsonl: generate -> Inception -> Moments -> FID.

A line names everything the value depends on; a FID without those is not a result.
"""

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

from fid import GROUPS, PROTOCOLS, fid_with_error
from inception import load_inception
from moments import features_to_groups
from reference import find_reference
from runlog import record
from trainer import Trainer


def score(trainer: Trainer) -> list[dict[str, Any]]:
    """FID by the config's protocol and the system's own scores: printed, logged, kept."""
    results = [score_fid(trainer)]
    for metric, value in trainer.evaluate().items():
        results.append({"metric": metric, "value": value} | circumstances(trainer))
    for result in results:
        record(trainer.config.run_dir, result)
    print(in_words(results[0]))
    return results


def score_fid(trainer: Trainer) -> dict[str, Any]:
    """The FID of generated images against the protocol's reference, with error and floor."""
    config = trainer.config
    protocol = PROTOCOLS[config.fid_protocol]
    extractor = load_inception(
        trainer.device, config.fid_precision, config.inception_weights or None
    )
    reference = find_reference(trainer, extractor)
    images = trainer.generate(protocol.n_fake, config.seed)
    label = f"FID: {protocol.n_fake:,} generated images"
    groups = features_to_groups(images, extractor, protocol.n_fake, groups=GROUPS, label=label)
    value, error = fid_with_error(reference.moments, groups)
    return {
        "metric": "fid",
        "value": value,
        "error": error,
        "floor": reference.floor,
        "protocol": config.fid_protocol,
        "split": protocol.split,
        "n_real": reference.moments.n,
        "n_fake": protocol.n_fake,
        "extractor": extractor.name,
        "precision": extractor.precision,
        "weights_sha256": extractor.digest,
    } | circumstances(trainer)


def circumstances(trainer: Trainer) -> dict[str, Any]:
    """What every result of this model depends on, whatever the metric."""
    config = trainer.config
    return {
        "model": config.model,
        "dataset": config.dataset,
        "image_size": config.image_size,
        "seed": config.seed,
        "step": trainer.step,
        "training_precision": config.precision,
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
    return (
        f"FID {result['value']:.2f} ± {result['error']:.2f} at step {result['step']}"
        f" ({result['protocol']}: {result['n_real']:,} real images of the {result['split']} split"
        f" against {result['n_fake']:,} generated; real against real {result['floor']:.2f})"
    )
