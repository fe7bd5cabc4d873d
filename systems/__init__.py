"""The systems by the name that --model takes; one file each."""

from systems.biggan.config import BigGAN
from systems.cdcgan.system import CDCGAN
from systems.cyclegan.trainer import CycleGAN
from systems.dcgan import DCGAN
from systems.srgan.trainer import SRGAN
from systems.vae.trainer import VAE
from trainer import Trainer

SYSTEMS: dict[str, type[Trainer]] = {
    "dcgan": DCGAN,
    "cdcgan": CDCGAN,
    "cyclegan": CycleGAN,
    "biggan": BigGAN,
    "vae": VAE,
    "srgan": SRGAN,
}
