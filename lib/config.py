"""Config: the settings that every system has, the name of their run, and their config.json."""

import dataclasses
import hashlib
import json
import math
import os
import re
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

from lib.errors import UserError
from lib.files import write_beside_and_rename
from lib.settings import (
    GROUPS,
    MOST_UNITS,
    check,
    complete_defaults,
    logging,
    machine,
    refuse_misplaced,
    scoring,
    setting,
    task,
    training,
)

C = TypeVar("C", bound="Config")
PLAIN = re.compile(r"(?!-)[\w.,=+-]*\w[\w.,=+-]*")  # a name that --run takes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of every system; its own config adds data, networks and optimisers."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {}  # --preset NAME -> the fields it sets
    NAMED_LAST: ClassVar[tuple[str, ...]] = ()  # settings at the end of a run's name: see name_of

    model: str = setting(
        "dcgan", "system to train or score", group="what to do", tag="{}", level="basic"
    )
    do_train: bool = task(
        False,
        "train from the latest checkpoint on, then score; without it, only score",
        level="main",
    )
    no_score: bool = task(False, "skip the scoring", level="basic")
    dry_run: bool = task(False, "print the plan and stop; nothing is written", level="basic")
    preset: str = task("", "a named set of flags; flags beside it override it", level="basic")
    run: str = task(
        "", "name of the run's folder; an old one brings back its settings", level="basic"
    )
    seed: int = training(42, "random seed of a run", tag="s{}", level="main")
    batch_size: int = training(
        64,
        "images per step, of all processes",
        tag="b{}",
        level="main",
        at_least=2,
        at_most=MOST_UNITS,
    )
    sync_bn: bool = training(False, "BatchNorm over all processes' batches (torchrun on CUDA)")
    num_training_steps: int = training(
        5000, "steps, counted from the start of the run", role="free", level="main", at_least=1
    )
    precision: str = training(
        "fp32",
        "arithmetic in training; with bf16, weights and losses stay in fp32",
        choices=("fp32", "bf16"),
    )
    compile: bool = training(False, "torch.compile the networks: a minute, and a C++ compiler")
    logging_steps: int = logging(10, "log the curves every so many steps", level="main", at_least=1)
    saving_steps: int = logging(
        1000,
        "save a checkpoint and a grid of samples every so many steps",
        level="main",
        at_least=1,
    )
    sample_every: int = logging(0, "save a grid every so many steps; 0: with each checkpoint")
    log_lines: bool = logging(
        False, "print [epoch][batch] and the losses at every step; a GPU waits for it", role="once"
    )
    keep_checkpoints: int = logging(3, "newest checkpoints to keep; 0 keeps all")
    fid_protocol: str = scoring(
        "homework",
        "images compared: homework 3000 training / 3000 generated; 10k test set / 10,000; 50k"
        " training set / 50,000; all training set / as many, and KID (for small sets); smoke"
        " 64 / 64 (a quick check, no result)",
        level="basic",
        choices=("homework", "10k", "50k", "all", "smoke"),
    )
    fid_precision: str = scoring(
        "fp32",
        "arithmetic of Inception; bf16 is faster and shifts the value",
        choices=("fp32", "bf16"),
    )
    fid_every: int = scoring(0, "score during training every so many steps; 0: at the end only")
    inception_weights: str = scoring(
        "", "file of other Inception weights; its sha256 goes into the result", role="once"
    )
    data_dir: str = machine("data", "folder of datasets", level="main")
    runs_dir: str = machine("runs", "folder of runs", level="basic")
    device: str = machine(
        "auto",
        "auto: cuda, else mps, else cpu",
        level="basic",
        choices=("auto", "cpu", "cuda", "mps"),
    )
    threads: int = machine(
        0, "CPU threads; 0: as many as the run began with, or PyTorch's choice", at_most=1024
    )
    no_cuda: bool = machine(False, "never use a CUDA device", level="main")
    deterministic: bool = machine(False, "bit-identical results on CUDA too, but slower")

    @classmethod
    def fitted(cls, preset: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """A preset's fields beside the flags that are given."""
        return preset

    def __init_subclass__(cls) -> None:
        complete_defaults(cls)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check(field, getattr(self, field.name))
        refuse_misplaced(self)
        if self.run and not PLAIN.fullmatch(self.run):
            raise UserError(f"--run {self.run!r}: wanted a plain folder name without slashes.")
        for name in ("data_dir", "runs_dir"):
            if not (given := getattr(self, name)) or given.startswith("~"):
                raise UserError(f"--{name} {given!r}: wanted a folder's path; of this one a dot.")
            if os.path.isfile(given):
                raise UserError(f"--{name} {given} is a file: wanted a folder.")
        if self.do_train and self.no_score and self.fid_every:
            raise UserError(
                f"--fid_every {self.fid_every} asks for scores and --no_score forbids them:"
                " leave one out (--fid_every 0 if the run has it)."
            )

    @property
    def run_name(self) -> str:
        return self.run or name_of(self)

    @property
    def run_dir(self) -> Path:
        return Path(self.runs_dir) / self.run_name


def name_of(config: Config) -> str:
    """dcgan-mnist-32px-z16-g16-d16-b64-s42, then each untagged setting that is not the default.

    A name too long for a folder ends in a digest of the whole instead.
    """
    parts = []
    for field in defining(config):
        value, tag = getattr(config, field.name), field.metadata["tag"]
        if tag:
            parts.append(tag.format(value))
        elif value != field.default:
            parts.append(f"{field.name}={in_a_name(value)}")
    name = "-".join(parts).encode()
    if len(name) > LONGEST_NAME:
        digest = hashlib.blake2b(name, digest_size=4).hexdigest().encode()
        name = name[: LONGEST_NAME - len(digest) - 1] + b"-" + digest
    return name.decode(errors="ignore")


def defining(config: Config | type[Config]) -> list[dataclasses.Field]:
    """The settings that make a run what it is, in the order in which its name has them."""
    places = {name: i for i, name in enumerate([*NAME_ORDER.split(), *config.NAMED_LAST])}
    fields = [f for f in dataclasses.fields(config) if f.metadata["role"] == "defines"]
    return sorted(fields, key=lambda f: (not f.metadata["tag"], places.get(f.name, math.inf)))


# Runs on disk are found by their names: never reorder this. A new setting may stand anywhere.
NAME_ORDER = """
    model dataset image_size condition layout latent_dim generator_hidden_dim
    discriminator_hidden_dim batch_size seed
    sync_bn precision compile folder folder_a folder_b small_images emoji_style jitter flip
    loss penalty penalty_weight penalty_every augment d_steps fresh_noise
    learning_rate learning_rate_d beta1 beta2 decay_from decay_to ema
    pixels downsample positions embedding_dim attention arch stem
    residual_blocks block_convs hidden_dim width norm init upsample d_norm spectral_norm
    likelihood beta reconstruction reconstruction_weight adversarial_weight
    feature_matching_weight perceptual_weight perceptual_layer judge lambda_cycle lambda_identity
    pool_size g_steps mismatch_weight accumulate orthogonal_weight
"""
LONGEST_NAME = 255  # bytes, as file systems have it


def in_a_name(value: Any) -> str:
    """Make a value fit a folder's name: of a path the last part alone, and no odd characters."""
    if not isinstance(value, str):
        return str(value)
    return re.sub(
        r"[^\w.,+-]", "_", os.path.basename(os.path.realpath(value)) if "/" in value else value
    )


class Retired(NamedTuple):
    """A setting of older versions: saved runs may hold its default; by role "once", any value."""

    default: Any
    instead: str  # what to do now
    role: str = "once"


RETIRED = {
    "cuda_graph": Retired("auto", "leave it out (--compile speeds up training)"),
    "latent_density": Retired("prior", "leave it out: z is drawn from N(0, I)"),
    "start_from": Retired("", "leave it out", role="defines"),
    "validate_on": Retired("test", "leave it out: it is test.json", role="defines"),
    "auxiliary_weight": Retired(1.0, "leave it out: D names no labels", role="defines"),
    "hold_out": Retired(0.0, "leave it out", role="defines"),
    "importance_samples": Retired(100, "leave it out"),
    "self_ensemble": Retired(False, "leave it out"),
    "lpips_net": Retired("alex", "leave it out: LPIPS is by AlexNet"),
    "perceptual_layer": Retired("relu2_2", "leave it out: it is relu2_2", role="defines"),
    "prompt": Retired("(none)", 'use python scripts/sample.py RUN --prompt "red cube"'),
    "translate": Retired("", "use python scripts/translate.py"),
    "upscale": Retired("", "use python scripts/upscale.py"),
    "out": Retired("", "use python scripts/translate.py or python scripts/upscale.py"),
}


def differences(config: Config, saved: dict[str, Any]) -> list[str]:
    """The defining fields in which `saved` differs: "latent_dim is 16 there, 100 here"."""
    return [
        f"{f.name} is {saved[f.name]} there, {getattr(config, f.name)} here"
        for f in defining(config)
        if f.name in saved and not alike(saved[f.name], getattr(config, f.name))
    ] + [
        f"{name} is {saved[name]} there, and is no longer a setting"
        for name, old in RETIRED.items()
        if old.role != "once" and saved.get(name, old.default) != old.default
    ]


def alike(a: Any, b: Any) -> bool:
    """Equal, or two spellings of one path."""
    if a == b or not (isinstance(a, str) and isinstance(b, str) and a and b and "/" in a + b):
        return a == b
    return os.path.realpath(os.path.expanduser(a)) == os.path.realpath(os.path.expanduser(b))


def save_config(config: Config, path: Path) -> None:
    write_beside_and_rename(path, f"{json.dumps(dataclasses.asdict(config), indent=2)}\n".encode())


def load_saved(path: Path) -> dict[str, Any]:
    """The settings in config.json as a dict; raises UserError if it is no JSON object."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} can't be read as settings ({error}): mend it, or move the run's folder away."
        ) from None
    if not isinstance(saved, dict):
        raise UserError(
            f"{path} holds no settings: found {type(saved).__name__}, wanted an object."
        )
    return saved


def merge(config_class: type[C], saved: dict[str, Any], given: dict[str, Any], path: Path) -> C:
    """Lay the flags given over a run's saved settings over the defaults."""
    fields = {f.name: f.metadata["role"] for f in dataclasses.fields(config_class)}
    unknown = sorted(set(saved) - set(fields) - set(RETIRED))
    if unknown:
        raise UserError(f"{path} has unknown settings: {', '.join(unknown)}.")
    kept = {name: value for name, value in saved.items() if fields.get(name, "once") != "once"}
    try:
        config = config_class(**(kept | given))
    except UserError as error:
        raise UserError(f"{path} with the flags given: {error}" if saved else str(error)) from None
    differing = differences(config, saved)
    if differing:
        raise UserError(
            f"the run {path.parent} is another one: {'; '.join(differing)}."
            " Leave the flag out to go on with it, or give another --run."
        )
    return config


def describe(config: Config) -> str:
    """The settings as aligned lines, a group each."""
    lines: dict[str, list[str]] = {group: [] for group in GROUPS}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != "":
            lines[field.metadata["group"]].append(f"{field.name}={value!s}")
    return "\n".join(f"  {group:<11} {'  '.join(items)}" for group, items in lines.items() if items)
