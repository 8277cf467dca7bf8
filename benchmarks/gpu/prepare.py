"""Write the rows of a study as tokens, for a machine that has torch and little else.

    python -m benchmarks.gpu.prepare TOKENIZER OUT

Prompts and responses are those of a run with `task.kind: classification`.
"""

from __future__ import annotations

import gzip
import json
import sys

from benchmarks import texts
from semievol.config.prompting import PromptConfig
from semievol.engines.chat_template import ChatTemplate, load_tokenizer
from semievol.method.prompts import Prompts
from semievol.tasks import Row
from semievol.tasks.classification import Classification

WORDINGS = {  # of members; a run takes prompt.styles
    "plain": "",
    "careful": "Weigh every possible answer before you decide, and rule out the wrong ones first.",
    "expert": "You are an expert who has labeled thousands of texts like this one.",
    "brief": "Read the text once and give the answer that fits it best.",
}


def main() -> None:
    template = ChatTemplate(load_tokenizer(sys.argv[1]))
    out = {}
    for name in texts.SETS:
        rows = texts.read(name)
        labels = sorted({label for _, label in rows})
        prompts = Prompts(Classification(labels=labels), PromptConfig(styles=WORDINGS))
        asked = {
            style: template.prompts([prompts.messages(Row(text, [], None, None), style=style) for text, _ in rows])
            for style in WORDINGS
        }
        out[name] = {
            "labels": labels,
            "gold": [labels.index(label) for _, label in rows],
            "prompts": {style: [ids + template.lead for ids in of] for style, of in asked.items()},
            "responses": [template.encode(label) for label in labels],
            "end": template.end,
        }
        print(name, len(rows), labels, out[name]["responses"], max(map(len, out[name]["prompts"]["plain"])))
    with gzip.open(sys.argv[2], "wt") as file:
        json.dump(out, file)


if __name__ == "__main__":
    main()
