from semievol.stages import evaluate, retrieve
from semievol.stages.base import Place
from tests.support.configs import run_config


def test_with_examples_all_models_read_the_test_rows_that_were_retrieved_once() -> None:
    config = run_config()
    stages = (evaluate.BASE, evaluate.WARM, evaluate.EVOLVED)
    for k in (0, 2):
        config.evaluate.k = k
        assert retrieve.TEST.wanted(config) == bool(k)
        read = [stage.inputs(Place(config, 3, (0, 2))) for stage in stages]
        assert [inputs.get("evaluate/retrieve") for inputs in read] == 3 * [("evaluate/retrieve", 0) if k else None]
        assert [inputs["ingest"] for inputs in read] == 3 * [("ingest", 0)]
        assert (read[1]["warmup"], read[2]["finetune"]) == (("warmup", 0), ("finetune", 3))
