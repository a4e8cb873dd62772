import pytest

from rl_rerank.cli.main import main


def test_rewards_are_listed_in_groups_with_parameters_and_meaning(capsys: pytest.CaptureFixture[str]):
    assert main(["rewards", "list"]) == 0
    shown = capsys.readouterr().out
    assert "ndcg(k=10, gain='linear', malformed=0.0)\n    nDCG@k of the prompt's window" in shown
    terms, query, compositions = (shown.index(h) for h in ("Terms, each of one", "Terms, each of all", "Compositions"))
    assert terms < shown.index("\nrecall(") < query < shown.index("\npooled_reciprocal_rank(") < compositions
    for name in ("multiview", "grouprank", "erank", "prorank", "mm_r5"):
        assert shown.index(f"\n{name}(") > compositions


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lst"], "rewards has no subcommand 'lst'; it has: list, check, replay"),
        (["list", "all"], "rewards list takes nothing else; got 'all'"),
        (["check"], "rewards check needs a name"),
        (["check", "ndgc"], "Did you mean 'ndcg'?"),
    ],
)
def test_what_cannot_be_done_is_told(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str):
    assert main(["rewards", *arguments]) == 2
    assert message in capsys.readouterr().err
