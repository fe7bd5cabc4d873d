"""A page as a list of blocks, and the two forms it takes: one HTML file, and Markdown with PNGs.

Both show every text letter by letter: what a foreign run is called never becomes markup.
"""

import base64
import html
import re
from itertools import zip_longest
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

PAGE = Path(__file__).parent / "page.html"
NOTES = (Path(__file__).parent / "notes.md").read_text(encoding="utf-8").split("\n## ")
SENTENCES = {name: " ".join(words.split()) for name, _, words in (n.partition("\n") for n in NOTES)}


def say(name: str, **values: Any) -> str:
    """Return a sentence of notes.md with its braces filled."""
    return SENTENCES[name].format(**values)


class Picture(NamedTuple):
    name: str  # of its file
    alt: str  # what it shows, in words
    png: bytes


class Heading(NamedTuple):
    text: str
    id: str = ""  # of a section that the contents list


class Text(NamedTuple):
    text: str
    note: bool = False  # set smaller


class Items(NamedTuple):
    items: list[str]
    style: str = ""  # "box" and "box bad" frame them


class Table(NamedTuple):
    head: list[str]
    rows: list[list[str]]
    words: tuple[int, ...] = (0,)  # columns that hold words, not numbers
    bold: int = -1  # a column in bold


class Pictures(NamedTuple):
    pictures: list[Picture]
    captions: tuple[str, ...] = ()
    style: str = ""  # "curves", "strip", "samples"; "" for the full width
    aside: bool = False  # Markdown only links to them


class Fold(NamedTuple):
    title: str
    texts: list[Text]  # shown by a click


Block = Heading | Text | Items | Table | Pictures | Fold


def to_html(title: str, blocks: list[Block]) -> str:
    """One page without outside links; the contents stand before the first section."""
    sections = [block for block in blocks if isinstance(block, Heading) and block.id]
    links = "".join(f'<li><a href="#{s.id}">{html.escape(s.text)}</a></li>\n' for s in sections)
    contents = f'<nav aria-label="Contents"><ul>\n{links}</ul></nav>\n'
    parts = [contents * (block in sections[:1]) + block_to_html(block) for block in blocks]
    page = Template(PAGE.read_text(encoding="utf-8"))
    return page.substitute(title=html.escape(title), body="\n".join(parts))


def block_to_html(block: Block) -> str:
    match block:
        case Heading(text, id):
            return f'<h2 id="{id}">{html.escape(text)}</h2>' if id else tag("h3", text)
        case Text(text, note):
            return tag("p", text, "note" * note)
        case Items(items, style):
            return f'<ul class="{style}">\n' + "\n".join(tag("li", i) for i in items) + "\n</ul>"
        case Table(head, rows):
            lines = [row_to_html("th", head, block), *(row_to_html("td", r, block) for r in rows)]
            return '<div class="wide"><table>\n' + "\n".join(lines) + "\n</table></div>"
        case Pictures(pictures, captions, style):
            pairs = zip_longest(pictures, captions, fillvalue="")
            figures = "\n".join(figure(picture, caption, style) for picture, caption in pairs)
            return f'<div class="{style}">\n{figures}\n</div>'
        case Fold(title, texts):
            folded = "\n".join([tag("summary", title), *map(block_to_html, texts)])
            return f"<details>\n{folded}\n</details>"


def tag(name: str, text: str, style: str = "") -> str:
    style = f' class="{style}"' if style else ""
    return f"<{name}{style}>{html.escape(text)}</{name}>"


def row_to_html(name: str, cells: list[str], table: Table) -> str:
    """One row; a narrow column breaks behind an underscore."""
    styles = ["" if i in table.words else "n" for i in range(len(cells))]
    tags = [tag(name, cell, style) for cell, style in zip(cells, styles, strict=True)]
    if name == "td" and table.bold >= 0:
        tags[table.bold] = re.sub("<(.*?)>(.*)</", r"<\1><strong>\2</strong></", tags[table.bold])
    return f"<tr>{''.join(tags)}</tr>".replace("_", "_<wbr>")


def figure(picture: Picture, caption: str, style: str) -> str:
    source = "data:image/png;base64," + base64.b64encode(picture.png).decode()
    image = f'<img class="{style}" src="{source}" alt="{html.escape(picture.alt)}">'
    return f"<figure>{image}{tag('figcaption', caption) if caption else ''}</figure>"


def to_markdown(title: str, blocks: list[Block]) -> str:
    return "\n\n".join([f"# {literal(title)}", *map(block_to_markdown, blocks)]) + "\n"


def block_to_markdown(block: Block) -> str:
    match block:
        case Heading(text, id):
            return f"{'##' if id else '###'} {literal(text)}"
        case Text(text):
            return literal(text)
        case Items(items):
            return "\n".join(f"- {literal(item)}" for item in items)
        case Table(head, rows, words, bold):
            marks = ["---" if i in words else "---:" for i in range(len(head))]
            cells = [list(map(literal, row)) for row in rows]
            for row in cells if bold >= 0 else []:
                row[bold] = f"**{row[bold]}**"
            lines = [list(map(literal, head)), marks, *cells]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)
        case Pictures(pictures, captions):
            pairs = list(zip_longest(pictures, captions, fillvalue=""))
            if block.aside:
                return ", ".join(f"[{literal(c)}]({p.name})" for p, c in pairs)
            shown = [f"![{literal(p.alt)}]({p.name})\n\n{literal(c)}".strip() for p, c in pairs]
            return ("\n\n" if captions else "\n").join(shown)
        case Fold(title, texts):
            folded = [tag("summary", title), *map(block_to_markdown, texts)]
            return "\n\n".join(["<details>", *folded, "</details>"])


def literal(text: str) -> str:
    """The text as Markdown that shows it letter by letter; an _ within a word is safe."""
    text = " ".join(text.split())
    return re.sub(r"([\\`*\[\]<>|~]|&(?=#?\w+;)|(?<!\w)_|_(?!\w))", r"\\\1", text)
