#!/usr/bin/env python3
"""Makes a picture of a terminal's screen: `tmux capture-pane -e -p | docs/pictures/screen.py > docs/pictures/NAME.svg`.

Knows the escape sequences that `forkgate ctl top` leaves on a screen. Bars and rules are drawn, so that no font tears them."""

import re
import sys
from xml.sax.saxutils import escape

CELL, LINE, BASE, MARGIN = 8.4, 18, 13.5, 12
PAPER, INK, FAINT = "#16181d", "#d8dbe2", "#878d9a"
COLOURS = {"1": "#ff6b68", "2": "#8bd06a", "3": "#f0c35c", "4": "#6ea8fe", "5": "#d490e8", "6": "#56c2cf", "7": INK}
BARS = " ▁▂▃▄▅▆▇█"


def style_after(style, codes):
    style, codes = dict(style), codes.split(";") if codes else ["0"]
    while codes:
        code = codes.pop(0)
        if code in ("", "0"):
            style = {}
        elif code == "38" and codes[:1] == ["5"]:
            style["ink"] = COLOURS.get(str(int(codes[1]) % 8), INK)
            codes = codes[2:]
        elif code == "39":
            style.pop("ink", None)
        elif code == "22":
            style.pop("bold", None), style.pop("faint", None)
        elif code == "27":
            style.pop("reversed", None)
        elif code in ("1", "2", "7"):
            style[{"1": "bold", "2": "faint", "7": "reversed"}[code]] = True
        elif len(code) == 2 and code[0] in "39" and code[1] in COLOURS:
            style["ink"] = COLOURS[code[1]]
    return style


def runs(line, style):
    """Pieces of a line that look the same: (column, text, style); the style goes on in the next line."""
    found, column = [], 0
    for piece in re.split(r"(\x1b\[[0-9;]*m)", line):
        if piece.startswith("\x1b["):
            style = style_after(style, piece[2:-1])
        elif piece:
            found.append((column, piece, style))
            column += len(piece)
    return found, style


def rect(column, top, width, height, colour):
    x, width = MARGIN + column * CELL, width * CELL
    return f'<rect x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'


def drawn(row, column, text, style):
    ink = style.get("ink", FAINT if style.get("faint") else INK)
    paper, top = PAPER, MARGIN + row * LINE
    if style.get("reversed"):
        ink, paper = PAPER, ink
        yield rect(column, top, len(text), LINE, paper)
    for match in re.finditer(r"[▁-█]|─+|[^▁-█─\s]+", text):
        part, at = match.group(), column + match.start()
        if part[0] == "─":
            yield rect(at, top + LINE / 2, len(part), 1, ink)
        elif part in BARS:
            height = LINE * BARS.index(part) / 8
            yield rect(at, top + LINE - height, 0.9, height, ink)
        else:
            weight = ' font-weight="bold"' if style.get("bold") else ""
            yield (
                f'<text x="{MARGIN + at * CELL:.1f}" y="{top + BASE:.1f}" textLength="{len(part) * CELL:.1f}"'
                f' fill="{ink}"{weight}>{escape(part)}</text>'
            )


def main():
    lines = sys.stdin.read().rstrip("\n").split("\n")
    body, columns, style = [], 0, {}
    for row, line in enumerate(lines):
        found, style = runs(line, style)
        for column, text, look in found:
            columns = max(columns, column + len(text))
            body.extend(drawn(row, column, text, look))
    width, height = columns * CELL + 2 * MARGIN, len(lines) * LINE + 2 * MARGIN
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}">')
    print(f'<rect width="100%" height="100%" rx="6" fill="{PAPER}"/>')
    print('<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="14">')
    print("\n".join(body))
    print("</g></svg>")


main()
