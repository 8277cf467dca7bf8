"""Imports point down only: entry points -> cli -> pipeline -> stages -> adapters -> pure. And nothing heavy at the top."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "semievol"
LAYERS = {
    "pure": {"errors", "config", "schema", "tasks", "prompts", "confidence", "selection", "statistics", "network"},
    "adapters": {
        *("storage", "readers", "embedding", "index", "engines", "training", "cluster", "progress", "runfolder"),
        *("paths", "lease", "submission", "endpoint", "finetuning_api", "chat"),
    },
    "stages": {"stages"},
    "driver": {
        *("pipeline", "rounds", "runner", "fingerprints", "report", "demo", "promotion", "serving"),
        *("study", "study_report", "study_plots", "verify"),
    },
    "cli": {"cli", "cli_jobs", "console", "__main__"},
}
RANK = {module: rank for rank, modules in enumerate(LAYERS.values()) for module in modules}
HEAVY = {
    "ray",
    "torch",
    "vllm",
    "deepspeed",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "faiss",
    "sentence_transformers",
    "matplotlib",
    "bm25s",
    "openai",
}
PURE_MAY = {"numpy", "pyarrow", "omegaconf", "yaml", "rouge_score", "semievol"} | set(sys.stdlib_module_names)

# Subclasses of ray.serve.llm's server, imported by the process that deploys it and by its replicas only, and of vLLM's logits
# processor, imported by engines only.
IMPORTED_WHERE_IT_RUNS = {"model_server.py", "sampling.py"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path, *, top_only: bool) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part(path: Path) -> str:
    """The top-level part of the package that a file belongs to."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    here = part(path)
    if here == "__init__":
        return
    assert here in RANK, f"{here} belongs to no layer: add it to LAYERS"
    for name in imports(path, top_only=False):
        if name.startswith("semievol."):
            target = name.split(".")[1]
            if target in RANK:
                assert RANK[target] <= RANK[here], f"{here} imports {name}, which lies above it"
        elif here in LAYERS["pure"]:
            assert name.split(".")[0] in PURE_MAY, f"{here} is pure and imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_heavy_is_imported_at_the_top_of_a_module(path: Path) -> None:
    if path.name in IMPORTED_WHERE_IT_RUNS:
        return
    heavy = {name for name in imports(path, top_only=True) if name.split(".")[0] in HEAVY}
    assert not heavy, f"{path.name} imports {heavy} at the top; import inside the function or actor that needs it"


def test_pipeline_knows_no_engine() -> None:
    for name in imports(PACKAGE / "pipeline.py", top_only=False):
        assert name.split(".")[0] not in HEAVY
