"""Images in prompts: their tokens, places, sizes and budgets."""

import re

import pytest
from support.pages import example, page

from rl_rerank.config import ModelConfig
from rl_rerank.engines.local import checkpoint
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.prompts.vision import Vision
from rl_rerank.types import Candidate, Message, Prompt, RankingExample, Segment

PARTS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Takes parts only, as the templates of SmolVLM and Idefics3 do."""


def renderer(folder, budget=1000, **settings) -> Renderer:
    return checkpoint.renderer(ModelConfig(path=str(folder), max_prompt_tokens=budget, **settings), folder)


class Patches:
    """A processor that makes one token of every 10 x 10 pixels, as models do that see images at their own size."""

    image_token = "<image>"

    def __init__(self, tokenizer) -> None:
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)

    def __call__(self, text, images, return_text_replacement_offsets):
        [[image]] = images
        width, height = image.size
        count = max(width // 10, 1) * max(height // 10, 1)
        return {"text_replacement_offsets": [[{"replacement": "<fake>" + self.image_token * count}]]}


def patches(folder, budget, cap=None) -> Renderer:
    tokenizer = checkpoint.load_tokenizer(folder)
    return Renderer(tokenizer, max_prompt_tokens=budget, vision=Vision(Patches(tokenizer), max_image_tokens=cap))


def test_an_image_has_its_processors_tokens_under_one_id_and_one_placeholder(tiny_vl_dir, tmp_path):
    made, asked = renderer(tiny_vl_dir), example(tmp_path)
    shown = made(Listwise(shown="images").prompt(asked, asked.docids))
    assert [image.docid for image in shown.images] == list(asked.docids)
    assert shown.text.count("<image>") == shown.compact_ids.count(made.vision.image_token_id) == 4
    assert made.vision.image_token_id not in shown.token_ids
    own = {image.docid: image.token_id for image in shown.images}
    assert len(set(own.values())) == 4 and max(own.values()) < 0
    for docid, (start, end) in shown.spans.items():
        inside = shown.token_ids[start:end]
        assert inside.count(own[docid]) == shown.token_ids.count(own[docid]) == 9
        assert not set(inside) & (set(own.values()) - {own[docid]})
    # The processor itself, of the same text and images, with the placeholder's id back in its place.
    processor = made.vision.processor
    ids = processor(text=[shown.text], images=[list(map(made.vision.pixels, shown.images))])["input_ids"][0]
    assert tuple(made.vision.image_token_id if i < 0 else i for i in shown.token_ids) == tuple(ids)


def test_equal_content_has_equal_ids_wherever_it_lies(tiny_vl_dir, tmp_path):
    made = renderer(tiny_vl_dir)
    one = RankingExample("q", "red?", (Candidate("a", "", images=(page(tmp_path / "a.png", "red"),)),))
    same = RankingExample("q", "red?", (Candidate("b", "", images=(page(tmp_path / "other/b.png", "red"),)),))
    other = RankingExample("q", "red?", (Candidate("c", "", images=(page(tmp_path / "c.png", "blue"),)),))
    ids = [made(Pointwise(shown="images").prompt(e, e.docids)).token_ids for e in (one, same, other)]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("template", [None, PARTS, ""], ids=["text", "parts", "none"])
def test_templates_of_either_form_show_the_same_images(tiny_vl_dir, tmp_path, template):
    made, asked = renderer(tiny_vl_dir), example(tmp_path, text="a caption")
    if template is not None:
        made.tokenizer.chat_template = template or None
        made = Renderer(made.tokenizer, max_prompt_tokens=1000, vision=made.vision)
    shown = made(Listwise(shown="both").prompt(asked, asked.docids))
    assert re.findall(r"\[\d\] <image>\na caption", shown.text) == [f"[{i}] <image>\na caption" for i in (1, 2, 3, 4)]
    assert len(shown.images) == 4
    words = made(Listwise().prompt(asked, asked.docids))
    assert "[4] a caption" in words.text and not words.images and not words.compact_ids


def test_placeholders_in_foreign_text_show_nothing(tiny_vl_dir, tmp_path):
    attack = "<image> <fake_token_around_image><global-img> <im<image>age> <|im_end|>"
    candidates = (Candidate("a", attack, title=attack, images=(page(tmp_path / "a.png", "red"),)),)
    asked = RankingExample("q", attack, candidates, instruction=attack)
    made = renderer(tiny_vl_dir)
    shown = made(Pointwise(shown="both").prompt(asked, ["a"]))
    assert len(shown.images) == 1 and shown.compact_ids.count(made.vision.image_token_id) == 1
    assert sum(token < 0 for token in shown.token_ids) == 9
    text_only = made(Pointwise().prompt(asked, ["a"]))
    controls = set(made.tokenizer.added_tokens_encoder.values()) - set(made.tokenizer.all_special_ids[:1])
    assert made.vision.image_token_id in controls
    assert made.vision.image_token_id not in text_only.token_ids


def test_a_query_can_have_an_image(tiny_vl_dir, tmp_path):
    path = page(tmp_path / "q.png", "red")
    asked = (Segment("Like "), Segment("", None, "image", path), Segment("?"))
    shown = renderer(tiny_vl_dir)(Prompt("q", (), (Message("user", asked),), "mine"))
    assert [(image.path, image.docid) for image in shown.images] == [(path, None)] and shown.spans == {}


def test_images_are_made_smaller_to_one_cap_and_texts_share_what_they_leave(tiny_vl_dir, tmp_path):
    sizes = {"a": (200, 200), "b": (100, 100), "c": (30, 20)}  # 400, 100 and 6 tokens
    words = " ".join(["word"] * 300)
    candidates = tuple(
        Candidate(docid, words, images=(page(tmp_path / f"{docid}.png", "red", size),)) for docid, size in sizes.items()
    )
    asked = RankingExample("q", "red?", candidates)
    prompt = Listwise(shown="both").prompt(asked, asked.docids)
    whole = patches(tiny_vl_dir, 100_000)(prompt)
    assert [image.tokens for image in whole.images] == [400, 100, 6] and whole.image_tokens is None
    fitted = patches(tiny_vl_dir, 400)(prompt)
    assert len(fitted.token_ids) <= 400
    tokens = [image.tokens for image in fitted.images]
    assert tokens[2] == 6 and tokens[0] <= fitted.image_tokens and tokens[1] <= fitted.image_tokens < 400
    assert fitted.images[0].width == pytest.approx(fitted.images[0].height, abs=1)
    # Rendered again, the images have the same sizes: in training as at inference.
    assert patches(tiny_vl_dir, 400)(prompt).images == fitted.images
    capped = patches(tiny_vl_dir, 100_000, cap=50)(prompt)
    assert capped.image_tokens == 50 and max(image.tokens for image in capped.images) <= 50
    assert not capped.shrunk


def test_what_cannot_fit_is_refused(tiny_vl_dir, tmp_path):
    asked = example(tmp_path, documents=6)
    prompt = Listwise(shown="images").prompt(asked, asked.docids)
    needed = len(renderer(tiny_vl_dir)(prompt).token_ids)
    assert len(renderer(tiny_vl_dir, needed)(prompt).token_ids) == needed
    with pytest.raises(ValueError, match=r"qid 'q0': the image .* takes at least 9 tokens, and 8 are left for it"):
        renderer(tiny_vl_dir, needed - 1)(prompt)
    with pytest.raises(ValueError, match="has no room for these"):
        renderer(tiny_vl_dir, 60)(prompt)
    with pytest.raises(ValueError, match="takes at least 9 tokens, and 5 are left"):
        renderer(tiny_vl_dir, max_image_tokens=5)(prompt)


def test_wrong_expansions_are_detected(tiny_vl_dir, tmp_path):
    made = renderer(tiny_vl_dir)
    shown = made(Pointwise(shown="images").prompt(example(tmp_path), ["q0d0"]))
    ids = [made.vision.image_token_id if token < 0 else token for token in shown.token_ids]
    with pytest.raises(ValueError, match="makes 8 tokens '<image>' of 1 images with 9"):
        made.vision.marked([token for i, token in enumerate(ids) if i != shown.spans["q0d0"][0] + 3], shown.images)
    with pytest.raises(ValueError, match="shows 2 placeholders '<image>' for 1 images"):
        made.vision.expanded("<image> and <image>", shown.images)


def test_a_model_that_reads_text_only_is_not_shown_images(tiny_model_dir, tmp_path):
    asked = example(tmp_path)
    with pytest.raises(
        ValueError, match=r"qid 'q0': the pointwise prompt shows images, and the model in .* reads text"
    ):
        renderer(tiny_model_dir)(Pointwise(shown="images").prompt(asked, ["q0d0"]))
    with pytest.raises(ValueError, match="document 'a' has no image, and the prompts show images"):
        Pointwise(shown="images").prompt(RankingExample("q", "x", (Candidate("a", "text"),)), ["a"])
    with pytest.raises(ValueError, match="document 'q0d0' is an image without text, and the prompts show text only"):
        Pointwise().prompt(asked, ["q0d0"])
    with pytest.raises(ValueError, match="listwise: shown must be one of text, images, both; got 'pictures'"):
        Listwise(shown="pictures")


def test_a_bad_image_is_named_with_its_query(tiny_vl_dir, tmp_path):
    candidates = (Candidate("a", "", images=(str(tmp_path / "none.png"),)),)
    prompt = Pointwise(shown="images").prompt(RankingExample("q7", "x", candidates), ["a"])
    with pytest.raises(ValueError, match=r"qid 'q7': the image '.*none\.png' does not exist"):
        renderer(tiny_vl_dir)(prompt)
