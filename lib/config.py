"""Settings: frozen dataclasses <-> config.json; flags.py makes the command line of them.

A field says everything about itself once, in `setting(...)`: default, help text with its unit,
group in --help, bounds, and its role:
    defines   part of what the run is: in its name, and never changed by a resume
    free      step counts, intervals, how it is scored: may change from one command to the next
    once      where and how this one command runs (device, folders): not taken from a saved config
"""

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from lib.errors import UserError

C = TypeVar("C", bound="Config")


def setting(
    default: Any,
    text: str,
    *,
    group: str,
    role: str = "defines",
    tag: str = "",
    choices: tuple = (),
    at_least: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A dataclass field that knows its flag. `tag` ("z{}") puts its value in every run's name."""
    metadata = {"text": text, "group": group, "role": role, "tag": tag, "choices": choices}
    metadata |= {"at_least": at_least, "above": above, "below": below}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What every system has. A system's own config adds its data, networks and optimisers."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {}  # --preset NAME -> the fields it sets

    model: str = setting("dcgan", "the system to train or score", group="what to do", tag="{}")
    do_train: bool = setting(
        False,
        "train to --num_training_steps, from the latest checkpoint if there is one, then score;"
        " without it: score the latest checkpoint",
        group="what to do",
        role="once",
    )
    no_score: bool = setting(False, "skip the scoring", group="what to do", role="once")
    dry_run: bool = setting(
        False, "print what would be done and stop; writes nothing", group="what to do", role="once"
    )
    preset: str = setting(
        "",
        "settings that belong together, by name; flags given beside it come before it",
        group="what to do",
        role="once",
    )
    run: str = setting(
        "",
        "name of the run's folder; of an existing run it brings back all its settings"
        " (default: made from the settings)",
        group="what to do",
        role="once",
    )
    seed: int = setting(
        42, "of the weights, the order and the noise", group="training", tag="s{}", at_least=0
    )
    batch_size: int = setting(
        64,
        "images a step, of all processes together",
        group="training",
        tag="b{}",
        at_least=2,
        below=1_000_001,
    )
    sync_bn: bool = setting(
        False,
        "BatchNorm over the batch of all processes, not each one's share (torchrun; CUDA alone)",
        group="training",
    )
    num_training_steps: int = setting(
        5000, "steps, counted from the start of the run", group="training", role="free", at_least=1
    )
    precision: str = setting(
        "fp32",
        "arithmetic of the networks in training; bf16 keeps weights, losses, penalties and the"
        " image's own convolutions in fp32",
        group="training",
        choices=("fp32", "bf16"),
    )
    compile: bool = setting(
        False,
        "compile the networks first (torch.compile: a minute, and a C++ compiler)",
        group="training",
    )
    logging_steps: int = setting(
        10, "steps between two points of a curve", group="logging", role="free", at_least=1
    )
    saving_steps: int = setting(
        1000,
        "steps between two checkpoints, and between two grids of samples",
        group="logging",
        role="free",
        at_least=1,
    )
    sample_every: int = setting(
        0,
        "steps between two grids of samples; 0: one with each checkpoint",
        group="logging",
        role="free",
        at_least=0,
    )
    log_lines: bool = setting(
        False,
        "print a line a step, [epoch/epochs][batch/batches] and the scalars; they are read back"
        " from the device for it, which a GPU waits for",
        group="logging",
        role="once",
    )
    keep_checkpoints: int = setting(
        3,
        "newest checkpoints to keep on disk; 0 keeps all",
        group="logging",
        role="free",
        at_least=0,
    )
    fid_protocol: str = setting(
        "homework",
        "images compared: homework 3000 training / 3000 generated, 10k test set / 10,000,"
        " 50k training set / 50,000, all training set / as many, with KID (for small sets),"
        " smoke 64 / 64 (tries the pipeline, no result)",
        group="scoring",
        role="free",
        choices=("homework", "10k", "50k", "all", "smoke"),
    )
    fid_precision: str = setting(
        "fp32",
        "arithmetic of the Inception network; bf16 is faster and shifts the value (see README)",
        group="scoring",
        role="free",
        choices=("fp32", "bf16"),
    )
    fid_every: int = setting(
        0,
        "steps between two FIDs during training, by the same protocol; 0: only after it",
        group="scoring",
        role="free",
        at_least=0,
    )
    inception_weights: str = setting(
        "",
        "file of Inception weights in place of the standard ones; its sha256 goes into the result",
        group="scoring",
        role="once",
    )
    data_dir: str = setting("data", "folder of datasets", group="machine", role="once")
    runs_dir: str = setting("runs", "folder of runs", group="machine", role="once")
    device: str = setting(
        "auto",
        "auto takes cuda, else mps, else cpu",
        group="machine",
        role="once",
        choices=("auto", "cpu", "cuda", "mps"),
    )
    no_cuda: bool = setting(False, "never use a CUDA device", group="machine", role="once")
    cuda_graph: str = setting(
        "auto",
        "have CUDA run a DCGAN's step from a graph recorded once, not kernel by kernel; auto: where"
        " it can be recorded",
        group="machine",
        role="once",
        choices=("auto", "on", "off"),
    )
    deterministic: bool = setting(
        False,
        "bit-identical results on CUDA too, slower (the CPU always is)",
        group="machine",
        role="once",
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check(field, getattr(self, field.name))
        if self.run and not re.fullmatch(r"[\w.,=+-]*\w[\w.,=+-]*", self.run):
            raise UserError(f"--run {self.run!r}: wanted a plain folder name, without slashes.")
        if self.do_train and self.no_score and self.fid_every:
            raise UserError(
                f"--fid_every {self.fid_every} asks for scores and --no_score forbids them:"
                " leave one out (--fid_every 0 where the run has it)."
            )

    @property
    def request(self) -> str:
        """The flag that asks for the trained system's work instead of a training or a score."""
        return ""

    @property
    def run_name(self) -> str:
        return self.run or name_of(self)

    @property
    def run_dir(self) -> Path:
        return Path(self.runs_dir) / self.run_name


def check(field: dataclasses.Field, value: Any) -> None:
    """Type and bounds of one value; the error says found and wanted."""
    rule = field.metadata
    wanted = ""
    types = (int, float) if field.type is float else field.type
    if isinstance(value, bool) != (field.type is bool) or not isinstance(value, types):
        wanted = f"a value of type {field.type.__name__}"
    elif rule["choices"] and value not in rule["choices"]:
        wanted = "one of " + ", ".join(map(str, rule["choices"]))
    elif rule["at_least"] is not None and not value >= rule["at_least"]:
        wanted = f"at least {rule['at_least']}"
    elif rule["above"] is not None and not value > rule["above"]:
        wanted = f"more than {rule['above']}"
    elif rule["below"] is not None and not value < rule["below"]:
        wanted = f"less than {rule['below']}"
    if wanted:
        raise UserError(f"--{field.name} {value}: wanted {wanted}.")


def name_of(config: Config) -> str:
    """dcgan-mnist-32px-z16-g16-d16-b64-s42, then each untagged setting that is not the default.

    A name too long for a folder ends in a digest of the whole instead.
    """
    fields = [f for f in dataclasses.fields(config) if f.metadata["role"] == "defines"]
    tagged = sorted(
        (f for f in fields if f.metadata["tag"]), key=lambda f: LAST_TAGS.get(f.name, 0)
    )
    parts = [f.metadata["tag"].format(getattr(config, f.name)) for f in tagged]
    for field in fields:
        value = getattr(config, field.name)
        if not field.metadata["tag"] and value != field.default:
            parts.append(f"{field.name}={in_a_name(value)}")
    name = "-".join(parts).encode()
    if len(name) > LONGEST_NAME:
        digest = hashlib.blake2b(name, digest_size=4).hexdigest().encode()
        name = name[: LONGEST_NAME - len(digest) - 1] + b"-" + digest
    return name.decode(errors="ignore")


def in_a_name(value: Any) -> str:
    """A value as part of a folder's name: of a path the last part alone, and no odd characters."""
    if not isinstance(value, str):
        return str(value)
    return re.sub(r"[^\w.,+-]", "_", Path(value).resolve().name if "/" in value else value)


LONGEST_NAME = 255  # bytes, as file systems have it
LAST_TAGS = {"batch_size": 1, "seed": 2}  # a name reads from the system to the seed


def differences(config: Config, saved: dict[str, Any]) -> list[str]:
    """The defining fields in which `saved` differs: "latent_dim is 16 there, 100 here"."""
    return [
        f"{f.name} is {saved[f.name]} there, {getattr(config, f.name)} here"
        for f in dataclasses.fields(config)
        if f.metadata["role"] == "defines"
        and f.name in saved
        and not alike(saved[f.name], getattr(config, f.name))
    ]


def alike(a: Any, b: Any) -> bool:
    """Equal, or two spellings of one path."""
    if a == b or not (isinstance(a, str) and isinstance(b, str) and a and b and "/" in a + b):
        return a == b
    return Path(a).expanduser().resolve() == Path(b).expanduser().resolve()


def save_config(config: Config, path: Path) -> None:
    """Written beside and renamed, so that a full disk does not cost the old one."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")
    part.replace(path)


def load_saved(path: Path) -> dict[str, Any]:
    """The settings in config.json as a dict; raises UserError if it is no JSON object."""
    try:
        saved = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read as settings ({error}); delete or mend it.") from None
    if not isinstance(saved, dict):
        raise UserError(
            f"{path} holds no settings: found {type(saved).__name__}, wanted an object."
        )
    return saved


def merge(config_class: type[C], saved: dict[str, Any], given: dict[str, Any], path: Path) -> C:
    """Defaults, under a run's saved settings, under the flags given."""
    fields = {f.name: f.metadata["role"] for f in dataclasses.fields(config_class)}
    unknown = sorted(set(saved) - set(fields))
    if unknown:
        raise UserError(f"{path} has unknown settings: {', '.join(unknown)}.")
    kept = {name: value for name, value in saved.items() if fields[name] != "once"}
    config = config_class(**(kept | given))
    differing = differences(config, saved)
    if differing:
        raise UserError(
            f"the run {path.parent} is another one: {'; '.join(differing)}."
            " Leave the flag out to go on with it, or give another --run."
        )
    return config


def describe(config: Config) -> str:
    """The settings as aligned lines, grouped as in --help."""
    lines: dict[str, list[str]] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        lines.setdefault(field.metadata["group"], []).append(f"{field.name}={value!s}")
    return "\n".join(f"  {group:<11} {'  '.join(items)}" for group, items in lines.items())
