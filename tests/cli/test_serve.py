"""The settings of `rl-rerank serve`, and what is refused before a model is loaded."""

from __future__ import annotations

import socket

import pytest

from rl_rerank.cli.main import main
from rl_rerank.cli.serve import settings
from rl_rerank.config import EngineConfig, ServeLimits


def test_settings_are_read():
    given = ["model=runs/a b: {1}/model", "name=007", "revision=null", "port=0", "engine=vllm", "limits.seconds=5"]
    found = settings([*given, "engine.args.max_model_len=512"])
    assert (found.model, found.name, found.revision, found.port) == ("runs/a b: {1}/model", "007", None, 0)
    assert found.engine == EngineConfig(kind="vllm", args={"max_model_len": 512})
    assert found.limits == ServeLimits(seconds=5.0)


def test_defaults_are_for_this_machine_alone():
    found = settings(["model=m"])
    assert found.host == "127.0.0.1" and found.is_local
    assert found.engine == EngineConfig()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "model is required; give model=VALUE"),
        (["model=m", "prot=1"], "there is no setting 'prot'. Did you mean 'port'?"),
        (["model=m", "port"], "cannot read 'port': a setting of serve is KEY=VALUE"),
        (["model=m", "port=http"], "port must be of type int; got 'http'"),
        (["model=m", "port=70000"], "port must be from 0 to 65535; got 70000"),
        (["model=m", "limits.waiting=0"], "limits: waiting must be at least 1; got 0"),
        (["model=m", "limits.seconds=0"], "limits.seconds must be above 0; got 0.0"),
        (["model=m", "limits.docs=3"], "there is no setting 'limits.docs'"),
        (["model=m", "engine=nothing"], "engine.kind must be one of"),
        (["model=m", "limits={"], "cannot read the settings"),
        (["model=m", "api_key_variable=sk-secret"], "api_key_variable is the name of an environment variable"),
    ],
)
def test_what_cannot_be_served_is_refused(arguments, says, capsys):
    assert main(["serve", *arguments]) == 2
    shown = capsys.readouterr().err
    assert says in shown
    assert "sk-secret" not in shown.replace("api_key_variable=sk-secret", "")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_a_loopback_address_needs_no_key(host):
    settings(["model=m", f"host={host}"]).check_key("")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org", "localhost.example.org"])
def test_another_address_needs_a_key_or_to_be_told(host):
    found = settings(["model=m", f"host={host}"])
    with pytest.raises(ValueError, match="is reached by other machines, and RL_RERANK_API_KEY holds no key"):
        found.check_key("")
    found.check_key("a key")
    settings(["model=m", f"host={host}", "open_to_network=true"]).check_key("")


def test_a_taken_port_is_found_before_the_model_is_loaded(capsys, tmp_path):
    pytest.importorskip("uvicorn", reason="the extra serve has it")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", f"model={tmp_path}", f"port={port}"]) == 2
    assert f"cannot listen on host=127.0.0.1 port={port}: Address already in use" in capsys.readouterr().err
