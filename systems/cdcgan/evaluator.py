"""The classifier that says which of the 24 labels a picture shows: torchvision's ResNet18.

The course's checkpoint opens too: {"model": state of a resnet18, fc = Sequential(Linear, Sigmoid)}.
Ours is of that form, with a record beside it, made by `python scripts/evaluator.py train`.
docs/evaluator.md.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib.errors import UserError
from lib.files import save_tensors
from lib.seeding import global_stream
from sources.iclevr import LABELS
from sources.pictures import resize

SIZE = 64
FORMAT = 1
MAKE = "Run `python scripts/evaluator.py train`, or put the course's checkpoint there."


class Evaluator(nn.Module):
    """Pictures (N, 3, 64, 64) in [-1, 1] -> scores (N, 24) in [0, 1], as the course's evaluator.

    measured: what scripts/evaluator.py found on held-out pictures; {} for another's checkpoint.
    """

    def __init__(self) -> None:
        from torchvision.models import resnet18  # here: it would slow every start

        super().__init__()
        with global_stream("evaluator", 0):  # the caller's stream stays put
            self.network = resnet18(weights=None)
            self.network.fc = nn.Sequential(nn.Linear(512, len(LABELS)))
        self.measured: dict[str, Any] = {}
        self.digest = ""  # sha256 of the file

    def logits(self, x: Tensor) -> Tensor:
        """(N, 24), before the sigmoid."""
        return self.network(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x).sigmoid()


@torch.no_grad()
def predict(evaluator: Evaluator, images: Tensor, batch_size: int = 256) -> Tensor:
    """Logits (N, 24) on the CPU of images uint8 (N, 3, S, S), resized to 64; in eval mode."""
    if evaluator.training:
        raise ValueError("an evaluator judges in eval mode")
    parts, device = [], next(evaluator.parameters()).device
    for batch in resize(images, SIZE).split(batch_size):
        x = batch.to(device).float().div(127.5).sub(1.0)
        parts.append(evaluator.logits(x.contiguous(memory_format=torch.channels_last)).cpu())
    return torch.cat(parts)


def weights_path(data_dir: Path | str) -> Path:
    """Say where scripts/evaluator.py saves, and its user looks."""
    return Path(data_dir) / "iclevr" / "evaluator.pth"


def save_evaluator(evaluator: Evaluator, path: Path) -> None:
    """Tensors and plain values; written beside and renamed."""
    saved = {
        "format": FORMAT,
        "labels": list(LABELS),
        "model": evaluator.network.state_dict(),
        "measured": evaluator.measured,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(saved, path)


def load_evaluator(path: Path, device: torch.device | str = "cpu") -> Evaluator:
    """Ours or the course's, in eval mode, without gradient.

    Raises UserError if it is missing, torn, or of another network or list of labels.
    """
    saved = read(path)
    labels = saved.get("labels", list(LABELS))
    if labels != list(LABELS):
        raise UserError(f"{path} knows other labels than i-CLEVR's 24. {MAKE}")
    evaluator = Evaluator()
    try:
        evaluator.network.load_state_dict(saved["model"])
    except (RuntimeError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} is not a ResNet18 with {len(LABELS)} labels ({reason}). {MAKE}"
        ) from None
    evaluator.measured = saved.get("measured", {})
    evaluator.digest = hashlib.sha256(path.read_bytes()).hexdigest()
    evaluator.requires_grad_(False).eval()
    return evaluator.to(device, memory_format=torch.channels_last)


def read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"the evaluator {path} is not there. {MAKE}")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # an unpickler that is fed a foreign file raises anything
        raise UserError(f"{path} is torn, or no file of tensors and plain values. {MAKE}") from None
    if not isinstance(saved, dict) or "model" not in saved:
        raise UserError(f'{path} holds no "model", as the course\'s checkpoint and ours do. {MAKE}')
    return saved
