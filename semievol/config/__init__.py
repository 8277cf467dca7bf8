"""The run configuration: `schema` documents every key, `load` reads, `check` refuses what cannot be."""

from semievol.config.load import load, loads, structured, to_yaml
from semievol.config.schema import (
    CONFIDENCES,
    Collaborator,
    Columns,
    DataConfig,
    EmbeddingConfig,
    EngineConfig,
    LabelConfig,
    LimitsConfig,
    ModelConfig,
    PoolResources,
    PriceConfig,
    RetrieveConfig,
    RunConfig,
    SelectConfig,
    ServingConfig,
    TaskConfig,
    TrainConfig,
    TrainResources,
)
