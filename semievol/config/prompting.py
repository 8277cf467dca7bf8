"""Define the `prompt` section: what a model reads before and around a row."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import field_validator, model_validator

from semievol.config.section import Section

# What a template may name besides columns of the file.
NAMES = frozenset({"question", "context", "options", "labels", "answer", "instruction", "row"})


class PromptConfig(Section):
    """What a model reads around a row. Warm-up, labeling, evaluation, fine-tuning and the endpoint use the same.

    A template is a Jinja2 template in a sandbox. It may name `question`, `context`, `options`, `labels`, `instruction` and
    every column of your files: `{{ subject }}`, or `{{ row["Review title"] }}` where the name has a blank.
    """

    system: str | None = None
    """The text that opens the system message."""
    instruction: str | None = None
    """The last paragraph of the user message, which says how to answer. Default: that of the kind of task. The labels that
    classification lists (`task.show`) follow in either case."""
    template: str | None = None
    """The user message. Default: context, question and options, and then the instruction."""
    example_template: str | None = None
    """A solved example, which may name `answer` too. Default: the template without the instruction, then the answer."""
    styles: dict[str, str] = {
        "plain": "",
        "careful": "Weigh every possible answer before you decide, and rule out the wrong ones first.",
        "precise": "You are an expert. Read every word, and give exactly the answer that fits best.",
        "intuitive": "Answer at once, with the first answer that feels right.",
        "contextual": "Think of who wrote this and why, and answer what they would call right.",
    }
    """Instructions for the system message, by the names that collaborators give as `prompt`, and `warmup.styles` lists."""

    @field_validator("template", "example_template")
    @classmethod
    def _compiles(cls, text: str | None) -> str | None:
        if text is not None and not (set().union(*_names(text)) - {"instruction", "labels", "answer"}):
            raise ValueError("shows nothing of a row; name {{ question }} or a column of your files in it")
        return text

    @model_validator(mode="after")
    def _check(self) -> PromptConfig:
        if self.template is not None and "answer" in frozenset.union(*_names(self.template)):
            raise ValueError("template: must not show the answer; only example_template may")
        if self.styles.get("plain") != "":
            raise ValueError("styles: must keep plain, with an empty text")
        return self

    @property
    def columns(self) -> list[str]:
        """Return the further columns of the input files that the templates name."""
        texts = filter(None, (self.template, self.example_template))
        return list(dict.fromkeys(name for text in texts for name in columns_of(text)))

    def output_settings(self, *, examples: bool) -> dict[str, Any]:
        """Return what a prompt without styles depends on, with or without solved examples in it."""
        return self.model_dump(
            include={"system", "instruction", "template", *(["example_template"] if examples else [])}
        )


def columns_of(template: str) -> list[str]:
    """Return the columns of the input files that a template names. A ValueError says what is wrong with the template."""
    plain, subscripts = _names(template)
    return [*sorted(plain - NAMES), *sorted(subscripts - NAMES)]


@cache
def _names(template: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the variables of a template, and the names in `row["name"]` and `row.name`."""
    from jinja2 import TemplateSyntaxError, meta, nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        tree = ImmutableSandboxedEnvironment().parse(template)
    except TemplateSyntaxError as error:
        raise ValueError(f"is not a Jinja2 template: line {error.lineno}: {error.message}") from None
    of_row: set[Any] = set()
    for node in tree.find_all(nodes.Getitem):
        if node.node == nodes.Name("row", "load"):
            of_row.add(getattr(node.arg, "value", None))
    for attribute in tree.find_all(nodes.Getattr):
        if attribute.node == nodes.Name("row", "load"):
            of_row.add(attribute.attr)
    return frozenset(meta.find_undeclared_variables(tree)), frozenset(filter(None, of_row))
