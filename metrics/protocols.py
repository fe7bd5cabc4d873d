"""The protocols of --fid_protocol: which real images meet how many generated ones."""

from dataclasses import dataclass

from lib.config import Config


@dataclass(frozen=True)
class Protocol:
    """Says which real images meet how many generated ones, and which others give the floor.

    If both splits are the same, the floor takes the images that follow the reference's n_real in
    the split's seeded order, so that the two are disjoint. If none follow, as n_floor None says, it
    is the FID of the split's two halves: half the images, so that it is set too high.
    """

    split: str
    n_real: int | None  # None: all of the split
    n_fake: int | None  # None: as many as real ones
    floor_split: str
    n_floor: int | None
    kid: bool = False  # KID beside the FID: features are kept for it

    @property
    def floor_of(self) -> str:
        return "real against real" if self.n_floor else "two halves of the real images"


PROTOCOLS = {
    "homework": Protocol("train", 3000, 3000, "train", 3000),  # quick, biased upward by small n
    "10k": Protocol("test", None, 10_000, "train", 10_000),  # images that training never saw
    # as papers report it; no 50,000 other real images exist, so its floor is set too high
    "50k": Protocol("train", None, 50_000, "test", 10_000),
    "all": Protocol("train", None, None, "train", None, kid=True),  # for small training sets
    "smoke": Protocol("train", 64, 64, "train", 64),  # to see the pipeline run: not a result
}


def most_of(config: Config, usual: int) -> int:
    """Say how many images a system's own scores may take: few for a smoke test."""
    return PROTOCOLS["smoke"].n_fake if config.fid_protocol == "smoke" else usual
