"""The wordings that come with the package: what they render, and that answers in their form are read."""

import json
import random
import re

import pytest
import yaml

from rl_rerank.evaluation import protocol
from rl_rerank.experiment.compose import compose
from rl_rerank.paradigms.base import traits
from rl_rerank.paradigms.build import build_paradigm, make
from rl_rerank.prompts.wordings.files import content, names, wording
from rl_rerank.serving import contract
from rl_rerank.types import Candidate, Completion, RankingExample

TITLED = (Candidate("a", "It is made of ice.", "Glaciers"), Candidate("b", "Bread is baked."))
QUERY = "how are glacier caves formed?"
GRADES = {"a": 2, "b": 1}
BREAD = "Bread is baked."
EXAMPLE = RankingExample("q", QUERY, TITLED, GRADES)
OURS = ("listwise", "first_token", "groupwise", "setwise", "pairwise", "pointwise", "pointwise_graded")
THINKING = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning "
    "process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., <think> "
    "reasoning process here </think> <answer> answer here </answer>."
)
RANKED = (
    "I will provide you with 2 passages, each indicated by a numerical identifier []. Rank the passages based on their "
    f"relevance to the search query: {QUERY}.\n"
    "\n"
    "[1] Title: Glaciers Content: It is made of ice.\n"
    "[2] Bread is baked.\n"
    f"Search Query: {QUERY}.\n"
    "Rank the 2 passages above based on their relevance to the search query. All the passages should be included and "
    "listed using identifiers, in descending order of relevance. "
)

RENDERED = {
    "listwise": [
        ("system", "Rank the passages by relevance to the query."),
        (
            "user",
            f"Query: {QUERY}\n[1] Glaciers. It is made of ice.\n[2] Bread is baked.\n"
            "Answer with all identifiers, most relevant first, like [2] > [1].",
        ),
    ],
    "first_token": [
        ("system", "Rank the passages by relevance to the query."),
        (
            "user",
            f"Query: {QUERY}\n[A] Glaciers. It is made of ice.\n[B] Bread is baked.\n"
            "Answer with all letters, most relevant first, like B > A.",
        ),
    ],
    "groupwise": [
        ("system", "Score each passage's relevance to the query from 0 to 10."),
        (
            "user",
            f"Query: {QUERY}\n[1] Glaciers. It is made of ice.\n[2] Bread is baked.\n"
            'Answer in JSON, like {"[1]": 3, "[2]": 7}.',
        ),
    ],
    "setwise": [
        ("system", "Choose the passage that is most relevant to the query."),
        (
            "user",
            f"Query: {QUERY}\n[A] Glaciers. It is made of ice.\n[B] Bread is baked.\n"
            "Answer with the letter of the most relevant passage, like B.",
        ),
    ],
    "pairwise": [
        ("system", "Which of the two passages is more relevant to the query?"),
        ("user", f"Query: {QUERY}\n[A] Glaciers. It is made of ice.\n[B] Bread is baked.\nAnswer A or B."),
    ],
    "pointwise": [
        ("system", "Is the passage relevant to the query?"),
        ("user", f"Query: {QUERY}\nPassage: Glaciers. It is made of ice.\nAnswer yes or no."),
    ],
    "pointwise_graded": [
        ("system", "Score the passage's relevance to the query from 0 to 10."),
        ("user", f"Query: {QUERY}\nPassage: Glaciers. It is made of ice.\nAnswer with the score only, like 7."),
    ],
    "rankgpt": [
        ("system", "Rank the passages by relevance to the query."),
        ("user", f"Query: {QUERY}\n2 passages follow, each with its identifier."),
        ("assistant", "Okay, please provide the passages."),
        ("user", "[1] Glaciers. It is made of ice."),
        ("assistant", "Received passage [1]."),
        ("user", "[2] Bread is baked."),
        ("assistant", "Received passage [2]."),
        ("user", f"Query: {QUERY}\nAnswer with all identifiers, most relevant first, like [2] > [1]."),
    ],
    "pointwise_apart": [
        ("system", "Is the passage relevant to the query?"),
        ("user", f"Query: {QUERY}"),
        ("assistant", "Which passage?"),
        ("user", "Glaciers. It is made of ice."),
        ("assistant", "Seen."),
        ("user", f"Query: {QUERY}\nAnswer yes or no."),
    ],
    "reasonrank": [
        (
            "system",
            "You are RankLLM, an intelligent assistant that can rank passages based on their relevance to the query. "
            "Given a query and a passage list, you first thinks about the reasoning process in the mind and then "
            "provides the answer (i.e., the reranked passage list). The reasoning process and answer are enclosed "
            "within <think> </think> and <answer> </answer> tags, respectively, i.e., <think> reasoning process here "
            "</think> <answer> answer here </answer>.",
        ),
        ("user", f"{RANKED}The format of the answer should be [] > [], e.g., [2] > [1]."),
    ],
    "rank_llm": [
        (
            "system",
            "You are RankLLM, an intelligent assistant that can rank passages based on their relevancy to the query.",
        ),
        (
            "user",
            f"{RANKED}The output format should be [] > [], e.g., [4] > [2], Only respond with the ranking results, do "
            "not say any word or explain.",
        ),
    ],
    "rank_r1": [
        ("system", THINKING),
        (
            "user",
            f'Given the query: "{QUERY}", which of the following documents is most relevant?\n'
            "[1] Glaciers It is made of ice.\n[2] Bread is baked.\n"
            "After completing the reasoning process, please provide only the label of the most relevant document to "
            "the query, enclosed in square brackets, within the answer tags. For example, if the third document is the "
            "most relevant, the answer should be: <think> reasoning process here </think> <answer>[3]</answer>.",
        ),
    ],
    "rank_r1_v02": [
        (
            "system",
            "You are RankLLM, an intelligent assistant capable of evaluating the relevancy of passages to a given "
            "query.",
        ),
        (
            "user",
            "You will be presented with a query, and a set of documents.\n\n"
            "Your task consists of the following step:\n\n"
            "1. Analyze the query: Carefully read the query and identify the core problem or question being asked.\n\n"
            "2. Analyze the documents: Thoroughly examine each document and briefly explain how each document is "
            "relevant or not relevant to the query.\n\n"
            "3. Find the most relevant document: Based on your analysis, select the most relevant document to the "
            "query from the set and briefly explain why.\n\n"
            "Important: Provide your analysis within the <think> </think> tags and answer only the label of the most "
            "relevant document, enclosed in square brackets, within the <answer> </answer> tags. For example, if the "
            "third document is the most relevant, your response should be:\n"
            "<think> Your analysis here </think>\n<answer>[3]</answer>\n\n"
            f"Here is the query: {QUERY}\n\n"
            "Here are the documents:\n[1]: Glaciers It is made of ice.\n\n[2]: Bread is baked.",
        ),
    ],
    "grouprank": [
        (
            "system",
            "Score how well each document helps to answer the query: first by its usefulness to whoever asks, then by "
            "its topic.\n"
            "Find out what the query wants, judge each document by that, and compare the documents with each other.\n\n"
            "Scores from 0 to 10:\n- 9-10: answers the query directly\n- 7-8: very helpful\n- 5-6: helpful in part\n"
            "- 3-4: little help\n- 1-2: hardly any help\n- 0: no help at all",
        ),
        (
            "user",
            "2 documents follow, each indicated by a numerical identifier []. Score them by their usefulness to the "
            f"query.\nQuery:\n{QUERY}\n\nDocuments:\n[1]. Glaciers It is made of ice.\n\n[2]. Bread is baked.\n\n"
            "Answer in exactly two parts: first your reasoning within <reason> </reason>, then the scores within "
            "<answer> </answer>\nas JSON, with the identifiers as keys and whole numbers as values, for all 2 "
            "documents. Write nothing outside the tags:\n<reason>\nYour reasoning\n</reason>\n<answer>\n```json\n"
            '{"[1]": 5, "[2]": 3, "[3]": 8}\n```\n</answer>',
        ),
    ],
    "erank": [
        (
            "user",
            "Given a query and a document, please give a relevance score of 0 to 10.\n"
            "The goal or relevance definition is: Given a query, retrieve relevant passage.\n\n"
            f"Here is the query:\n{QUERY}\n\nHere is the document:\nGlaciers It is made of ice.\n\n"
            "After thinking, directly choose a relevance score from [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10].\n"
            "- 0 represents completely not related.\n- 10 means perfectly related.\n\n"
            "Desired output format:\n<think> put your thinking here </think><answer> Only allows an integer here "
            "</answer>\n\nYour output:",
        ),
    ],
    "mxbai": [
        (
            "user",
            f"query: {QUERY}\ndocument: Glaciers It is made of ice.\n"
            "You are a search relevance expert who evaluates how well documents match search queries. For each "
            "query-document pair, carefully analyze the semantic relationship between them, then provide your binary "
            "relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:",
        ),
    ],
    "qwen3_reranker": [
        (
            "system",
            "Judge whether the Document meets the requirements based on the Query and the Instruct provided. Note that "
            'the answer can only be "yes" or "no".',
        ),
        (
            "user",
            "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
            f"<Query>: {QUERY}\n<Document>: Glaciers It is made of ice.",
        ),
    ],
    "mm_r5": [
        ("system", THINKING.replace("</think> <answer> answer here", "</think><answer> answer here").rstrip(".")),
        (
            "user",
            "Please rank the following images according to their relevance to the question. Provide your response in "
            "the format: <think>your reasoning process here</think><answer>[image_id_1, image_id_2, ...]</answer> "
            "where the numbers in the list represent the ranking order of images'id from most to least relevant. "
            "Before outputting the answer, you need to analyze each image and provide your analysis process.For "
            "example: <think>Image 1 shows the most relevant content because...</think><answer>[id_most_relevant, "
            "id_second_relevant, ...]</answer>\n"
            f"The question is: {QUERY}\n\nThere are 2 images, id from 1 to 2, Image ID to image mapping:\n\n"
            "Image 1: Glaciers It is made of ice.\nImage 2: Bread is baked.",
        ),
    ],
}

# Wording, an answer as the published model writes it, and the scores it gives to the documents a and b.
ANSWERS = [
    ("reasonrank", "<think> a is about ice. </think> <answer> [1] > [2] </answer>", {"a": 2, "b": 1}),
    ("rank_llm", "[2] > [1]", {"a": 1, "b": 2}),
    ("rankgpt", "[2] > [1]", {"a": 1, "b": 2}),
    ("rank_r1", "<think> The second. </think> <answer>[2]</answer>", {"a": 0, "b": 1}),
    ("rank_r1_v02", "<think> The first. </think>\n<answer>[1]</answer>", {"a": 1, "b": 0}),
    (
        "grouprank",
        '<reason> \nThe first answers it.\n</reason>\n<answer> \n```json\n{"[1]": 9, "[2]": 0}\n``` \n</answer>',
        {"a": 9, "b": 0},
    ),
    ("erank", "<think> It mentions ice. </think><answer> 7 </answer>", {"a": 7}),
    ("pointwise_apart", "yes", {"a": 1}),
    ("mxbai", "1", {"a": 1}),
    ("mxbai", "0", {"a": 0}),
    ("qwen3_reranker", "yes", {"a": 1}),
    ("qwen3_reranker", "no", {"a": 0}),
    ("mm_r5", "<think>Image 2 shows it.</think><answer>[2, 1]</answer>", {"a": 1, "b": 2}),
]


def asked(name, **more):
    paradigm = make(wording(name).paradigm, {"wording": name, **more})
    shown = 1 if paradigm.name.startswith("pointwise") else 2
    example = RankingExample("q", QUERY, TITLED, GRADES)
    return paradigm, example, paradigm.prompt(example, ["a", "b"][:shown])


@pytest.mark.parametrize("name", names())
def test_a_wording_renders_as_written_here(name):
    paradigm, _, prompt = asked(name)
    assert [(m.role, m.text) for m in prompt.messages] == RENDERED[name]
    assert prompt.paradigm == paradigm.name and prompt.reasoning == traits(paradigm).reasoning


@pytest.mark.parametrize("name", OURS)
def test_a_paradigms_own_words_are_its_wording_of_the_same_name(name):
    own = make(name, {})
    example = RankingExample("q", QUERY, TITLED, GRADES, "explain")
    for prompt in own.prompts(example, random.Random(0)):
        assert prompt == make(name, {"wording": name}).prompt(example, prompt.docids)


@pytest.mark.parametrize(("name", "text", "scores"), ANSWERS)
def test_an_answer_in_the_published_form_is_read(name, text, scores):
    paradigm, _, prompt = asked(name)
    for strict in (True, False):
        judgment = paradigm.parse(prompt, Completion(text), strict=strict)
        assert (judgment.status, dict(judgment.scores)) == ("ok", scores)


def test_every_published_wording_has_an_answer_in_its_form():
    assert {name for name, _, _ in ANSWERS} == {*names()} - {*OURS}


@pytest.mark.parametrize("name", names())
def test_a_target_is_read_back_and_fits_the_room_for_it(name):
    paradigm, example, prompt = asked(name)
    target = paradigm.target(example, prompt)
    judgment = paradigm.parse(prompt, Completion(target), strict=True)
    assert judgment.is_ok and max(judgment.scores, key=judgment.scores.__getitem__) == "a"
    if not traits(paradigm).reasoning:
        assert len(target) < paradigm.max_completion_tokens


@pytest.mark.parametrize(
    ("name", "text", "status"),
    [
        ("mm_r5", "<think>x</think><answer>[2] > [1]</answer>", "answer"),
        ("mm_r5", "<think>x</think><answer>[2, 2]</answer>", "ids"),
        ("mm_r5", "<think>x</think><answer>[2]</answer>", "ids"),
        ("grouprank", '<think>x</think><answer>\n```json\n{"[1]": 9, "[2]": 0}\n```\n</answer>', "tags"),
        ("grouprank", '<reason>x</reason><answer>{"[1]": 9, "[2]": 0}</answer>', "answer"),
        ("listwise", "[2, 1]", "answer"),
    ],
)
def test_strict_reading_takes_the_form_of_the_wording_alone(name, text, status):
    paradigm, _, prompt = asked(name)
    assert paradigm.parse(prompt, Completion(text), strict=True).status == status


def test_an_instruction_stands_where_the_wording_puts_it():
    example = RankingExample("q", QUERY, TITLED, GRADES, "only peer-reviewed work")
    said = {n: make(wording(n).paradigm, {"wording": n}).prompt(example, ["a"]).messages for n in ("mxbai", "erank")}
    assert said["mxbai"][-1].text.startswith(f"instruction: only peer-reviewed work\nquery: {QUERY}\n")
    assert "The goal or relevance definition is: only peer-reviewed work\n" in said["erank"][-1].text


def test_a_wording_sets_the_parameters_that_follow_and_refuses_others():
    assert asked("mxbai")[0].continuations == ("1", "0")
    assert asked("rank_r1", labels="numbers")[0].reasoning is True
    with pytest.raises(
        ValueError, match=r"wording reasonrank: its answers have reasoning=True; got paradigms\.listwise"
    ):
        asked("reasonrank", reasoning=False)
    with pytest.raises(ValueError, match=r"wording rank_r1: it is for the paradigm setwise, and paradigms\.listwise"):
        make("listwise", {"wording": "rank_r1", "reasoning": True})
    with pytest.raises(ValueError, match=r"constrained=true restricts answers to the paradigm's own form"):
        make(
            "groupwise",
            {"wording": {**content("groupwise"), "answer": {"form": "object", "fence": "json"}}, "constrained": True},
        )
    with pytest.raises(LookupError, match=r"no wording is named 'reasonrnk'.*Did you mean 'reasonrank'"):
        make("listwise", {"wording": "reasonrnk"})


BROKEN = [
    ({"user": "{query} {documents} {querry}"}, "user has the placeholder {querry}; there are: {query}"),
    ({"user": "{query} {documents} {max_score}"}, "user has the placeholder {max_score}"),
    ({"system": "{query}"}, "system has the placeholder {query}; there are: {n}"),
    ({"user": "{documents}"}, "user has no {query}, so the model would not see it"),
    ({"user": "{query}"}, "user must have {documents} 1 times, not 0"),
    ({"user": "{query} {documents} {documents}"}, "user must have {documents} 1 times, not 2: the documents are shown"),
    ({"document": "{document}"}, "document must have {id} once"),
    ({"document": "[{id}] {document} {document}"}, "document must have {document} once"),
    ({"titled": "{title}"}, "titled must have {text} once"),
    ({"answer": {"form": "haiku"}}, "answer.form must be chain or array for the paradigm listwise; got 'haiku'"),
    ({"answer": {"form": "object"}}, "answer.form must be chain or array for the paradigm listwise; got 'object'"),
    ({"answer": {"form": "chain", "fence": "json"}}, "answer.fence must be left out for listwise answers"),
    ({"answer": {"form": "chain", "identifiers": "letters"}}, "answer.identifiers must be one of numbers"),
    ({"answer": {"form": "chain", "words": ["1", "0"]}}, "answer.words must be the two answers of form words"),
    ({"answer": {"form": "chain", "tags": {"answer": "verdict"}}}, "answer.tags: answer='verdict' is no tag that"),
    ({"answer": {"form": "chain", "tags": {"thought": "a b"}}}, "answer.tags: thought='a b' is no tag that"),
    ({"answer": {"form": "chain", "tags": {"open": "x"}}}, "there is no key answer.tags.open"),
    ({"answer": "chain"}, "answer must be a mapping with a form; got 'chain'"),
    ({"reasoning": "always"}, "answer.tags: answers are read by </think>, which no message names"),
    ({"reasoning": "optional"}, "reasoning is optional, so user needs {think}"),
    ({"reasoning": "sometimes"}, "reasoning must be one of optional, always, never; got 'sometimes'"),
    ({"turn": "[{id}] {document}"}, "user must have {documents} 0 times, not 1: the documents are turns"),
    ({"turn": "[{id}] {document}", "user": "{query}"}, "turn needs opening, reply and received"),
    ({"sytem": "x"}, "there is no key sytem; there are: paradigm"),
    ({"system": 3}, "system must be a text; got 3"),
    ({"paradigm": "listwize"}, "paradigm must be one of listwise, first_token"),
]
VALID = {
    "paradigm": "listwise",
    "user": "{query}\n{documents}",
    "document": "[{id}] {document}",
    "answer": {"form": "chain"},
}


@pytest.mark.parametrize(("change", "reason"), BROKEN)
def test_a_broken_file_is_refused_by_its_name_key_and_reason(tmp_path, change, reason):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(VALID))
    assert make("listwise", {"wording": str(path)}).prompt(EXAMPLE, ["b"]).messages[0].text == f"{QUERY}\n[1] {BREAD}"
    path.write_text(yaml.safe_dump({**VALID, **change}))
    with pytest.raises(ValueError, match=re.escape(f"wording {path}: {reason}")):
        make("listwise", {"wording": str(path)})


@pytest.mark.parametrize("key", ["paradigm", "user", "answer"])
def test_a_file_without_a_key_that_is_needed_is_refused(tmp_path, key):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in VALID.items() if k != key}))
    with pytest.raises(ValueError, match=f"{key} is missing"):
        make("listwise", {"wording": str(path)})


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("user: [", ValueError, "it is not YAML"),
        ("- user", ValueError, "it must be a mapping"),
        (None, LookupError, "there is no file"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, text, error, message):
    path = tmp_path / "mine.yml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match=message):
        make("listwise", {"wording": str(path)})


def test_a_configuration_holds_the_content_of_a_users_file_and_the_export_that_of_any(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(VALID))
    given = ["experiment=reasonrank", "data=jsonl", "data.path=none.jsonl"]
    config = compose(
        "run", [*given, f"paradigms.listwise.params.wording={path}", "paradigms.listwise.params.reasoning=false"]
    )
    assert config.paradigms["listwise"].params["wording"] == {**VALID, "file": str(path)}
    path.unlink()  # The run no longer needs it.
    paradigm = build_paradigm(config, "listwise")
    assert paradigm.prompt(EXAMPLE, ["b"]).messages[0].text == f"{QUERY}\n[1] {BREAD}"
    for built in (paradigm, asked("grouprank")[0], asked("rank_r1")[0], asked("mxbai")[0]):
        exported = json.loads(json.dumps(contract.parameters(built)))
        again = make(built.name, exported)
        docids = ["a"] if built.name == "pointwise" else ["a", "b"]
        assert again.prompt(EXAMPLE, docids) == built.prompt(EXAMPLE, docids)
        assert isinstance(exported["wording"], dict)
    assert contract.parameters(make("listwise", {}))["wording"] is None


def test_a_missing_file_is_refused_when_the_configuration_is_composed():
    with pytest.raises(
        LookupError, match=r"paradigms\.listwise\.params\.wording: wording: there is no file 'none\.yaml'"
    ):
        compose("run", ["experiment=reasonrank", "paradigms.listwise.params.wording=none.yaml"])


def test_the_protocol_names_a_users_file_with_a_digest_of_its_content(tmp_path):
    path = tmp_path / "mine.yaml"
    found = []
    for user in ("{query}\n{documents}", "{query} {documents}"):
        path.write_text(yaml.safe_dump({**VALID, "user": user}))
        given = [f"paradigms.listwise.params.wording={path}", "paradigms.listwise.params.reasoning=false"]
        found.append(protocol._identity(compose("run", ["experiment=reasonrank", *given]), "listwise"))
    assert found[0] != found[1] and all(f'wording="{path}" ' in one and len(one) < 250 for one in found)
