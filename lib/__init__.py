"""Plumbing: settings, files, processes, logs. Skip it at a first reading.

Imported before torch, it sees to it that Ctrl-C and a missing optional package end any command by
one sentence from its first second on.
"""

import sys
from typing import Any

OPTIONAL = {"matplotlib": "matplotlib", "lpips": "lpips", "sklearn": "scikit-learn"}


def explain(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print what ended the program, also while it was being imported."""
    module = (error.name or "").partition(".")[0] if kind is ModuleNotFoundError else ""
    if name := OPTIONAL.get(module):
        advice = f"pip install {name}, or all optional ones: pip install -r requirements-extra.txt"
        wanted = f"this command needs the package {name}, which is not installed"
        print(f"error: {wanted}: {advice}", file=sys.stderr)
    elif kind is KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.excepthook is sys.__excepthook__:  # leave a program's own
    sys.excepthook = explain
