"""Near duplicates: exact against a comparison of all pairs."""

import random
from itertools import combinations

from rl_rerank.data.near_duplicates import THRESHOLD, clusters, shingles, similarity


def test_shingles_are_five_words_without_case_and_punctuation_and_a_short_text_is_one():
    assert shingles("One, two; three four FIVE six!") == {
        ("one", "two", "three", "four", "five"),
        ("two", "three", "four", "five", "six"),
    }
    assert shingles("one two") == {("one", "two")}
    assert shingles("") == {()}


def test_two_texts_are_near_duplicates_from_four_fifths_on():
    words = [f"w{n}" for n in range(49)]
    base = " ".join(words)
    # 49 words have 45 shingles. One other last word changes 1 of them: 44 shared of 46 in all = .957.
    near = " ".join([*words[:-1], "other"])
    # Another word in the middle changes 5: 40 shared of 50 in all = .8, which is enough.
    edge = " ".join([*words[:24], "other", *words[25:]])
    # Two of them, far apart, change 10: 35 of 55 = .636.
    far = " ".join([*words[:12], "other", *words[13:36], "other", *words[37:]])
    assert similarity(shingles(base), shingles(edge)) == THRESHOLD
    assert clusters({"a": base, "b": near, "c": edge, "d": far}) == {"a": "a", "b": "a", "c": "a", "d": "d"}


def test_clusters_equal_those_of_comparing_every_pair():
    rng = random.Random(0)
    texts: dict[str, str] = {}
    for n in range(30):
        words = [rng.choice("abcdefgh") + str(rng.randrange(30)) for _ in range(rng.randrange(3, 60))]
        for copy in range(rng.randrange(1, 5)):
            texts[f"{n:02}-{copy}"] = " ".join(words)
            if len(words) > 2:
                words[rng.randrange(len(words))] = "changed"
    expected = {name: name for name in texts}
    for a, b in combinations(sorted(texts), 2):
        if similarity(shingles(texts[a]), shingles(texts[b])) >= THRESHOLD:
            low, high = sorted((expected[a], expected[b]))
            expected = {name: low if root == high else root for name, root in expected.items()}
    found = clusters(texts)
    assert found == expected
    assert 30 <= len(set(found.values())) < len(texts)
