"""Terms of texts in several languages, and collections without spaces between words, ranked end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rl_rerank.cli.main import main
from rl_rerank.data.terms import WORD, terms
from rl_rerank.io import trec
from rl_rerank.ranking.long_documents import passages

NOUNS = {
    "ja": "氷河 洞窟 波動 行列 平均 音速 光線 砂漠 火山 台風 森林 惑星 地震 海流 湿地 細胞 電圧 重力 磁石 鉱物",
    "zh": "冰川 洞穴 波浪 矩阵 平均 声速 光线 沙漠 火山 台风 森林 行星 地震 洋流 湿地 细胞 电压 重力 磁铁 矿物",
    "th": (
        "ธารน้ำแข็ง ถ้ำ คลื่น เสียง แสง ความเร็ว เมทริกซ์ เวกเตอร์ ผลรวม ราก ภูเขา ทะเล แม่น้ำ ดาวเคราะห์ ป่าไม้ เกาะ พายุ ฝน หิมะ ลม"
    ),
}
DOCUMENT = {
    "ja": "{}についての短い説明です。研究者は{}を詳しく調べています。",
    "zh": "这是关于{}的简短说明。研究人员正在仔细研究{}。",
    "th": "นี่คือคำอธิบายสั้นๆเกี่ยวกับ{}นักวิจัยกำลังศึกษา{}อย่างละเอียด",
}
QUERY = {"ja": "{}とは何ですか", "zh": "什么是{}", "th": "{}คืออะไร"}
EXPERIMENT = """\
# @package _global_
stages:
  first_stage: {kind: rerank, model: first_stage}
  evaluate: {kind: evaluate, runs: [first_stage], measures: [RR@10]}
"""


def collection(folder: Path, language: str) -> None:
    nouns = NOUNS[language].split()
    assert len(set(nouns)) == 20
    corpus = [{"docid": f"d{i}", "text": DOCUMENT[language].format(noun, noun)} for i, noun in enumerate(nouns)]
    queries = [{"qid": f"q{i}", "text": QUERY[language].format(n), "split": "test"} for i, n in enumerate(nouns)]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    (folder / "qrels.tsv").write_text("".join(f"q{i} 0 d{i} 1\n" for i in range(20)))


@pytest.mark.parametrize("language", NOUNS)
def test_a_collection_without_spaces_is_ranked_and_measured(tmp_path, monkeypatch, language):
    collection(tmp_path, language)
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/plain.yaml").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    settings = ["experiment=plain", "data=collection", "data.path=.", f"data.language={language}", "run_dir=run"]
    assert main(["rerank", *settings]) == 0
    assert main(["evaluate", *settings]) == 0
    run = trec.read_run(tmp_path / "run/first_stage/run.trec")
    assert len(run) == 20 and all(f"d{qid[1:]}" in found for qid, found in run.items())  # recall is 1 for every query
    found = {qid: trec.trec_order(scores)[0] for qid, scores in run.items()}
    assert sum(first == f"d{qid[1:]}" for qid, first in found.items()) >= 18


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("The melting of the caves", "en", ["melt", "cave"]),
        ("Die Häuser und die Höhlen", "de", ["haus", "hohl"]),
        ("Les grottes", "fr", ["grott"]),
        ("氷河の洞窟", "ja", ["氷河", "河の", "の洞", "洞窟"]),
        ("猫。犬も", "zh", ["猫", "犬も"]),
        ("BM25で検索", "en", ["bm25", "で検", "検索"]),
        ("ﾃﾞｰﾀ", "ja", ["デー", "ータ"]),  # half-width kana are the same
        ("동굴 얼음", "ko", ["동굴", "얼음"]),
        ("a I", "en", []),
    ],
)
def test_terms(text, language, expected):
    assert terms([text], language) == [expected]


def test_an_unknown_language_is_refused(capsys):
    assert main(["run", "experiment=quickstart", "data.language=english", "dry_run=true"]) == 2
    assert "data.language must be one of ar, da, de" in capsys.readouterr().err


def test_passages_of_text_without_spaces_have_as_many_pairs_of_characters():
    text = "氷河の洞窟について" * 40  # 360 characters: 180 pairs
    pieces = passages(text, words=50, overlap=10)
    assert [len(piece) for piece in pieces] == [100, 100, 100, 100, 40]
    assert pieces[0][-20:] == pieces[1][:20] and "".join([pieces[0], *(p[20:] for p in pieces[1:])]) == text
    thai = "น้ำแข็ง" * 30
    assert all(not piece.startswith(("้", "็")) for piece in passages(thai, words=10, overlap=2))
    assert passages("one two  three four", 2, 0) == ["one two", "three four"]
    assert [m[0] for m in WORD.finditer("abc、東京 x")] == ["abc、", "東京", "x"]
