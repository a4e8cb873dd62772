"""The transformers engine with images: the same numbers as the model's own forward, whatever is shared."""

import pytest
import torch
from support.pages import example, page

from rl_rerank.config import ModelConfig
from rl_rerank.engines.base import Capability
from rl_rerank.engines.journal import Journal
from rl_rerank.engines.journaled import Journaled
from rl_rerank.engines.local import checkpoint, eyes
from rl_rerank.engines.local.hf import HFEngine
from rl_rerank.packed import forward
from rl_rerank.packed.layout import pack
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.ranking.driver import rerank
from rl_rerank.types import Candidate, RankingExample, Sampling

ANSWERS = ["yes", "no", "yes no"]


@pytest.fixture
def renderer(tiny_vl_dir):
    return checkpoint.renderer(ModelConfig(path=str(tiny_vl_dir), max_prompt_tokens=1000), tiny_vl_dir)


@pytest.fixture
def engine(tiny_vl_dir, renderer):
    return HFEngine(tiny_vl_dir, renderer)


def own_inputs(renderer, prompt):
    """What transformers' own processor makes of a prompt's text and images."""
    shown = renderer(prompt)
    pictures = [list(map(renderer.vision.pixels, shown.images))]
    return renderer.vision.processor(text=[shown.text], images=pictures, return_tensors="pt")


def expected(folder, renderer, prompt, answer):
    """The log-probability of an answer by a plain forward of the model, without anything of ours."""
    model, inputs = checkpoint.load_model(folder, "float32"), own_inputs(renderer, prompt)
    ending = torch.tensor([renderer.continuation_ids(answer)])
    start = inputs["input_ids"].shape[1]
    ids = torch.cat([inputs["input_ids"], ending], 1)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=inputs["pixel_values"]).logits[
            :, start - 1 : -1
        ]
    return logits.log_softmax(-1).gather(2, ending.unsqueeze(2)).sum().item()


def test_scores_are_those_of_the_models_own_forward(tiny_vl_dir, renderer, engine, tmp_path):
    asked = example(tmp_path)
    prompts = [Pointwise(shown="images").prompt(asked, [docid]) for docid in asked.docids]
    prompts.append(Listwise(shown="images").prompt(asked, asked.docids))
    found = engine.score(prompts, ANSWERS)
    assert engine.scorer.refusal is None  # packed: what prompts share is computed once
    for prompt, answer in zip(prompts, found, strict=True):
        for text in ANSWERS:
            assert answer.continuations[text] == pytest.approx(expected(tiny_vl_dir, renderer, prompt, text), abs=1e-5)
    assert len({round(answer.continuations["yes"], 5) for answer in found[:4]}) == 4  # each page is seen


def test_images_are_shared_exactly_and_different_ones_never(tiny_vl_dir, renderer, tmp_path):
    model = checkpoint.load_model(tiny_vl_dir, "float32")
    eyes.install(model, renderer.vision)
    asked = example(tmp_path)
    orders = [asked.docids, asked.docids, asked.docids[::-1]]
    prompts = [renderer(Listwise(shown="images").prompt(asked, order)).token_ids for order in orders]
    answers = [renderer.continuation_ids(text) for text in ("[1] > [2]", "[2] > [1]", "[2] > [1]")]
    sequences = [((*ids, *answer), len(ids)) for ids, answer in zip(prompts, answers, strict=True)]
    packed = pack(sequences)
    seen = []
    original = renderer.vision.inputs
    renderer.vision.inputs = lambda shown: seen.append(len(shown)) or original(shown)
    with torch.no_grad():
        plain = forward.plainly_scored(model, sequences, pad_id=0).log_probs
        forward.install(model)
        shared = forward.scored(model, packed).log_probs
    assert seen == [12, 8]  # rows of their own have 4 images each; the two that begin alike share theirs
    assert (shared - plain).abs().max() < 1e-5


def test_samples_share_a_prefill_with_pixels_and_greedy_is_the_models_own(tiny_vl_dir, renderer, engine, tmp_path):
    asked = example(tmp_path)
    prompts = [Listwise(shown="images").prompt(asked, docids) for docids in (asked.docids, asked.docids[:2])]
    found = engine.generate([*prompts, prompts[0]], Sampling(6))
    model = checkpoint.load_model(tiny_vl_dir, "float32")
    for prompt, [answer] in zip([*prompts, prompts[0]], found, strict=True):
        inputs = own_inputs(renderer, prompt)
        own = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :].tolist()
        assert list(answer.token_ids) == own
    [drawn] = engine.generate(prompts[:1], Sampling(6, temperature=1.0, num_generations=3, seed=1))
    assert [c.token_ids for c in drawn] == [
        c.token_ids
        for first in range(3)
        for [c] in engine.generate(prompts[:1], Sampling(6, temperature=1.0, seed=1, first=first))
    ]


@pytest.mark.parametrize("paradigm", [Pointwise(shown="images"), Pointwise(shown="both")], ids=["images", "both"])
def test_swapped_images_swap_the_scores(engine, tmp_path, paradigm):
    asked = example(tmp_path, text="a page")
    swapped = RankingExample(
        asked.qid,
        asked.query,
        tuple(
            Candidate(one.docid, one.text, images=other.images)
            for one, other in zip(asked.candidates, asked.candidates[::-1], strict=True)
        ),
    )
    [before], _ = rerank([asked], paradigm, engine)
    [after], _ = rerank([swapped], paradigm, engine)
    for one, other in zip(asked.docids, asked.docids[::-1], strict=True):
        assert before.raw_scores[one] == pytest.approx(after.raw_scores[other], abs=1e-5)
    assert len(set(before.raw_scores.values())) == 4


def test_a_journal_tells_images_apart_by_content(engine, tmp_path):
    answers = Journaled(engine, Journal(tmp_path / "journal.sqlite"), {"kind": "hf"})
    prompt = Pointwise(shown="images").prompt(example(tmp_path), ["q0d0"])
    assert Capability.images in answers.capabilities
    answers.score([prompt], ["yes", "no"])
    answers.score([prompt], ["yes", "no"])
    assert answers.usage == {"asked": 1, "from_journal": 1}
    page(tmp_path / "0-0.png", "purple")  # the same path, another content
    answers.score([prompt], ["yes", "no"])
    assert answers.usage == {"asked": 2, "from_journal": 1}


def test_an_engine_over_a_model_that_reads_text_is_refused_before_it_is_asked(tiny_model_dir, tmp_path):
    blind = HFEngine(
        tiny_model_dir,
        checkpoint.renderer(ModelConfig(path=str(tiny_model_dir), max_prompt_tokens=500), tiny_model_dir),
    )
    with pytest.raises(ValueError, match="has shown=images, and the engine HFEngine sees no images"):
        rerank([example(tmp_path)], Pointwise(shown="images"), blind)


def test_an_image_that_changes_after_its_prompt_was_made_is_refused(tiny_vl_dir, renderer, tmp_path):
    model = checkpoint.load_model(tiny_vl_dir, "float32")
    eyes.install(model, renderer.vision)
    ids = renderer(Pointwise(shown="images").prompt(example(tmp_path), ["q0d0"])).token_ids
    page(tmp_path / "0-0.png", "purple")
    with pytest.raises(ValueError, match=r"the image '.*0-0\.png' has changed since its prompt was made"):
        model(input_ids=torch.tensor([ids]))
    with pytest.raises(ValueError, match="has 9 tokens, and 8 stand in the input"):
        model(input_ids=torch.tensor([[token for i, token in enumerate(ids) if i != ids.index(min(ids))]]))
    with pytest.raises(LookupError, match="was not rendered in this process"):
        model(input_ids=torch.tensor([[5, -7, 6]]))


def test_a_model_that_sees_is_loaded_saved_and_loaded_again_with_its_processor(tiny_vl_dir, renderer, tmp_path):
    checkpoint.copy(tiny_vl_dir, tmp_path / "copy", "float32")
    again = checkpoint.renderer(ModelConfig(max_prompt_tokens=1000), tmp_path / "copy")
    assert type(again.vision.processor.image_processor).__name__ == "Idefics3ImageProcessorPil"
    prompt = Pointwise(shown="images").prompt(example(tmp_path), ["q0d0"])
    assert again(prompt) == renderer(prompt)
    one, other = (HFEngine(folder, made) for folder, made in ((tiny_vl_dir, renderer), (tmp_path / "copy", again)))
    assert one.score([prompt], ["yes"]) == other.score([prompt], ["yes"])
