"""The picture of house.md: which room of sfmobile imports which, read from the code.

`python docs/house.py` draws docs/house.svg. The list of rooms, lowest first, is the table of docs/house.md and stands
nowhere else; the tests hold the code to it. In the picture a room stands one floor above the highest room that it
imports, and an arrow is left out where a longer way down says it already.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

DOCS = Path(__file__).parent
PAGE = DOCS / "house.md"
PICTURE = DOCS / "house.svg"
PACKAGE = DOCS.parent / "sfmobile"

# Of the picture, in pixels.
BOX_WIDTH, BOX_HEIGHT = 108, 32
GAP, LANE = 26, 20
FLOOR_HEIGHT = 74
MARGIN = 24


def floors(page: Path = PAGE) -> tuple[str, ...]:
    """The rooms as the table of the page lists them: a room may import those before it."""
    return tuple(re.findall(r"^\| `(\w+)` \|", page.read_text(encoding="utf-8"), re.MULTILINE))


def rooms(package: Path = PACKAGE) -> dict[str, bool]:
    """The folders and single files right under the package; whether each is a folder."""
    folders = {path.parent.name: True for path in package.glob("*/__init__.py")}
    return folders | {path.stem: False for path in package.glob("*.py") if path.stem != "__init__"}


def imported(path: Path, everywhere: bool = True) -> set[str]:
    """Modules a file imports: `a` of `import a`, `a` and `a.b` of `from a import b`.

    everywhere: inside functions and for type checkers too, not only when the file itself is imported.
    """
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            assert node.level == 0, f"{path}: a relative import hides which floor it reaches"
            names.update({base} | {f"{base}.{alias.name}" for alias in node.names})
        if not everywhere and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return
        if not everywhere and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return names


def arrows(package: Path = PACKAGE) -> dict[str, frozenset[str]]:
    """Per room the other rooms that its files import."""
    found: dict[str, set[str]] = {room: set() for room in rooms(package)}
    for path in package.rglob("*.py"):
        own = path.relative_to(package).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for name in imported(path):
            top, _, rest = name.partition(".")
            other = rest.split(".")[0]
            if top == package.name and other in found and other != own:
                found[own].add(other)
    return {room: frozenset(others) for room, others in found.items()}


def needed(down: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """The arrows that no longer way says already. Without circles they are one set, whatever the order."""

    @cache
    def below(room: str) -> frozenset[str]:
        return down[room].union(*(below(other) for other in down[room]))

    return {
        room: frozenset(other for other in others if not any(other in below(way) for way in others - {other}))
        for room, others in down.items()
    }


# --- the picture ---


@dataclass
class Node:
    """A room, or the place where an arrow passes a floor. x: its middle."""

    name: str
    floor: int
    is_room: bool
    x: float = 0.0

    @property
    def width(self) -> int:
        """How much of its floor it takes."""
        return BOX_WIDTH + GAP if self.is_room else LANE


def draw(down: Mapping[str, frozenset[str]], folders: Mapping[str, bool]) -> str:
    """The picture as SVG."""
    down = needed(down)
    nodes, links = place(down)
    left = min(node.x - node.width / 2 for node in nodes.values())
    for node in nodes.values():
        node.x = round(node.x - left + MARGIN)
    width = max(round(node.x + node.width / 2) for node in nodes.values()) + MARGIN
    top = max(node.floor for node in nodes.values())
    height = (top + 1) * FLOOR_HEIGHT

    def middle(node: Node) -> int:
        return round((top - node.floor + 0.5) * FLOOR_HEIGHT)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="14" text-anchor="middle">',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#55606e"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for floor in range(0, top + 1, 2):
        y = (top - floor) * FLOOR_HEIGHT
        parts.append(f'<rect y="{y}" width="{width}" height="{FLOOR_HEIGHT}" fill="#f3f5f8"/>')
    for room, other in sorted((room, other) for room, others in down.items() for other in others):
        way = [nodes[name] for name in links[room, other]]
        x, y = way[0].x, middle(way[0]) + BOX_HEIGHT // 2
        path = f"M{x:g} {y}"
        for step in way[1:]:
            # Straight through the floors that an arrow only passes.
            enter, leave = middle(step) - BOX_HEIGHT // 2, middle(step) + BOX_HEIGHT // 2
            bend = (y + enter) // 2
            path += f"C{x:g} {bend} {step.x:g} {bend} {step.x:g} {enter}"
            if not step.is_room:
                path += f"V{leave}"
            x, y = step.x, leave
        parts.append(
            f'<path d="{path}" fill="none" stroke="#55606e" marker-end="url(#head)">'
            f"<title>{room} imports {other}</title></path>"
        )
    for node in sorted((node for node in nodes.values() if node.is_room), key=lambda node: (-node.floor, node.x)):
        x, y = node.x - BOX_WIDTH // 2, middle(node) - BOX_HEIGHT // 2
        look = 'fill="#dbe8f8" stroke="#3f6ea8"' if folders[node.name] else 'fill="#fdf3d8" stroke="#b08a2e"'
        parts.append(f'<rect x="{x:g}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="5" {look}/>')
        parts.append(f'<text x="{node.x:g}" y="{middle(node) + 5}">{node.name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def place(down: Mapping[str, frozenset[str]]) -> tuple[dict[str, Node], dict[tuple[str, str], list[str]]]:
    """Every room on its floor, every arrow's way through the floors between, each floor in an order with few crossings.

    The usual layered drawing (Sugiyama, Tagawa and Toda 1981): neighbours' mean decides, sweeping down and up.
    """

    @cache
    def floor(room: str) -> int:
        return 1 + max((floor(other) for other in down[room]), default=-1)

    nodes = {room: Node(room, floor(room), True) for room in sorted(down)}
    links: dict[tuple[str, str], list[str]] = {}
    for room, other in sorted((room, other) for room, others in down.items() for other in others):
        between = [f"{room}-{other}-{level}" for level in range(floor(room) - 1, floor(other), -1)]
        nodes.update({name: Node(name, int(name.rpartition("-")[2]), False) for name in between})
        links[room, other] = [room, *between, other]
    above: dict[str, list[str]] = {name: [] for name in nodes}
    below: dict[str, list[str]] = {name: [] for name in nodes}
    for way in links.values():
        for upper, lower in pairwise(way):
            below[upper].append(lower)
            above[lower].append(upper)
    levels = [[node for node in nodes.values() if node.floor == level] for level in range(1 + max(map(floor, down)))]
    for level in levels:
        _spread(level, [0.0] * len(level))
    for sweep in range(40):
        neighbours, order = (above, reversed(levels)) if sweep % 2 == 0 else (below, iter(levels))
        for level in order:
            wanted = {node.name: _mean((nodes[name].x for name in neighbours[node.name]), node.x) for node in level}
            level.sort(key=lambda node: (wanted[node.name], node.name))
            _spread(level, [wanted[node.name] for node in level])
    return nodes, links


def _mean(values: Iterable[float], otherwise: float) -> float:
    found = list(values)
    return sum(found) / len(found) if found else otherwise


def _spread(level: list[Node], wanted: list[float]) -> None:
    """Place the nodes of a floor in their order, as near to where they are wanted as their widths allow."""
    # Groups that touch move as one: each as (nodes, sum of (wanted - offset), width).
    groups: list[tuple[list[Node], float, float]] = []
    for node, x in zip(level, wanted, strict=True):
        group = ([node], x - node.width / 2, float(node.width))
        while groups and _start(groups[-1]) + groups[-1][2] > _start(group):
            before = groups.pop()
            shift = len(group[0]) * before[2]
            group = (before[0] + group[0], before[1] + group[1] - shift, before[2] + group[2])
        groups.append(group)
    for group in groups:
        x = _start(group)
        for node in group[0]:
            node.x = x + node.width / 2
            x += node.width


def _start(group: tuple[list[Node], float, float]) -> float:
    return group[1] / len(group[0])


def main() -> None:
    """Draw the picture, or exit with 1 if the code doesn't keep to the table."""
    listed, found = floors(), rooms()
    if set(listed) != set(found):
        sys.exit(f"{PAGE.name} and {PACKAGE.name}/ differ in {', '.join(sorted(set(listed) ^ set(found)))}")
    PICTURE.write_text(draw(arrows(), found), encoding="utf-8")
    print(PICTURE)


if __name__ == "__main__":
    main()
