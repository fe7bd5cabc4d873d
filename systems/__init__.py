"""The systems by the name that --model takes; one file each."""

from systems.biggan import BigGAN
from systems.cdcgan import CDCGAN
from systems.cyclegan import CycleGAN
from systems.dcgan import DCGAN
from systems.srgan import SRGAN
from systems.vae import VAE
from trainer import Trainer

SYSTEMS: dict[str, type[Trainer]] = {
    "dcgan": DCGAN,
    "cdcgan": CDCGAN,
    "cyclegan": CycleGAN,
    "biggan": BigGAN,
    "vae": VAE,
    "srgan": SRGAN,
}
