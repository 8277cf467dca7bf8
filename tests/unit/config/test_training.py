"""Settings of the two trainings that older configs do not have."""

import pytest

from semievol import config
from semievol.config.section import FINGERPRINT
from semievol.errors import UserError

MINIMAL = "{name: x, model: {base: m}, data: {labeled: l, unlabeled: u, test: t}}"
CLOSED = "task.kind=classification"


def test_keys_that_came_later_are_in_fingerprints_only_where_they_are_set() -> None:
    """So the fingerprints of older runs stay what they are; config.yaml has every key."""
    plain = config.loads(MINIMAL, [], "c.yaml")
    finetune, warmup = (getattr(plain, name).model_dump(context=FINGERPRINT) for name in ("finetune", "warmup"))
    assert "targets" not in finetune and "layers" not in finetune["lora"] and "layers" not in warmup["lora"]
    assert "targets" in plain.finetune.model_dump()
    assert plain.trainer.output_settings == {"kind": "deepspeed", "extra": {}}
    given = ["finetune.targets=soft", "warmup.lora.layers=12", "trainer.dtype=float32", "warmup.epochs=auto", CLOSED]
    changed = config.loads(MINIMAL, given, "c.yaml")
    finetune, warmup = (getattr(changed, name).model_dump(context=FINGERPRINT) for name in ("finetune", "warmup"))
    assert (finetune["targets"], warmup["lora"]["layers"]) == ("soft", 12)
    assert changed.trainer.output_settings["dtype"] == "float32" and changed.warmup.epochs == "auto"
    assert config.loads(config.to_yaml(changed), [], "again.yaml") == changed


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("warmup.epochs=0", r"warmup\.epochs: must be auto or a number of passes above 0, is 0"),
        ("warmup.epochs=long", r"warmup\.epochs: must be auto or a number of passes above 0, is long"),
        ("warmup.epochs=true", r"warmup\.epochs: must be auto or a number of passes above 0, is True"),
        ("finetune.targets=soft", r"finetune\.targets: soft needs answers from a closed set, .* numeric does not"),
        ("warmup.lora.layers=0", r"warmup\.lora\.layers: must be greater than 0, is 0"),
        ("trainer.dtype=float16", r"trainer\.dtype: must be .*, is 'float16'"),
    ],
)
def test_what_cannot_be_is_refused(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        config.loads(MINIMAL, ["task.kind=numeric", override], "c.yaml")


def test_an_endpoint_takes_whole_passes_and_auto_and_no_soft_targets() -> None:
    api = ["engine.kind=openai", "trainer.kind=openai", CLOSED]
    assert config.loads(MINIMAL, [*api, "warmup.epochs=auto"], "c.yaml").warmup.epochs == "auto"
    with pytest.raises(UserError, match=r"finetune\.targets: trainer\.kind: openai does not read it"):
        config.loads(MINIMAL, [*api, "finetune.targets=soft"], "c.yaml")
