from semievol.stages import evaluate, finetune, retrieve, select, warmup
from semievol.stages.base import Place
from semievol.tasks.classification import Classification
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


def test_where_prompts_list_the_likeliest_labels_every_stage_reads_the_rows_that_have_them() -> None:
    config = run_config(task=Classification(show="likeliest"))
    place = Place(config, 0, (0,))
    assert retrieve.TEST.wanted(config) and config.evaluate.k == 0
    assert evaluate.BASE.inputs(place)["evaluate/retrieve"] == ("evaluate/retrieve", 0)
    assert warmup.STAGE.inputs(place)["index"] == finetune.STAGE.inputs(place)["index"] == ("index", 0)
    assert "retrieve" not in select.STAGE.inputs(place)
    config.select.ceiling = True
    assert select.STAGE.inputs(place) == {"ingest": ("ingest", 0), "retrieve": ("retrieve", 0)}
    plain = Place(run_config(task=Classification()), 0, (0,))
    for stage in (warmup.STAGE, finetune.STAGE, evaluate.BASE):
        assert not {"index", "evaluate/retrieve"} & stage.inputs(plain).keys()
