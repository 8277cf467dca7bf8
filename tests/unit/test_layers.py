"""Imports go one way: from a room to rooms above it in docs/architecture.md, and inside a room without circles."""

import ast
import graphlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "semievol"
PURE = {"errors", "tasks", "config", "method"}
PURE_MAY = {
    "numpy",
    "pyarrow",
    "omegaconf",
    "yaml",
    "pydantic",
    "scipy",
    "sklearn",
    "rouge_score",
    "jinja2",
    "semievol",
} | set(sys.stdlib_module_names)
HEAVY = {
    *("ray", "torch", "vllm", "deepspeed", "transformers", "trl", "peft", "datasets", "faiss", "sentence_transformers"),
    *("matplotlib", "bm25s", "openai", "scipy", "sklearn"),
}
# Subclasses of ray.serve.llm's server, imported by the process that deploys it and by its replicas only, and of vLLM's logits
# processor, imported by engines only.
IMPORTED_WHERE_IT_RUNS = {"model_server.py", "vllm_sampling.py"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def rooms() -> list[str]:
    """The rooms of docs/architecture.md, the one that all others may use first."""
    block = re.search(r"```rooms\n(.*?)```", (ROOT / "docs" / "architecture.md").read_text(), re.DOTALL)
    assert block
    return [line.split()[0] for line in block[1].splitlines() if not line.startswith(" ")]


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, top_only: bool = False) -> set[str]:
    """The names that a file imports, those inside functions too."""
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def problems(sources: dict[str, set[str]], order: list[str]) -> list[str]:
    """What is wrong with imports.

    Args:
        sources: for each module the names that it imports.
        order: the rooms.
    """
    found = []
    graph: dict[str, set[str]] = {}
    for module, names in sources.items():
        room = module.split(".")[1] if "." in module else ""
        if room not in order:
            found += [f"{module} is in no room of docs/architecture.md"] if room not in ("", "__main__") else []
            continue
        for name in names:
            target = next((m for m in (name, name.rpartition(".")[0]) if m in sources), None)
            if target is None or target in (module, "semievol"):
                continue
            graph.setdefault(module, set()).add(target)
            if order.index(target.split(".")[1]) > order.index(room):
                found.append(f"{module} imports {target}, of a room below it")
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found.append(f"a circle of imports: {' > '.join(error.args[1])}")
    return found


def test_imports_go_one_way() -> None:
    assert problems({module_name(path): imports(path) for path in MODULES}, rooms()) == []


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"semievol.a.x": {"semievol.b.y"}, "semievol.b.y": set()}, "a.x imports semievol.b.y, of a room below it"),
        ({"semievol.b.x": {"semievol.b.y.name"}, "semievol.b.y": {"semievol.b.x"}}, "a circle of imports"),
        ({"semievol.c.x": set()}, "semievol.c.x is in no room"),
    ],
)
def test_what_goes_the_wrong_way_is_found(sources: dict[str, set[str]], message: str) -> None:
    assert message in " ".join(problems(sources, ["a", "b"]))


def test_every_room_is_there() -> None:
    there = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES} - {"__init__", "__main__"}
    assert there == set(rooms())


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_heavy_is_imported_at_the_top_of_a_module(path: Path) -> None:
    if path.name in IMPORTED_WHERE_IT_RUNS:
        return
    heavy = {name for name in imports(path, top_only=True) if name.split(".")[0] in HEAVY}
    assert not heavy, f"{path.name} imports {heavy} at the top; import inside the function or actor that needs it"


@pytest.mark.parametrize("room", sorted(PURE))
def test_pure_rooms_need_neither_ray_nor_torch(room: str) -> None:
    files = [PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").exists() else (PACKAGE / room).rglob("*.py")
    for path in files:
        strange = {name for name in imports(path) if name.split(".")[0] not in PURE_MAY}
        assert not strange, f"{room} is pure, and {path.name} imports {strange}"


def test_tests_share_through_support_and_benchmarks_import_no_tests() -> None:
    for path in sorted([*(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]):
        may = "tests.support" if path.is_relative_to(ROOT / "tests") else "nothing of them"
        strange = {name for name in imports(path) if name.split(".")[0] == "tests" and not name.startswith(may)}
        assert not strange, f"{path.relative_to(ROOT)} imports {strange}; of tests it may import {may}"
