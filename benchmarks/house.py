"""The code's shape: lines, long functions, wide parameter lists, vocabulary, files entered on three paths.

The figures of any checkout can be printed, so that two commits are compared by one ruler:

    python -m benchmarks.house --root PATH_OF_A_CHECKOUT
"""

import ast
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.harness import Bar, arguments, finish, table

_ROOT: Final = Path(__file__).resolve().parents[1]
_PRODUCT: Final = ("qanchor", "consumers", "cli")
_LEFT_OUT: Final = "consumers/embedded_broker/"
_HOUSE_WORDS: Final = ("found", "place", "places", "surroundings", "asked", "told", "around", "wanted", "own")
_NAMES_AT_ZERO: Final = ("Surroundings", "asked", "told", "around")
_PATHS: Final = {
    "Kafka to activity": ("consume",),
    "Kafka to score": ("consume", "backfill", "score"),
    "query to FAISS": ("lookalike",),
}
_CROSS_CUTTING: Final = (
    "cli/",
    _LEFT_OUT,
    "qanchor/registry/",
    *("consumers/health.py", "consumers/kafka_client.py", "consumers/metrics.py", "consumers/stopping.py"),
)
# Files that 0.1.0 entered on each path, by this ruler (commit d64b087), and the share that is to be left.
_BEFORE: Final = {"Kafka to activity": 25, "Kafka to score": 78, "query to FAISS": 17}
_SHARE: Final = {"Kafka to activity": 14 / 19, "Kafka to score": 40 / 57, "query to FAISS": 20 / 28}
# Notes every function that runs, and no module that is merely imported.
_TRACER: Final = """
import json, sys, threading
from pathlib import Path
root, out, *command = sys.argv[1:]
sys.path.insert(0, root)
entered = set()
def note(frame, event, _):
    code = frame.f_code
    if event == "call" and code.co_flags & 1 and code.co_filename.startswith(root):
        entered.add(code.co_filename)
import cli.app
threading.setprofile(note)
sys.setprofile(note)
try:
    status = cli.app.run_command(command)
except SystemExit as ended:
    status = ended.code
finally:
    sys.setprofile(None)
    Path(out).write_text(json.dumps(sorted(str(Path(f).relative_to(root)) for f in entered)))
sys.exit(status)
"""


@dataclass
class Shape:
    """What the syntax trees of a checkout's product code hold."""

    lines: int = 0
    files_over_400: list[str] = field(default_factory=list)
    functions_over_60: list[str] = field(default_factory=list)
    wide: list[str] = field(default_factory=list)
    mixed_tuples: list[str] = field(default_factory=list)
    any_parameters: list[str] = field(default_factory=list)
    parameters: int = 0
    words: Counter[str] = field(default_factory=Counter)
    names: Counter[str] = field(default_factory=Counter)


def product_files(root: Path) -> list[Path]:
    """Python files of the product, the embedded broker left out, sorted."""
    paths = (path for folder in _PRODUCT for path in (root / folder).rglob("*.py"))
    return sorted(path for path in paths if _LEFT_OUT not in path.relative_to(root).as_posix())


def measure(root: Path) -> Shape:
    """The shape of one checkout."""
    shape = Shape()
    for path in product_files(root):
        source, name = path.read_text(encoding="utf-8"), path.relative_to(root).as_posix()
        count = source.count("\n")
        shape.lines += count
        if count > 400:
            shape.files_over_400.append(f"{name}: {count}")
        shape.words.update(word.lower() for word in re.findall(r"[A-Za-z]+", source))
        tree = ast.parse(source)
        shape.names.update(_identifiers(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                _measure_function(node, name, shape)
    return shape


def _measure_function(node: ast.FunctionDef | ast.AsyncFunctionDef, file: str, shape: Shape) -> None:
    where = f"{file}:{node.lineno} {node.name}"
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    if length > 60:
        shape.functions_over_60.append(f"{where}: {length}")
    parameters = [p for p in _parameters(node) if p.arg not in ("self", "cls")]
    shape.parameters += len(parameters)
    if len(parameters) > 7:
        shape.wide.append(f"{where}: {len(parameters)}")
    for parameter in parameters:
        annotation = _annotation(parameter)
        if annotation is None:
            continue
        if isinstance(annotation, ast.Name) and annotation.id == "Any":
            shape.any_parameters.append(f"{where}({parameter.arg})")
        if is_mixed_tuple(annotation):
            shape.mixed_tuples.append(f"{where}({parameter.arg})")


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.arg]:
    a = node.args
    yield from (*a.posonlyargs, *a.args, *a.kwonlyargs, *(x for x in (a.vararg, a.kwarg) if x))


def _annotation(parameter: ast.arg) -> ast.expr | None:
    annotation = parameter.annotation
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return ast.parse(annotation.value, mode="eval").body
    return annotation


def is_mixed_tuple(annotation: ast.expr) -> bool:
    """Whether a parameter is itself a tuple of different types, or such a tuple or None."""
    if isinstance(annotation, ast.BinOp):
        return is_mixed_tuple(annotation.left) or is_mixed_tuple(annotation.right)
    if not isinstance(annotation, ast.Subscript) or ast.unparse(annotation.value) != "tuple":
        return False
    if not isinstance(annotation.slice, ast.Tuple):
        return False
    kinds = {ast.unparse(element) for element in annotation.slice.elts}
    return len(kinds - {"..."}) > 1


def _identifiers(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name


def entered_files(root: Path) -> dict[str, list[str]]:
    """Product files in which a function ran, by path; the command line's own files are left out.

    Each command runs in a copy of a small home that 0.1.0 wrote: the same steps in any checkout. What every
    command passes through (settings, names, registry, metrics) is no part of a path and not counted.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with tarfile.open(_ROOT / "tests" / "fixtures" / "home_0_1_0.tar.xz") as packed:
            packed.extractall(folder, filter="data")
        repo = folder / "feature_repo"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("QANCHOR_")}
        env = {**clean, "PYTHONPATH": str(root), "QANCHOR_COMPUTE__THREADS": "1", "QANCHOR_REPO": str(repo)}
        coffee = ["--scenario", "coffee"]
        steps = {
            "consume": _traced_consume(root, folder, env),
            "backfill": _traced(root, folder, ["backfill", *coffee], env),
            "index": _traced(root, folder, ["index", "build", *coffee], env),
            "lookalike": _traced(
                root, folder, ["lookalike", *coffee, "--seeds", str(folder / "seeds.txt"), "-k", "5"], env
            ),
            "score": _traced(root, folder, ["head", "score", *coffee, "--as-of", "2026-04-06"], env),
        }
        return {path: sorted({f for step in names for f in steps[step]}) for path, names in _PATHS.items()}


def _traced(root: Path, folder: Path, command: list[str], env: dict[str, str]) -> list[str]:
    out = folder / "entered.json"
    run = [sys.executable, "-c", _TRACER, str(root), str(out), *command]
    subprocess.run(run, check=True, env=env, cwd=folder, stdout=subprocess.DEVNULL)
    entered: list[str] = json.loads(out.read_text())
    # A module of the library's root (settings, names, times, ...) is passed by every command.
    entered = [f for f in entered if f.split("/")[0] in _PRODUCT and not re.fullmatch(r"qanchor/\w+\.py", f)]
    return [f for f in entered if not f.startswith(_CROSS_CUTTING)]


def _traced_consume(root: Path, folder: Path, env: dict[str, str]) -> list[str]:
    """Files between Kafka's bytes and the online activity features, on the embedded broker."""
    ready = folder / "broker.ready"
    broker = [sys.executable, "-m", "cli", "broker", "--port", "0", "--ready-file", str(ready)]
    server = subprocess.Popen(broker, env=env, cwd=root, stdout=subprocess.DEVNULL)
    try:
        while not ready.exists():
            if server.poll() is not None:
                raise RuntimeError("the embedded broker ended before it was ready")
        env = {**env, "QANCHOR_KAFKA__BROKERS": ready.read_text().strip()}
        events = next((folder / ".qanchor" / "events").glob("event_date=2026-03-2*/*.parquet"))
        produce = [sys.executable, "-m", "cli", "produce", str(events)]
        subprocess.run(produce, check=True, env=env, cwd=root, stdout=subprocess.DEVNULL)
        return _traced(root, folder, ["consume", "--stop-at-end", "--online"], env)
    finally:
        server.terminate()
        server.wait(20)


def main() -> None:
    """Print the figures of a checkout, and hold them to the bars."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--root", type=Path, default=_ROOT, help="the checkout to measure; default: this one")
    parser.add_argument("--list", action="store_true", help="name every function, file and parameter counted")
    options = parser.parse_args()
    root = options.root.resolve()
    shape, entered = measure(root), entered_files(root)
    counted: dict[str, list[str]] = {
        "files > 400 lines": shape.files_over_400,
        "functions > 60 lines": shape.functions_over_60,
        "functions with > 7 parameters": shape.wide,
        "mixed tuples as parameters": shape.mixed_tuples,
        "Any parameters": shape.any_parameters,
        **{f"files entered: {name}": files for name, files in entered.items()},
    }
    figures = {
        "product lines": shape.lines,
        "parameters": shape.parameters,
        **{name: len(rows) for name, rows in counted.items()},
        **{f"word {word!r}": shape.words[word] for word in _HOUSE_WORDS},
        **{f"name {name!r}": shape.names[name] for name in _NAMES_AT_ZERO},
    }
    print(table([{"figure": name, "value": value} for name, value in figures.items()]))
    if options.list:
        for name, rows in counted.items():
            print(f"\n{name}", *rows, sep="\n  ")
    finish(figures, _bars(figures), options.json)


def _bars(figures: dict[str, int]) -> list[Bar]:
    limits = {
        "product lines": 47_050,
        "files > 400 lines": 0,
        "functions > 60 lines": 0,
        "mixed tuples as parameters": 0,
        "Any parameters": 59,
        "word 'found'": 79,
        **{f"name {name!r}": 0 for name in _NAMES_AT_ZERO},
    }
    for path, before in _BEFORE.items():
        limits[f"files entered: {path}"] = int(before * _SHARE[path])
    bars = [Bar(name, figures[name], limit, "lower") for name, limit in limits.items()]
    places = figures["word 'place'"] + figures["word 'places'"]
    return [*bars, Bar("word 'place(s)'", places, 59, "lower")]


if __name__ == "__main__":
    main()
