"""Ours against its peers on the same work, interleaved (A B A B ...) in one process.

    pip install pytorch-fid                         the peer of `inception`; left out if missing
    python scripts/benchmark.py train               a training step at 16/16
    python scripts/benchmark.py inception           features of 32x32 images
    python scripts/benchmark.py frechet             Frechet distance of 2048-d Gaussians

Machines drift, so the figure to quote is the median of the ratios of neighbouring runs; the times
are there to see the spread.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from compare_inception import pytorch_fid_network

from config import print_error
from errors import UserError
from fid import frechet_distance
from inception import load_inception
from inception.weights import find_weights
from systems.dcgan import DCGAN, DCGANConfig


def interleave(rivals: dict[str, Callable[[], None]], rounds: int) -> None:
    """Time each rival in turn, `rounds` times; the last one is the peer of the others."""
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for work in rivals.values():
        work()  # warm-up
    for _ in range(rounds):
        for name, work in rivals.items():
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    peer = list(rivals)[-1]
    for name, seconds in times.items():
        ratios = [theirs / mine for mine, theirs in zip(seconds, times[peer], strict=True)]
        print(
            f"{name:28} median {statistics.median(seconds) * 1e3:9.1f} ms"
            f"   {statistics.median(ratios):6.2f}x as fast as {peer}"
            f" ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def bench_train(args: argparse.Namespace) -> None:
    """`--steps` training steps: GANTrainer against the plain loop."""
    config = DCGANConfig(
        data_dir=args.data_dir,
        generator_hidden_dim=args.hidden_dim,
        discriminator_hidden_dim=args.hidden_dim,
    )
    trainer = DCGAN(config, torch.device("cpu"))
    batches = trainer.batches()

    def ours() -> None:
        for _ in range(args.steps):
            scalars = trainer.train_step(batches(trainer.step))
            trainer.step += 1
            if trainer.step % config.logging_steps == 0:
                {tag: float(value) for tag, value in scalars.items()}

    plain = plain_loop(args.data_dir, args.hidden_dim, args.workers)
    interleave(
        {"GANTrainer": ours, "plain loop": lambda: [next(plain) for _ in range(args.steps)]},
        args.rounds,
    )


def plain_loop(data_dir: str, hidden_dim: int, workers: int) -> Iterator[None]:
    """A step each time: the loop that tutorials teach, with DataLoader and transforms."""
    from torchvision import datasets, transforms

    transform = transforms.Compose(
        [transforms.Resize(32), transforms.ToTensor(), transforms.Normalize(0.5, 0.5)]
    )
    data = datasets.MNIST(data_dir, transform=transform, download=True)
    loader = torch.utils.data.DataLoader(
        data, 64, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    G, D = plain_networks(hidden_dim)
    bce = nn.BCELoss()
    adam_G, adam_D = (torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999)) for net in (G, D))
    ones, zeros = torch.ones(64), torch.zeros(64)
    while True:
        for x, _ in loader:
            D.zero_grad()
            real = D(x)
            real_loss = bce(real, ones)
            real_loss.backward()
            fake = G(torch.randn(64, 16, 1, 1))
            judged = D(fake.detach())
            fake_loss = bce(judged, zeros)
            fake_loss.backward()
            adam_D.step()
            G.zero_grad()
            judged_again = D(fake)
            loss = bce(judged_again, ones)
            loss.backward()
            adam_G.step()
            [v.detach().mean().item() for v in (real_loss + fake_loss, loss, real, judged)]
            yield


def plain_networks(h: int) -> tuple[nn.Module, nn.Module]:
    """Row 1's networks as tutorials write them: one Sequential each."""
    ups, downs = [nn.ConvTranspose2d(16, 4 * h, 4, 1, 0, bias=False)], []
    for a, b in pairwise((4 * h, 2 * h, h)):
        ups += [nn.BatchNorm2d(a), nn.ReLU(True), nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False)]
    ups += [nn.BatchNorm2d(h), nn.ReLU(True), nn.ConvTranspose2d(h, 1, 4, 2, 1, bias=False)]
    downs = [nn.Conv2d(1, h, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True)]
    for a, b in pairwise((h, 2 * h, 4 * h)):
        downs += [nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.2, True)]
    downs += [nn.Conv2d(4 * h, 1, 4, bias=False), nn.Sigmoid(), nn.Flatten(0)]
    G, D = nn.Sequential(*ups, nn.Tanh()), nn.Sequential(*downs)
    for module in (*G.modules(), *D.modules()):
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
    return G, D


def bench_inception(args: argparse.Namespace) -> None:
    """Features of `--images` images of 32x32, grey, in batches of 50."""
    images = torch.randint(0, 256, (args.images, 1, 32, 32), dtype=torch.uint8)
    rivals: dict[str, Callable[[Tensor], Tensor]] = {
        f"ours, {precision}": load_inception("cpu", precision) for precision in ("fp32", "bf16")
    }
    try:
        theirs = pytorch_fid_network(find_weights())
        rivals["pytorch-fid"] = lambda batch: theirs((batch.float() / 255).expand(-1, 3, -1, -1))
    except UserError as error:
        print(f"left out: {error}")

    @torch.no_grad()
    def features(network: Callable[[Tensor], Tensor]) -> None:
        for batch in images.split(50):
            network(batch)

    interleave({name: lambda net=net: features(net) for name, net in rivals.items()}, args.rounds)


def bench_frechet(args: argparse.Namespace) -> None:
    """Full-rank covariances of 2048 features, float64; the values are compared too."""
    import numpy as np
    import scipy.linalg

    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((3000, 2048)) @ np.diag(rng.uniform(0.1, 1, 2048)) for _ in "xy")
    (mu1, cov1), (mu2, cov2) = ((f.mean(0), np.cov(f, rowvar=False)) for f in (x, y))
    values = {}

    def ours() -> None:
        values["ours"] = frechet_distance(mu1, cov1, mu2, cov2)

    def sqrtm() -> None:
        root = scipy.linalg.sqrtm(cov1 @ cov2).real
        values["sqrtm"] = ((mu1 - mu2) ** 2).sum() + np.trace(cov1 + cov2 - 2 * root)

    interleave({"ours": ours, "scipy.linalg.sqrtm": sqrtm}, args.rounds)
    print(f"relative difference {abs(values['ours'] / values['sqrtm'] - 1):.1e}")


BENCHMARKS = {"train": bench_train, "inception": bench_inception, "frechet": bench_frechet}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("what", choices=BENCHMARKS)
    parser.add_argument("--rounds", type=int, default=5, help="timings of each rival")
    parser.add_argument("--steps", type=int, default=50, help="train: steps a timing")
    parser.add_argument("--hidden_dim", type=int, default=16, help="train: width of both networks")
    parser.add_argument("--workers", type=int, default=0, help="train: of the plain DataLoader")
    parser.add_argument("--images", type=int, default=50, help="inception: images a timing")
    parser.add_argument("--data_dir", default="data", help="train: folder of MNIST")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.rounds} rounds")
    try:
        BENCHMARKS[args.what](args)
    except UserError as error:
        return print_error(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
