"""The run configuration: its sections, `schema` for the whole of it, `load` to read it, `check` across sections."""

from semievol.config.labeling import CONFIDENCES, MEMBER, Collaborator, EmbeddingConfig, RetrieveConfig, SelectConfig
from semievol.config.load import load, loads, of_run, structured, to_yaml
from semievol.config.prompting import PromptConfig
from semievol.config.running import EngineConfig, LimitsConfig, PoolResources, ServingConfig, TrainResources
from semievol.config.schema import Columns, DataConfig, ModelConfig, RunConfig
from semievol.config.section import FolderName, Section
from semievol.config.training import DeepSpeedTrainer, LoraConfig, OpenAITrainer, TrainConfig
