"""Figures without pyplot, so that nothing stays open; matplotlib is imported when one is drawn."""

import hashlib
import io
import re
from pathlib import Path
from typing import Any

from lib.errors import need
from lib.files import write_beside_and_rename


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """A figure of that many inches, and its axes (rows, columns)."""
    need("matplotlib", "a picture of curves")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, squeeze=False)


def write_figure(figure: Any, path: Path, *, dpi: float = 160) -> str:
    """Write a PNG, whole or not at all; its path."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    write_beside_and_rename(path, drawn.getvalue())
    return str(path)


def file_name(*words: str) -> str:
    """A PNG's name, safe in a folder and in a link; a long one ends in a digest."""
    name = re.sub(r"[^\w.=+-]", "", "-".join(words), flags=re.ASCII)
    if name != "-".join(words).translate(str.maketrans("", "", "()")) or len(name) > 200:
        digest = hashlib.blake2b("-".join(words).encode(errors="replace"), digest_size=4)
        name = f"{name[:190]}-{digest.hexdigest()}"
    return f"{name}.png"
