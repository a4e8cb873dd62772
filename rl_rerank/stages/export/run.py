"""Make a model folder that ranks: weights, tokenizer, `reranker.json`, and a proof that it ranks as the source does."""

import dataclasses
import logging
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rl_rerank.config import Config, EngineConfig, HubConfig, LongDocumentsConfig, PluginConfig
from rl_rerank.data import Store, prepare
from rl_rerank.engines.base import Engine
from rl_rerank.engines.build import build_engine
from rl_rerank.engines.local import checkpoint, pyramid
from rl_rerank.evaluation import answers
from rl_rerank.io import digest
from rl_rerank.io.files import read_jsonl, replacing_folder, write_text
from rl_rerank.paradigms.base import Paradigm, traits
from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.requirements import is_installed
from rl_rerank.serving import calibration, card, contract, cross_encoder, sequence_classification, verify
from rl_rerank.serving.calibration import Calibration
from rl_rerank.serving.reranker import Reranker
from rl_rerank.serving.scores import golden, scores
from rl_rerank.stages.export.spec import ExportStage
from rl_rerank.types import RankingExample

logger = logging.getLogger(__name__)

NUM_CHECKED = 3
TOLERANCE = 1e-4

CLAIMS = {
    "cross_encoder": ("sentence-transformers' CrossEncoder", "cross_encoder"),
    "seqcls": ("the sequence classifier", "sequence_classification"),
}
"""Door -> the program, and the setting of the stage that claims it."""

Scores = list[tuple[int, float]]


def run(config: Config, name: str, stage: ExportStage) -> None:
    """Write run_dir/<name>/model, whole or not at all.

    Raises:
        ValueError: if the exported folder does not rank as the model that it was made from, or CrossEncoder does not
            rank as the contract claims.
    """
    source = checkpoint.locate(config, stage.model)
    examples = _checked_examples(config)
    target = Path(config.run_dir) / name / "model"
    with replacing_folder(target) as partial:
        checkpoint.copy(source, partial, config.model.dtype, config.model.trust_remote_code)
        paradigm, how = build_paradigm(config, config.paradigm), stage.documents(config.stages)
        renderer = checkpoint.renderer(config.model, source)
        wanted, is_pyramid = stage.cross_encoder, pyramid.is_folder(source)
        door = cross_encoder.door(paradigm, renderer, config.model, how, wanted=wanted, is_pyramid=is_pyramid)
        cross_encoder.write(partial, paradigm, renderer, config.model, how, door)
        # The golden pairs are compared by programs that compute in the model's own type.
        exact = dataclasses.replace(config.engine, bf16=False)
        engine = build_engine(exact, config.model, source)
        try:
            terms = _contract(config, stage, paradigm, renderer, engine, door)
            if stage.sequence_classification:
                sequence_classification.write(partial, terms, config.model.trust_remote_code)
            contract.write(partial, terms)
            contract.check_schema(partial)
            expected = _ranks(paradigm, engine, examples, how)
        finally:
            engine.close()
        difference = _verify(config, exact, partial, examples, expected)
        _verify_doors(partial, terms, name, config.model.trust_remote_code)
        write_text(partial / "README.md", _card(config, stage, name, terms, renderer.tokenizer))
    logger.info(
        "%s: %s ranks %d queries as %s does (scores within %.1e)", name, target, len(examples), source, difference
    )


def hub_folder(config: Config, name: str, stage: ExportStage) -> Path:
    """The exported folder, with a card that says where on the hub it will be."""
    folder = checkpoint.check_model_dir(Path(config.run_dir) / name / "model")
    terms, tokenizer = contract.read(folder), checkpoint.load_tokenizer(folder, config.model.trust_remote_code)
    write_text(folder / "README.md", _card(config, stage, name, terms, tokenizer))
    return folder


def _card(config: Config, stage: ExportStage, name: str, terms: contract.Contract, tokenizer: Any) -> str:
    untried = contract.CrossEncoderDoor(refusal="CrossEncoder was not compared when this model was exported")
    first = [ids[0] for ids in terms.continuation_ids.values()] if verify.claims_cross_encoder(terms) else []
    scale = traits(terms.build_paradigm()).score_scale
    words = tokenizer.convert_ids_to_tokens(first)
    return card.model(config, stage, name, terms.cross_encoder or untried, words, scale, terms.calibration)


def _checked_examples(config: Config) -> list[RankingExample]:
    """Held-out queries with something to order."""
    store = prepare(config.data, Path(config.run_dir) / "data")
    split = "test" if "test" in store.splits else store.splits[-1]
    examples = store.examples(split)
    usable = (e for e in examples if len(e.candidates) > 1 and all(_text(c) for c in e.candidates))
    found = list(islice(usable, NUM_CHECKED))
    if not found:
        raise ValueError(f"no query of split {split!r} has two candidates with text, so the export cannot be checked")
    return found


def _text(candidate: Any) -> str:
    return (candidate.title + candidate.text).strip()


def _contract(
    config: Config,
    stage: ExportStage,
    paradigm: Paradigm,
    renderer: Renderer,
    engine: Engine,
    door: contract.CrossEncoderDoor,
) -> contract.Contract:
    how = stage.documents(config.stages)
    plugin = config.paradigms.get(config.paradigm, PluginConfig())
    whole = dataclasses.replace(config, stage=None, dry_run=False, push=None, hub=HubConfig())  # As in config.json.
    return contract.Contract(
        paradigm=plugin.name or config.paradigm,
        paradigm_target=plugin.target,
        paradigm_params=contract.parameters(paradigm),
        max_prompt_tokens=config.model.max_prompt_tokens,
        max_passage_tokens=config.model.max_passage_tokens,
        long_documents=how,
        template_kwargs=dict(renderer.arguments(paradigm.name, traits(paradigm).reasoning)),
        dtype=config.model.dtype,
        prompt_fingerprint=contract.fingerprint(paradigm, renderer),
        continuation_ids={text: list(renderer.continuation_ids(text)) for text in paradigm.continuations},
        stop_ids=sorted(renderer.stop_ids),
        cross_encoder=door,
        calibration=_calibration(config, stage),
        base_model=card.model_name(config.model),
        provenance={
            "experiment": config.experiment,
            "stage": stage.model,
            "config_sha256": digest.of_json(dataclasses.asdict(whole)),
        },
        golden=[golden(paradigm, engine, renderer, how, *entry) for entry in contract.GOLDEN],
    )


def _calibration(config: Config, stage: ExportStage) -> Calibration | None:
    """Fit probabilities; None if the stage names no rankings for it, or these cannot carry them."""
    if stage.calibration is None:
        return None
    judged = Store(Path(config.run_dir) / "data").qrels("dev")
    found, relevant = list[float](), list[bool]()
    rows = read_jsonl(Path(config.run_dir) / stage.calibration / answers.RANKINGS)
    for row in rows:
        for docid, score in (row["raw_scores"] or {}).items():
            found.append(score)
            relevant.append(judged.get(row["qid"], {}).get(docid, 0) >= 1)
    try:
        slope, intercept = calibration.fit(found, relevant)
    except ValueError as e:
        # A weak model is exported all the same: its order does not depend on probabilities.
        logger.warning("the export has no probabilities of relevance: %s: %s", stage.calibration, e)
        return None
    return Calibration(slope=slope, intercept=intercept, run=stage.calibration, queries=len(rows), documents=len(found))


def _ranks(
    paradigm: Paradigm, engine: Engine, examples: Sequence[RankingExample], how: LongDocumentsConfig
) -> list[Scores]:
    # Query by query, as the exported model is asked: in bfloat16 a score is rounded by what stands in the same batch.
    found = [scores([example], paradigm, engine, how)[0][0] for example in examples]
    places = [{docid: i for i, docid in enumerate(example.docids)} for example in examples]
    return [[(place[docid], score) for docid, score in s.items()] for place, s in zip(places, found, strict=True)]


def _documents(example: RankingExample) -> list[dict[str, str]]:
    return [{"title": c.title, "text": c.text} for c in example.candidates]


def _verify(
    config: Config,
    engine: EngineConfig,
    folder: Path,
    examples: Sequence[RankingExample],
    expected: Sequence[Scores],
) -> float:
    """The largest difference of a score between the source model and the exported folder."""
    reranker = Reranker.load(folder, engine, trust_remote_code=config.model.trust_remote_code)
    try:
        found = [reranker.rank(e.query, _documents(e), instruction=e.instruction) for e in examples]
    finally:
        reranker.close()
    largest = 0.0
    for example, before, after in zip(examples, expected, found, strict=True):
        then = dict(before)
        difference = max(abs(score - then[i]) for i, score in after)
        if difference > TOLERANCE:
            raise ValueError(
                f"the exported folder {str(folder)!r} does not rank as its source: for qid {example.qid!r} scores "
                f"differ by {difference:.2e}, more than {TOLERANCE}"
            )
        largest = max(largest, difference)
    return largest


def _verify_doors(folder: Path, terms: contract.Contract, name: str, trust_remote_code: bool) -> None:
    """Refuse to claim that another program gives the same scores if it is installed and does not."""
    if verify.claims_cross_encoder(terms) and not is_installed("sentence_transformers"):
        logger.info("%s: sentence-transformers is not installed, so CrossEncoder's scores were not compared", name)
    doors = [door for door in verify.claimed(folder, terms) if door in CLAIMS]
    for verdict in verify.verify(folder, doors, trust_remote_code) if doors else ():
        program, setting = CLAIMS[verdict.target]
        if verdict.problems:
            raise ValueError(
                f"{program} does not rank as the model was trained to: {verdict.problems[0]}; set "
                f"stages.{name}.{setting}=false to export a folder without it"
            )
        logger.info("%s: %s: %s", name, program, verdict.note)
