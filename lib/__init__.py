"""Plumbing: settings, files, processes, logs. Skip it at a first reading."""

import sys
from typing import Any

OPTIONAL = {"matplotlib": "matplotlib", "lpips": "lpips", "sklearn": "scikit-learn"}


def explain(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print what ended a program, also while torch is imported: this module comes before it."""
    module = (error.name or "").partition(".")[0] if kind is ModuleNotFoundError else ""
    if name := OPTIONAL.get(module):
        need = f"{name}, which is not installed: pip install {name}, or -r requirements-extra.txt"
        print(f"error: this command needs the package {need}", file=sys.stderr)
    elif kind is KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.excepthook is sys.__excepthook__:  # leave a program's own
    sys.excepthook = explain
