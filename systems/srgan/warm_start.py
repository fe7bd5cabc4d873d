"""Another run's G as the one to begin with: the game of the G with the lowest MSE.

Ledig et al. 2017, sec. 3.2: from fresh weights the game ends in worse optima.
"""

from pathlib import Path

from torch import Tensor, nn

from lib import checkpoint
from lib.errors import UserError
from training.modes import mixes_samples


def begin_with(G: nn.Module, run_dir: Path) -> None:
    """The weights of run_dir's newest checkpoint into G, in place. UserError: none, or others.

    Those of its average, where it has one; with BatchNorm its own, whose statistics belong to them.
    """
    found = checkpoint.load_newest(run_dir / "checkpoints", model="srgan")
    if found is None:
        raise UserError(
            f"--start_from {run_dir.name}: {run_dir / 'checkpoints'} holds no checkpoint. Wanted"
            " the name of a trained run of --model srgan in the same --runs_dir."
        )
    try:
        G.load_state_dict(weights_of(found["networks"], averaged=not mixes_samples(G)))
    except (KeyError, AttributeError, TypeError, RuntimeError) as error:
        raise UserError(
            f"--start_from {run_dir.name}: its G is another network"
            f" ({' '.join(str(error).split())[:200]}). Give the same --arch, widths and"
            " --residual_blocks, and images of as many channels."
        ) from None


def weights_of(networks: dict[str, dict[str, Tensor]], *, averaged: bool) -> dict[str, Tensor]:
    if not (averaged and "G_average" in networks):
        return networks["G"]
    average = networks["G_average"].items()
    return {k.removeprefix("module."): v for k, v in average if k.startswith("module.")}
