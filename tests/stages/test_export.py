"""The export stage: a folder that ranks as the trained model does."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from safetensors import safe_open
from support import chat_templates

from rl_rerank.config import Config, DataConfig, EngineConfig, HubConfig, LongDocumentsConfig, ModelConfig
from rl_rerank.engines.local.tokenizer import load_tokenizer, renderer
from rl_rerank.io.files import write_jsonl
from rl_rerank.serving import Reranker, contract, pair_template
from rl_rerank.stages.evaluate.spec import EvaluateStage
from rl_rerank.stages.export import run as export_stage
from rl_rerank.stages.export.spec import ExportStage
from rl_rerank.stages.grpo.spec import GRPOStage
from rl_rerank.stages.plugins import Plugins
from rl_rerank.stages.rerank.spec import RerankStage

DOCUMENTS = ["ice caves", "yes no yes", "bread"]


@pytest.fixture
def config(tmp_path, tiny_model_dir) -> Config:
    with (tmp_path / "data.jsonl").open("w") as file:
        for i in range(8):
            candidates = [{"docid": f"{i}{c}", "text": f"the text {c} {i}", "title": c} for c in "abc"]
            row = {"qid": f"q{i}", "query": f"query {i}", "candidates": candidates, "qrels": {f"{i}b": 1}}
            file.write(json.dumps({**row, "split": ("test", "train")[i % 2]}) + "\n")
    shutil.copytree(tiny_model_dir, tmp_path / "run/rl/model")
    return Config(
        run_dir=str(tmp_path / "run"),
        experiment="tiny",
        data=DataConfig(source="jsonl", path=str(tmp_path / "data.jsonl")),
        model=ModelConfig(path=str(tiny_model_dir), max_prompt_tokens=512),
        stages={
            "rl": GRPOStage(kind="grpo", micro_batch=8),
            "trained": RerankStage(kind="rerank", model="rl"),
            "evaluate": EvaluateStage(kind="evaluate"),
            "export": ExportStage(kind="export", model="rl"),
        },
    )


def test_the_exported_folder_ranks_as_the_trained_model(config, tmp_path, tiny_model_dir):
    export_stage.run(config, "export", ExportStage(kind="export", model="rl"))
    folder = tmp_path / "run/export/model"
    assert {p.name for p in folder.iterdir()} >= {"reranker.json", "model.safetensors", "tokenizer.json", "README.md"}
    assert [p.name for p in folder.parent.iterdir()] == ["model"]
    reranker = Reranker.load(folder)
    reranker.verify()
    assert reranker.contract.paradigm_params["positive"] == "yes"
    assert reranker.contract.provenance["stage"] == "rl"
    assert len(reranker.contract.provenance["config_sha256"]) == 64
    assert reranker.contract.base_model == tiny_model_dir.name
    assert [i for i, _ in reranker.rank("caves", DOCUMENTS, top_n=1)] != []
    assert "Not measured." in (folder / "README.md").read_text()


def test_golden_scores_are_computed_in_the_models_own_type(config, tmp_path):
    found = []
    for bf16 in (False, True):  # as an experiment ranks where the processor is faster with bfloat16
        config.engine = EngineConfig(bf16=bf16)
        export_stage.run(config, "export", ExportStage(kind="export", model="rl"))
        found.append(contract.read(tmp_path / "run/export/model").golden)
    for exact, other in zip(*found, strict=True):
        assert other.scores == pytest.approx(exact.scores, abs=1e-6)
    Reranker.load(tmp_path / "run/export/model").verify()


@pytest.mark.slow
def test_cross_encoder_ranks_the_exported_folder_as_the_reranker_does(config, tmp_path):
    cross_encoder = pytest.importorskip("sentence_transformers").CrossEncoder
    export_stage.run(config, "export", ExportStage(kind="export", model="rl"))
    folder = tmp_path / "run/export/model"
    ranked = Reranker.load(folder).rank("caves", DOCUMENTS)
    rows = cross_encoder(str(folder), local_files_only=True).rank("caves", DOCUMENTS, show_progress_bar=False)
    assert [row["corpus_id"] for row in rows] == [i for i, _ in ranked]
    assert [row["score"] for row in rows] == pytest.approx([score for _, score in ranked], abs=1e-4)
    assert 'CrossEncoder("path/to/this/folder")' in (folder / "README.md").read_text()


@pytest.mark.slow
def test_a_folder_that_cross_encoder_ranks_otherwise_is_not_exported(config, tmp_path, monkeypatch):
    pytest.importorskip("sentence_transformers")
    right = pair_template.with_pairs
    monkeypatch.setattr(pair_template, "with_pairs", lambda *a: right(*a).replace("Passage: ", "Text: "))
    with pytest.raises(ValueError, match=r"CrossEncoder does not rank .*Text: .*stages\.export\.cross_encoder=false"):
        export_stage.run(config, "export", ExportStage(kind="export", model="rl"))
    assert not (tmp_path / "run/export/model").exists()
    export_stage.run(config, "export", ExportStage(kind="export", model="rl", cross_encoder=False))
    refusal = contract.read(tmp_path / "run/export/model").cross_encoder.refusal
    assert "it was exported without this way of loading" in refusal


def test_long_documents_and_ends_of_answers_are_those_of_training(config, tmp_path):
    how = LongDocumentsConfig(mode="firstp", words=40, overlap=0)
    config.stages["rl"].long_documents = how
    export_stage.run(config, "export", ExportStage(kind="export", model="rl"))
    folder = tmp_path / "run/export/model"
    terms = contract.read(folder)
    assert terms.long_documents == how
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert (
        (ends if isinstance(ends, list) else [ends])
        == terms.stop_ids
        == sorted(renderer(config.model, folder).stop_ids)
    )
    assert ExportStage(kind="export", model="model").documents(config.stages) == LongDocumentsConfig()
    own = ExportStage(kind="export", model="rl", long_documents=LongDocumentsConfig(mode="maxp"))
    assert own.documents(config.stages).mode == "maxp"


def test_weights_are_stored_in_the_configured_type(config, tmp_path):
    config.model.dtype = "bfloat16"
    export_stage.run(config, "export", ExportStage(kind="export", model="rl"))
    with safe_open(tmp_path / "run/export/model/model.safetensors", "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118


def test_exporting_again_replaces_the_folder_and_shows_what_was_measured(config, tmp_path):
    (tmp_path / "run/export/model").mkdir(parents=True)
    (tmp_path / "run/export/model/stale.txt").write_text("old")
    metrics = {
        "measures": ["nDCG@10"],
        "rows": [{"run": "trained", "label": "GRPO", "mean": {"nDCG@10": 0.51234}, "num_queries": 30}],
    }
    (tmp_path / "run/evaluate").mkdir()
    (tmp_path / "run/evaluate/metrics.json").write_text(json.dumps(metrics))
    export_stage.run(config, "export", ExportStage(kind="export", model="rl"))
    folder = tmp_path / "run/export/model"
    assert not (folder / "stale.txt").exists()
    card = (folder / "README.md").read_text()
    assert "| GRPO (this model) | 0.5123 |" in card
    assert str(tmp_path) not in card


def test_what_belongs_to_one_command_is_no_part_of_the_provenance(config, tmp_path):
    export_stage.run(config, "export", ExportStage(kind="export", model="rl"))
    written = (tmp_path / "run/export/model/reranker.json").read_bytes()
    once = dataclasses.replace(config, push="ann/tiny", hub=HubConfig(private=False), stage="export")
    export_stage.run(once, "export", ExportStage(kind="export", model="rl"))
    assert (tmp_path / "run/export/model/reranker.json").read_bytes() == written
    assert 'Reranker.load("ann/tiny")' in (tmp_path / "run/export/model/README.md").read_text()


def test_a_folder_that_ranks_otherwise_is_refused(config, tmp_path):
    [example, *_] = export_stage._checked_examples(config)
    export_stage.run(config, "export", ExportStage(kind="export", model="rl"))
    with pytest.raises(ValueError, match="does not rank as its source"):
        expected = [[(0, 9.0), (1, 8.0), (2, 7.0)]]
        export_stage._verify(config, config.engine, tmp_path / "run/export/model", [example], expected)


def test_a_stage_that_has_not_run_cannot_be_exported(config, tmp_path):
    shutil.rmtree(tmp_path / "run/rl")
    with pytest.raises(FileNotFoundError, match="stage 'rl' has left no model"):
        export_stage.run(config, "export", ExportStage(kind="export", model="rl"))


def test_how_the_template_was_kept_from_thinking_is_exported(config, tmp_path):
    """A template that lets its model think closes an empty thought, in training, in ranking and in production."""
    config.model.path = str(shutil.copytree(config.model.path, tmp_path / "thinking"))
    for folder in (tmp_path / "thinking", tmp_path / "run/rl/model"):
        tokenizer = load_tokenizer(folder)
        tokenizer.chat_template = chat_templates.TEMPLATES["qwen3"]
        tokenizer.save_pretrained(folder)
    export_stage.run(config, "export", ExportStage(kind="export", model="rl"))
    reranker = Reranker.load(tmp_path / "run/export/model")
    assert reranker.contract.template_kwargs == {"enable_thinking": False}
    prompt = reranker.paradigm.prompt(contract.golden_example("q", ["ice"]), ["0"])
    shown = load_tokenizer(tmp_path / "run/export/model").decode(reranker.engine.render(prompt))
    assert shown.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_a_template_that_always_thinks_is_not_exported(config, tmp_path):
    folder = tmp_path / "run/rl/model"
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = chat_templates.TEMPLATES["qwen3_thinking"]
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match="pointwise answers, which have no reasoning, would stand inside a thought"):
        export_stage.run(config, "export", ExportStage(kind="export", model="rl"))
    assert not (tmp_path / "run/export/model").exists()


def test_probabilities_are_fitted_to_the_scores_of_development_queries(config, tmp_path):
    data = tmp_path / "data.jsonl"
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    data.write_text("".join(json.dumps(row | {"split": ("test", "dev")[i % 2]}) + "\n" for i, row in enumerate(rows)))
    config.stages["dev"] = RerankStage(kind="rerank", model="rl", split="dev")
    # Of each query's documents b is relevant: it has the highest score, but for the last query.
    scores = [{f"{i}a": 0.0, f"{i}b": (3.0 if i < 7 else -3.0), f"{i}c": -1.0} for i in range(1, 8, 2)]
    ranked = [{"qid": f"q{i}", "raw_scores": found} for i, found in zip(range(1, 8, 2), scores, strict=True)]
    (tmp_path / "run/dev").mkdir()
    write_jsonl(tmp_path / "run/dev/rankings.jsonl", ranked)
    stage = config.stages["export"] = ExportStage(kind="export", model="rl", calibration="dev")
    stage.check("export", Plugins(config))
    export_stage.run(config, "export", stage)
    with Reranker.load(tmp_path / "run/export/model") as reranker:
        found = reranker.contract.calibration
        assert (found.run, found.queries, found.documents) == ("dev", 4, 12)
        assert reranker.probability(3.0) > 0.6 > 0.4 > reranker.probability(-1.0) and found.slope > 0
        # 4 of 12 documents are relevant, with targets slightly inside of 0 and 1
        every = [reranker.probability(score) for row in scores for score in row.values()]
        assert sum(every) == pytest.approx(4 * 5 / 6 + 8 * 1 / 10, abs=1e-4)
    card = (tmp_path / "run/export/model/README.md").read_text()
    assert "The probability of relevance is 1 / (1 + exp(-(" in card and "12 documents of 4 development queries" in card


def test_a_model_that_orders_the_wrong_way_is_exported_without_probabilities(config, tmp_path, caplog):
    data = tmp_path / "data.jsonl"
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    data.write_text("".join(json.dumps(row | {"split": ("test", "dev")[i % 2]}) + "\n" for i, row in enumerate(rows)))
    (tmp_path / "run/dev").mkdir()
    write_jsonl(tmp_path / "run/dev/rankings.jsonl", [{"qid": "q1", "raw_scores": {"1a": 1.0, "1b": 0.0, "1c": 2.0}}])
    export_stage.run(config, "export", ExportStage(kind="export", model="rl", calibration="dev"))
    assert "the export has no probabilities of relevance: dev: relevant documents do not have the higher" in caplog.text
    assert contract.read(tmp_path / "run/export/model").calibration is None
    assert "It is not calibrated." in (tmp_path / "run/export/model/README.md").read_text()


@pytest.mark.parametrize(
    ("calibration", "says"),
    [
        ("trained", "stages.export.calibration=trained ranks split 'test'; probabilities are fitted on development"),
        ("other", "stages.export.calibration=other must be a rerank stage with model=rl, whose scores these are"),
        ("bm25", "stages.export.calibration=bm25 must be a rerank stage with model=rl, whose scores these are"),
    ],
)
def test_probabilities_of_other_scores_are_refused(config, calibration, says):
    config.stages["other"] = RerankStage(kind="rerank", model="model", split="dev")
    config.stages["bm25"] = RerankStage(kind="rerank", model="first_stage", split="dev")
    with pytest.raises(ValueError, match=says):
        ExportStage(kind="export", model="rl", calibration=calibration).check("export", Plugins(config))


def test_an_export_without_calibration_gives_no_probabilities(config, tmp_path):
    export_stage.run(config, "export", config.stages["export"])
    with (
        Reranker.load(tmp_path / "run/export/model") as reranker,
        pytest.raises(ValueError, match="the export has no calibration, so that scores have no probabilities"),
    ):
        reranker.probability(0.0)
