"""--log_lines: a line a step beside the progress bar, as PyTorch's DCGAN example prints it a batch:

[24/25][450/469] Loss_D: 0.9578 Loss_G: 2.3186 D(x): 0.8398 D(G(z)): 0.4703 / 0.1420
"""

import math
import sys

from tqdm import tqdm

from dataset import Batches

# Loss_D, D(x) and the first D(G(z)) are of D's update, Loss_G and the second D(G(z)) after it
GAN_VALUES = (
    "Loss_D: {discriminator_loss:.4f} Loss_G: {generator_loss:.4f}"
    " D(x): {D(x):.4f} D(G(z)): {D(G(z1)):.4f} / {D(G(z2)):.4f}"
)


def log_line(step: int, steps: int, batches: Batches, values: dict[str, float], form: str) -> str:
    """[epoch/epochs][batch/batches of an epoch] and the values, after `step` of `steps` steps.

    Epochs and batches count from 0, so that the last of 25 epochs is 24. An epoch has as many
    batches as hold the dataset once, a broken last one counted as whole. Our batches go on across
    its end instead (unless they keep a short one), so that of 25 epochs of 937.5 batches the last
    begins 12 batches late.
    form: of the values, by tag; "" shows all.
    """
    length = batches.epoch_steps
    epoch, batch = divmod(step - 1, length)
    shown = form.format_map(values) if form else " ".join(f"{t}: {values[t]:.4f}" for t in values)
    return f"[{epoch}/{math.ceil(steps / length)}][{batch}/{length}] {shown}"


def write_line(*args) -> None:
    """log_line(*args) to stdout, above the bar where somebody watches it."""
    line = log_line(*args)
    tqdm.write(line) if sys.stderr.isatty() else print(line)
