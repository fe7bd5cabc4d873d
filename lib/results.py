"""results.jsonl: a line a score, and how a line is named in words, tables and TensorBoard.

Lines are checked once, where they are read: `read_results` passes a bad one over and names it.
"""

import json
import math
import sys
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib.files import naming

Result = dict[str, Any]  # a score: "metric", "value", "step", mostly "error", "n", "about"

ENCODERS = "encoder"  # latent_density of a score whose z is q(z | x)'s, and of no generated image

NUMBERS = ("value", "error", "floor", "truncation")  # null where a number is unknown
COUNTS = ("step", "n", "n_real", "n_fake", "seed")
WORDS = ("metric", "protocol", "precision", "split", "device", "weights_sha256", "latent_density")
WORDS += ("floor_of", "about", "model", "dataset", "data")
LARGEST = 1e100  # of a number: sums of them are finite
NEEDED = ("metric", "value", "step")
NEEDED_OF_IMAGE_SETS = ("protocol", "precision")  # by fid and kid


def read_results(run_dir: Path) -> list[Result]:
    """Return the good lines of results.jsonl, oldest first; name each bad one once on stderr."""
    results, problems = scan_results(run_dir)
    for problem in problems:
        warn_once(problem)
    return results


def scan_results(run_dir: Path) -> tuple[list[Result], list[str]]:
    """Return the good lines of results.jsonl, oldest first, and a sentence on each bad one."""
    path = run_dir / "results.jsonl"
    results, problems = [], []
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            results.append(checked(json.loads(line)))
        except (ValueError, RecursionError) as error:
            reason = str(error) if type(error) is ValueError else "it is torn or no JSON"
            problems.append(f"line {number} of {path} is passed over: {reason}.")
    return results, problems


@cache
def warn_once(problem: str) -> None:
    print(f"warning: {problem}", file=sys.stderr)


def checked(result: Any) -> Result:
    """Return the result; raises ValueError saying what is wrong with it."""
    if not isinstance(result, dict):
        raise ValueError("found no object, wanted one score")
    needed = NEEDED + NEEDED_OF_IMAGE_SETS * (result.get("metric") in ("fid", "kid"))
    if missing := [key for key in needed if key not in result]:
        raise ValueError(f"it has no {' and no '.join(missing)}")
    for keys, is_right, wanted in (
        (NUMBERS, lambda x: x is None or is_finite(x), "a finite number or null"),
        (("error",), lambda error: error is None or error >= 0, "0 or more"),
        (COUNTS, lambda n: type(n) is int and 0 <= n < 2**63, "a whole number from 0 up"),
        (WORDS, lambda value: isinstance(value, str), "text"),
    ):
        for key in keys:
            if key in result and not is_right(result[key]):
                raise ValueError(f"{key} is {json.dumps(result[key])[:40]}, wanted {wanted}")
    return result


def is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST  # NaN is not


def append_result(run_dir: Path, result: Result) -> None:
    """Write one dated line, behind whatever a kill left torn."""
    path = run_dir / "results.jsonl"
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    torn = path.is_file() and not path.read_bytes().endswith(b"\n")
    with naming(path), open(path, "a", encoding="utf-8") as file:
        file.write("\n" * torn + json.dumps(plain(result) | {"date": now}) + "\n")


def keep_result(run_dir: Path, result: Result) -> None:
    """Append a result unless it stands there: a run that was killed passes the same steps again."""
    known = ({k: v for k, v in old.items() if k != "date"} for old in read_results(run_dir))
    if plain(result) not in known:
        append_result(run_dir, result)


def plain(result: Result) -> Result:
    """Return the result with null for NaN, as JSON has it: an error that is unknown."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in result.items()}


def mean_result(metric: str, values: Tensor, about: str) -> Result:
    """Mean of values (n,), one an image, with its standard error: NaN, unknown, of one value."""
    values = values.double()
    n = len(values)
    error = (values.std() / n**0.5).item() if n > 1 else math.nan
    return {"metric": metric, "value": values.mean().item(), "error": error, "n": n, "about": about}


def tensorboard_point(result: Result) -> tuple[str, float]:
    """Return a result's tag and value in TensorBoard, which keeps float32.

    Tags: "fid" for the homework protocol in fp32, else "fid_10k", "fid_bf16" and so on; "kid" for
    the protocol all, which alone has it; "fid_truncation_0.5" for images from a truncated z,
    "fid_z_mixture" for a z drawn from a fitted density.
    """
    usual = "all" if result["metric"] == "kid" else "homework"
    words = (result.get("protocol", usual), result.get("precision", "fp32"), drawing_of(result))
    marks = [word for word in words if word not in (usual, "fp32", "")]
    value = torch.tensor(result["value"], dtype=torch.float32).item()
    return "_".join([result["metric"], *marks]), value


def drawing_of(settings: dict[str, Any]) -> str:
    """Name how z was drawn for a result, or will be by a config's settings; "" is from N(0, I).

    That is also the default for results that do not record it.
    """
    if truncation := settings.get("truncation"):
        return f"truncation_{truncation:g}"
    density = settings.get("latent_density", "prior")
    return "" if density in ("prior", ENCODERS) else f"z_{density}"


def format_drawing(result: Result) -> str:
    """Say which z the generated images come from, unless it is drawn from N(0, I)."""
    if truncation := result.get("truncation"):
        return f" from z truncated at {truncation:g}"
    drawn = drawing_of(result)
    return f" from z of a {drawn.removeprefix('z_')} fitted to the encoder's" if drawn else ""
