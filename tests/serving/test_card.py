"""The cards: front matter that reads back as it was meant, and no place of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rl_rerank.config import Config, DataConfig, HubConfig, ModelConfig
from rl_rerank.config.experiment import RewardConfig
from rl_rerank.engines.local import embedded
from rl_rerank.evaluation.protocol import Protocol
from rl_rerank.evaluation.records import FILE, Metrics, RunRow
from rl_rerank.io.files import write_json
from rl_rerank.serving import card
from rl_rerank.serving.contract import CrossEncoderDoor
from rl_rerank.stages.average.spec import AverageStage
from rl_rerank.stages.evaluate.spec import EvaluateStage
from rl_rerank.stages.export.spec import ExportStage
from rl_rerank.stages.grpo.spec import GRPOStage
from rl_rerank.stages.rerank.spec import RerankStage
from rl_rerank.stages.sft.spec import SFTStage

REFUSED = CrossEncoderDoor(refusal="CrossEncoder cannot rank as this model was trained to")
STAGES = {"sft": SFTStage(kind="sft"), "rl": GRPOStage(kind="grpo")}


def front_matter(text: str) -> dict:
    """As the hub finds it: from a first line of three dashes to the next one."""
    assert text.startswith("---\n")
    return yaml.safe_load(text[4:].partition("\n---\n")[0])


def model_card(
    model: str = "Qwen/Qwen3-0.6B", trained: str = "rl", door: CrossEncoderDoor = REFUSED, **settings
) -> str:
    config = Config(model=ModelConfig(path=model), stages=STAGES, **settings)
    return card.model(config, ExportStage(kind="export", model=trained), "export", door)


def test_a_base_model_of_the_hub_is_linked_and_its_license_is_not_guessed():
    assert front_matter(model_card()) == {
        "library_name": "transformers",
        "pipeline_tag": "text-ranking",
        "base_model": "Qwen/Qwen3-0.6B",
        "tags": ["rl-rerank", "reranker", "pointwise", "grpo"],
    }


def test_the_embedded_model_brings_its_origin_and_its_license():
    found = front_matter(model_card(embedded.NAME, trained="sft"))
    assert found["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert found["license"] == "apache-2.0"
    assert found["tags"][-1] == "sft"


def test_a_checkpoint_of_a_stage_is_tagged_as_the_stage():
    text = model_card(trained="rl@40")
    assert front_matter(text)["tags"][-1] == "grpo"
    assert "(stage `rl@40`)" in text


def test_a_folder_is_no_base_model_and_goes_by_its_last_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "models/mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for path in ("models/mine", "./models/mine", str(tmp_path / "models/mine")):
        text = model_card(path, data=DataConfig(source="jsonl", path=str(tmp_path / "data.jsonl")))
        assert "base_model" not in front_matter(text)
        assert "- Base model: mine; its license" in text
        assert "- Data: source `jsonl` (data.jsonl), " in text
        assert str(tmp_path) not in text


@pytest.mark.parametrize("name", ["a: [b", "x\n---\nlicense: mit", "'\"{}%@", "- no", "null", "1e3", "# no"])
def test_front_matter_keeps_a_hostile_name_a_name(name: str):
    found = front_matter(model_card(paradigm=name))
    assert found["tags"] == ["rl-rerank", "reranker", name, "grpo"]
    assert "license" not in found


def test_the_card_loads_from_where_it_is():
    assert 'Reranker.load("path/to/this/folder")' in model_card(hub=HubConfig(revision="step-40"))
    assert 'Reranker.load("ann/tiny")' in model_card(push="ann/tiny")
    assert 'Reranker.load("ann/tiny", revision="step-40")' in model_card(
        push="ann/tiny", hub=HubConfig(revision="step-40")
    )


@pytest.mark.parametrize(("queries", "shown"), [(30, "0.6123"), (29, "29 queries: too few to compare")])
def test_results_of_few_queries_are_not_shown(tmp_path: Path, queries: int, shown: str):
    text = measured_card(tmp_path, queries)
    assert f"| GRPO (this model) | {shown} |" in text and ("0.6123" in text) == (queries == 30)
    assert ("model-index" in front_matter(text)) == (queries == 30)


def measured_card(tmp_path: Path, queries: int) -> str:
    row = RunRow(run="rl_eval", label="GRPO", mean={"nDCG@10": 0.6123}, num_queries=queries)
    other = RunRow(run="first", label="BM25", mean={"nDCG@10": 0.5}, num_queries=queries)
    made = Protocol(split="test", depth=10, data="d" * 64, first_stage="f" * 64, dataset="", max_prompt_tokens=768)
    metrics = Metrics(measures=["nDCG@10"], rows=[other, row], protocols={"rl_eval": made})
    write_json(tmp_path / "evaluate" / FILE, metrics.to_json())
    stages = STAGES | {"rl_eval": RerankStage(kind="rerank", model="rl"), "evaluate": EvaluateStage(kind="evaluate")}
    config = Config(run_dir=str(tmp_path), stages=stages, experiment="mine", seed=7)
    return card.model(config, ExportStage(kind="export", model="rl"), "export", REFUSED, scale="log_odds")


def test_the_hub_reads_the_results_of_this_model_from_the_card(tmp_path: Path):
    from huggingface_hub import ModelCard

    [result] = ModelCard(measured_card(tmp_path, 30)).data.eval_results
    assert (result.task_type, result.dataset_type, result.dataset_split) == ("text-ranking", "pydocs", "test")
    assert (result.metric_type, result.metric_name, result.metric_value) == ("ndcg_at_10", "nDCG@10", 0.6123)


def test_the_card_has_the_command_the_protocol_and_the_limits(tmp_path: Path):
    text = measured_card(tmp_path, 30)
    assert "Command: `rl-rerank run experiment=mine seed=7`" in text
    assert "Protocol: split test, 30 judged queries, 10 first-stage candidates each" in text
    assert "prompts of at most 768 tokens. SHA-256 of queries, judgments and texts: `dddddddddddddddd`" in text
    assert "A score is a log-odds" in text
    assert "Scores order the documents of one query" in model_card(paradigm="listwise")


def test_the_card_has_five_ways_to_use_the_model():
    claimed = CrossEncoderDoor(limits=["long prompts"])
    config = Config(model=ModelConfig(path="Qwen/Qwen3-0.6B"), stages=STAGES, push="ann/tiny")
    stage = ExportStage(kind="export", model="rl")
    text = card.model(config, stage, "export", claimed, ["\u0120yes", "no"])
    for number, shown in enumerate(
        ("Reranker.load", "CrossEncoder(", "rl-rerank serve", "vllm serve", "mteb.evaluate"), 1
    ):
        way = text.partition(f"\n{number}. ")[2].partition("\n```\n")[0]
        assert shown in way, way
    assert """'{"classifier_from_token": ["no", "\\u0120yes"], "method": "from_2_way_softmax"}'""" in text
    other = card.model(config, stage, "export", REFUSED)
    assert "2. sentence-transformers: CrossEncoder cannot rank as this model was trained to.\n" in other
    assert 'Reranker.load("ann/tiny", engine="vllm")' in other and "vllm serve" not in other


def test_an_untrained_model_is_called_so():
    text = model_card(trained="model")
    assert "A pointwise reranker, an untrained model with rl-rerank's prompts." in text
    assert front_matter(text)["tags"][-1] == "untrained"


def test_the_card_says_whether_cross_encoder_gives_the_scores():
    refused = model_card()
    claimed = model_card(door=CrossEncoderDoor(limits=["long prompts", "titles"]), push="ann/tiny")
    assert "sentence_transformers" not in refused
    assert 'CrossEncoder("ann/tiny").rank(' in claimed and "- long prompts;\n- titles.\n" in claimed
    assert front_matter(claimed)["library_name"] == "sentence-transformers"
    assert front_matter(claimed)["tags"][2:4] == ["sentence-transformers", "cross-encoder"]


def test_the_card_names_the_training_behind_the_model_and_rewards_where_they_trained_it():
    mean = AverageStage(kind="average", models=["sft@20", "rl"])
    stages = {"sft": SFTStage(kind="sft"), "rl": GRPOStage(kind="grpo", model="sft"), "mean": mean}
    config = Config(stages=stages, rewards={"ndcg": RewardConfig()})

    def trained_by(model: str) -> str:
        text = card.model(config, ExportStage(kind="export", model=model), "export", REFUSED)
        return next(line for line in text.splitlines() if line.startswith("- Trained by: "))

    assert trained_by("model") == "- Trained by: nothing. Rewards: none."
    assert trained_by("sft@20") == "- Trained by: `sft`. Rewards: none."
    assert trained_by("rl") == "- Trained by: `sft`, then `rl`. Rewards: ndcg x 1."
    assert trained_by("mean") == "- Trained by: `sft`, then `rl`, then `mean`. Rewards: ndcg x 1."
