import pytest

from rl_rerank import registry
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pipeline import Pipeline
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank_rewards.ndcg import NDCG

PLUGIN = """\
from dataclasses import dataclass, field

@dataclass(frozen=True)
class Mine:
    needed: float
    x: float = 1.0
    names: list = field(default_factory=list)

def plain(x):
    return x
"""

LATER = """\
from __future__ import annotations
from dataclasses import dataclass
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from pathlib import Path

@dataclass
class Later:
    path: Path | None = None
"""


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    return path


def test_the_first_party_plugins_are_found_by_name():
    assert {"ndcg", "recall", "format", "exact_match"} <= set(registry.names("reward"))
    assert {"pointwise", "listwise", "groupwise"} <= set(registry.names("paradigm"))
    assert {"pairwise", "setwise", "first_token"} <= set(registry.names("paradigm"))
    assert registry.find("reward", "ndcg") is NDCG


def test_a_plugin_is_found_by_module_and_by_file(plugin):
    assert registry.find("reward", "rl_rerank_rewards.ndcg:NDCG") is NDCG
    mine = registry.build("reward", "mine", {"needed": 2.0}, target=f"{plugin}:Mine")
    assert (mine.needed, mine.x) == (2.0, 1.0)
    assert registry.find("reward", f"{plugin}:Mine") is type(mine)  # the file is run once


def test_parameters_become_fields():
    assert registry.build("paradigm", "listwise", {"window": 4, "stride": 2}) == Listwise(window=4, stride=2)
    assert registry.build("reward", "mine", {"k": 3}, target="rl_rerank_rewards.ndcg:NDCG") == NDCG(k=3)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        # YAML reads 1 as a number, also where a word is wanted.
        ("pointwise", {"positive": 1, "negative": 0}, Pointwise(positive="1", negative="0")),
        ("listwise", {"window": None}, Listwise(window=None)),
        ("pipeline", {"stages": [{"paradigm": "pointwise"}]}, Pipeline(stages=[{"paradigm": "pointwise"}])),
    ],
)
def test_plain_values_become_what_the_fields_are(name, given, expected):
    assert registry.build("paradigm", name, given) == expected


def test_a_whole_number_is_a_fraction_too(plugin):
    assert repr(registry.build("reward", "mine", {"needed": 2}, target=f"{plugin}:Mine").needed) == "2.0"


@pytest.mark.parametrize(
    ("kind", "name", "given", "message"),
    [
        ("paradigm", "pointwise", {"positive": True}, "paradigm 'pointwise': positive must be of type str; got True"),
        ("paradigm", "pointwise", {"positive": ["yes"]}, r"positive must be of type str; got \['yes'\]"),
        ("paradigm", "pointwise", {"negative": None}, "negative must be of type str; got None"),
        ("paradigm", "listwise", {"window": "all"}, "window must be of type int; got 'all'"),
        ("paradigm", "listwise", {"reasoning": 1}, "reasoning must be of type bool; got 1"),
        ("paradigm", "listwise", {"passes": True}, "passes must be of type int; got True"),
        ("paradigm", "pipeline", {"stages": [{"paradigm": "setwise", "params": {"k": "2"}}]}, "k must be of type int"),
        ("reward", "ndcg", {"k": 2.5}, "reward 'ndcg': k must be of type int; got 2.5"),
        ("reward", "ndcg", {"malformed": "-1"}, "malformed must be of type float; got '-1'"),
    ],
)
def test_values_of_another_type_are_refused(kind, name, given, message):
    with pytest.raises(ValueError, match=message):
        registry.build(kind, name, given)


def test_a_plugin_whose_types_cannot_be_resolved_is_built_as_it_is(tmp_path):
    (tmp_path / "later.py").write_text(LATER)
    assert registry.build("reward", "later", {"path": 3}, target=f"{tmp_path}/later.py:Later").path == 3


def test_a_function_is_a_plugin_too(plugin):
    assert registry.build("reward", "plain", {"x": 3}, target=f"{plugin}:plain") == 3


def test_defaults_leave_out_what_is_required(plugin):
    assert registry.defaults("reward", "ndcg") == {"k": 10, "gain": "linear", "malformed": 0.0}
    assert registry.defaults("reward", f"{plugin}:Mine") == {"x": 1.0, "names": []}
    assert registry.defaults("reward", f"{plugin}:plain") == {}


def test_an_unknown_name_lists_what_is_installed_and_what_is_near():
    with pytest.raises(LookupError, match=r"no reward is named 'ndgc'; installed: .*ndcg.* Did you mean 'ndcg'\?"):
        registry.find("reward", "ndgc")


def test_a_file_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(LookupError, match=r"there is no file '.*/absent\.py'"):
        registry.find("reward", f"{tmp_path}/absent.py:Mine")


def test_an_attribute_that_does_not_exist_is_named(plugin):
    with pytest.raises(ImportError, match=r"mine\.py' defines no 'Nobody'"):
        registry.find("reward", f"{plugin}:Nobody")
    with pytest.raises(ImportError, match="does not import"):
        registry.find("reward", "rl_rerank_rewards.ndcg:Nobody")
    with pytest.raises(ImportError, match="does not import"):
        registry.find("reward", "no_such_package_here:Mine")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("x = 1\ny = unknown\n", "mine.py:2' does not import: NameError: name 'unknown' is not defined"),
        ("import json\n\njson.loads('{')\n", "mine.py:3' does not import: JSONDecodeError: Expecting property name"),
        ("import no_such_package_here\n", "mine.py:1' does not import: No module named 'no_such_package_here'"),
        ("\n\ndef f(:\n", "mine.py:3' does not import: SyntaxError: invalid syntax"),
        ("raise ValueError('at import')\n", "mine.py:1' does not import: ValueError: at import"),
    ],
)
def test_a_file_that_does_not_import_is_named_with_its_line(tmp_path, code, says):
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(ImportError) as caught:
        registry.find("reward", f"{tmp_path}/mine.py:Mine")
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"reward '{tmp_path}/mine.py:Mine': '{tmp_path}/mine.py:")


def test_a_parameter_that_does_not_exist_lists_the_fields():
    with pytest.raises(ValueError, match="reward 'ndcg' has no parameter 'kk'; it has: k, gain, malformed"):
        registry.build("reward", "ndcg", {"kk": 3})


def test_a_parameter_without_default_must_be_given(plugin):
    with pytest.raises(ValueError, match="reward 'mine' needs its parameter 'needed', which has no default"):
        registry.build("reward", "mine", {}, target=f"{plugin}:Mine")
