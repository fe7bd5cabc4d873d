"""What the work needs and what the machine can do: floating-point operations, counted; peak rates.

Operations are counted by torch.utils.flop_counter on the operators as they run, on the meta device,
where tensors have shapes and no values: two a multiply-add, of products and convolutions with their
gradients. Elementwise work is not counted, so a share of the peak errs low. What is counted is what
the algorithm needs, once: who does more (a gradient that nobody reads) gets no credit for it.
"""

import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from inception.network import InceptionV3
from scripts._benchmark.peers import plain_networks
from scripts._benchmark.timing import Rival

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}
PEAK_SIZES = {"cpu": 2048, "cuda": 8192, "mps": 4096}  # of a product large enough to be at its best

EMULATED = "emulated on this machine: a bf16 product is slower than an fp32 one"


def count_flops(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def step_flops(latent_dim: int, hidden_dim: int, image_size: int = 32) -> int:
    """Of a DCGAN step at batch 64: D on real and fake images, G through D, all that is needed."""
    with torch.device("meta"):
        G, D = plain_networks(latent_dim, hidden_dim, image_size)
        x, z = torch.empty(64, 1, image_size, image_size), torch.empty(64, latent_dim, 1, 1)
    return count_flops(lambda: needed_step(G, D, x, z))


def needed_step(G: nn.Module, D: nn.Module, x: torch.Tensor, z: torch.Tensor) -> None:
    """Goodfellow et al. 2014, algorithm 1, without the updates themselves."""
    D(x).sum().backward()
    fake = G(z)
    D(fake.detach()).sum().backward()
    D.requires_grad_(False)  # G's step asks for no gradient of D's weights
    D(fake).sum().backward()
    D.requires_grad_(True)


def inception_flops() -> int:
    """Of the features of one image."""
    with torch.device("meta"):
        network = InceptionV3()
        image = torch.empty(1, 3, 299, 299)
    return count_flops(lambda: network(image))


def frechet_flops(n: int) -> float:
    """Of the distance by a Cholesky factor F and the eigenvalues of F^T C F, n features.

    Cholesky's factor n^3 / 3, the product of a triangle, a symmetric matrix and the triangle n^3,
    the reduction to tridiagonal form 4 n^3 / 3 (Golub & Van Loan 2013, sec. 4.2.5 and 8.3.1; LAPACK
    Working Note 41 of dpotrf, dsygst and dsytrd); all else is of lower order.
    """
    return 8 * n**3 / 3


def peak_name(precision: str) -> str:
    return f"matrix product, {precision}"


def matrix_product(
    precision: str, device: torch.device, *, n: int | None = None, name: str = ""
) -> Rival:
    """The rival that reaches the machine's peak: n x n by n x n, as often as takes 0.5 s."""
    n = n or PEAK_SIZES[device.type]
    a, b = (torch.randn(n, n, device=device).to(DTYPES[precision]) for _ in "ab")
    return repeated(name or peak_name(precision), torch.matmul, a, b)


def convolution(precision: str, device: torch.device, *, channels: int = 256) -> Rival:
    """Beside the product, since a CPU's routines of the one may be faster than those of the other.

    4x4 with stride 2, as a DCGAN's, of 64 maps of 16x16.
    """
    x = torch.randn(64, channels, 16, 16, device=device).to(DTYPES[precision])
    w = torch.randn(channels, channels, 4, 4, device=device).to(DTYPES[precision])
    x, w = (a.to(memory_format=torch.channels_last) for a in (x, w))
    halve = partial(F.conv2d, stride=2, padding=1)
    return repeated(f"convolution, {precision}", halve, x, w)


def repeated(name: str, operation: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> Rival:
    """The operation as often as takes 0.5 s."""
    times = max(1, round(0.5 / seconds_of(lambda: operation(*tensors), tensors[0].device)))

    def work() -> None:
        for _ in range(times):
            operation(*tensors)

    shapes = [tensor.to("meta") for tensor in tensors]
    return Rival(name, work, items=0, flops=times * count_flops(lambda: operation(*shapes)))


def bf16_is_native(device: torch.device, n: int = 0) -> bool:
    """Whether a bf16 product is at least as fast as one in fp32. If not, it is emulated.

    Of a small one on a CPU, where emulation is slow, of one that fills the device elsewhere.
    """
    n = n or (256 if device.type == "cpu" else 2048)
    a = torch.randn(n, n, device=device)
    b = a.bfloat16()
    fp32, bf16 = (min(seconds_of(lambda m=m: m @ m, device) for _ in range(3)) for m in (a, b))
    return bf16 <= fp32


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Of the second of two calls."""
    finish = finisher(device)
    work()
    finish()
    start = time.perf_counter()
    work()
    finish()
    return time.perf_counter() - start


def finisher(device: torch.device) -> Callable[[], object]:
    """finish() returns when the device has done all that it was told; the CPU always has."""
    waits = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}
    return waits.get(device.type, lambda: None)


def memory_copy(device: torch.device, size: int = 2**30) -> Rival:
    """The rival that reaches the memory's peak: `size` bytes, each read once and written once."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Rival("memory copy", lambda: target.copy_(source), items=0, moved=2 * size)


def limits(precisions: list[str], device: torch.device) -> list[Rival]:
    """A matrix product a precision, and on CUDA the memory's copy."""
    products = [matrix_product(precision, device) for precision in precisions]
    return products + ([memory_copy(device)] if device.type == "cuda" else [])


def timed_limits(precisions: set[str], device: torch.device) -> tuple[list[Rival], dict[str, str]]:
    """The limits in these precisions, and a convolution, of which no share is taken.

    Left out: bf16 where it would take for ever.
    """
    emulated = "bf16" in precisions and not bf16_is_native(device)
    kept = sorted(precisions - ({"bf16"} if emulated else set()))
    convolutions = [convolution(precision, device) for precision in kept]
    return limits(kept, device) + convolutions, ({peak_name("bf16"): EMULATED} if emulated else {})


def limit_of(precision: str, timed: list[Rival]) -> str:
    """The name of this precision's peak, "" if it is not timed."""
    name = peak_name(precision)
    return name if name in {rival.name for rival in timed} else ""
