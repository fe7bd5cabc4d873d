"""The mean of what an upscaler makes of an image in each of the square's eight positions.

Geometric self-ensemble: Timofte et al. 2016, "Seven ways to improve example-based single image
super resolution"; EDSR+ of Lim et al. 2017, sec. 4.3.
"""

from collections.abc import Callable

from torch import Tensor

PLANE = (-2, -1)
Enlarge = Callable[[Tensor], Tensor]


def self_ensemble(enlarge: Enlarge) -> Enlarge:
    """enlarge: (N, C, s, s) -> (N, C, S, S). Run 8 times: as it is and mirrored, each turned."""

    def mean(low: Tensor) -> Tensor:
        turns = range(4)
        made = [enlarge(low.rot90(k, PLANE)).rot90(-k, PLANE) for k in turns]
        mirrored = low.flip(-1)
        made += [enlarge(mirrored.rot90(k, PLANE)).rot90(-k, PLANE).flip(-1) for k in turns]
        return sum(made) / len(made)

    return mean
