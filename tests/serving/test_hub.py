"""Uploading with the real client of the Hugging Face hub, against a stand-in of its HTTP API on this machine.

The client reads its environment when it is imported, so each upload and each download is a process of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.hub_stand_in import SIGNATURE, Hub

from rl_rerank.cli.main import main
from rl_rerank.config import HubConfig
from rl_rerank.engines.local.checkpoint import load_model, load_tokenizer
from rl_rerank.io import manifest
from rl_rerank.io.files import read_jsonl
from rl_rerank.serving import Reranker, hub

pytestmark = pytest.mark.process

TOKEN = "hf_ThisIsTheSecretThatMustNotAppear"
DOCUMENTS = ["ice caves", "yes no yes", "bread"]
EXPERIMENT = """\
# @package _global_
stages:
  synth: {kind: synth, mixture: {pointwise: 6}}
  rl: {kind: grpo, save_steps: 1}
  adapter: {kind: grpo, model: rl, lora: {r: 4}, save_steps: 1}
  export: {kind: export, model: rl}
  step: {kind: export, model: rl@2}
  lora: {kind: export, model: adapter@1}
"""
UPLOAD = """\
import sys
from pathlib import Path
from rl_rerank.config import HubConfig
from rl_rerank.serving import hub
try:
    hub.upload(Path(sys.argv[1]), sys.argv[2], "model", HubConfig())
except LookupError as e:
    sys.exit(f"refused: {e}")
"""
RANK = """\
import json, sys
from rl_rerank.serving import Reranker
reranker = Reranker.load("ann/tiny", revision="main")
print(json.dumps(reranker.rank("caves", json.loads(sys.stdin.read()))))
"""
VERIFY = """\
import json, sys
from pathlib import Path
from huggingface_hub import snapshot_download
from rl_rerank.serving.verify import verify
folder = Path(snapshot_download("ann/steps", revision=sys.argv[1]))
print("VERIFIED", json.dumps([[v.target, v.problems] for v in verify(folder, ["hf", "cross_encoder"])]))
"""
RANK_BY_VLLM = """\
import json, sys
from rl_rerank.serving import Reranker
reranker = Reranker.load("ann/tiny", engine="vllm")
print("RANKED", json.dumps(reranker.rank("caves", json.loads(sys.stdin.read()))))
"""
LOAD_DATASET = """\
import json
from datasets import load_dataset
print(json.dumps(list(load_dataset("ann/rows", split="train"))))
"""


@pytest.fixture
def there() -> Iterator[Hub]:
    """A hub of one's own, still empty."""
    with Hub(TOKEN) as started:
        yield started


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """A folder with an experiment, whose model is trained already."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "conf/experiment").mkdir(parents=True)
    (folder / "conf/experiment/tiny.yaml").write_text(EXPERIMENT)
    with (folder / "data.jsonl").open("w") as file:
        for i in range(8):
            candidates = [{"docid": f"{i}{c}", "text": f"the text {c} {i}"} for c in "abc"]
            row = {"qid": f"q{i}", "query": f"query {i}", "candidates": candidates, "qrels": {f"{i}b": 1}}
            file.write(json.dumps({**row, "split": ("test", "train")[i % 2]}) + "\n")
    shutil.copytree(tiny_model_dir, folder / "run/rl/model")
    _checkpoints(folder / "run", tiny_model_dir)
    return folder


def _checkpoints(run: Path, tiny_model_dir: Path) -> None:
    """A whole checkpoint with other weights than the model, and one of an adapter, as training leaves them."""
    torch.manual_seed(1)
    model = load_model(tiny_model_dir, "float32")
    with torch.no_grad():
        norm = model.get_parameter("model.norm.weight")
        norm += 0.5 * torch.randn_like(norm)
    whole, adapter = run / "rl/checkpoints/checkpoint-2", run / "adapter/checkpoints/checkpoint-1"
    model.save_pretrained(whole)
    adapted = get_peft_model(load_model(tiny_model_dir, "float32"), LoraConfig(r=4, task_type="CAUSAL_LM"))
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            weight.data.normal_(0, 0.2)
    adapted.save_pretrained(str(adapter))
    for folder in (whole, adapter):
        load_tokenizer(tiny_model_dir).save_pretrained(folder)
        manifest.write(folder, {})


@pytest.fixture(scope="module")
def module_hub() -> Iterator[Hub]:
    with Hub(TOKEN) as started:
        yield started


@pytest.fixture(scope="module")
def pushed(place: Path, module_hub: Hub, tiny_model_dir: Path) -> subprocess.CompletedProcess[str]:
    """The command that exports and uploads, done."""
    return finished(
        python(place, module_hub, *command(place, tiny_model_dir, "export", "stage=export", "push=ann/tiny"))
    )


@pytest.fixture(scope="module")
def rows_hub(place: Path, tiny_model_dir: Path) -> Iterator[Hub]:
    """A hub with synthesised rows in a public repository."""
    with Hub(TOKEN) as started:
        finished(python(place, started, *command(place, tiny_model_dir, "synth", "push=ann/rows", "hub.private=false")))
        yield started


def environment(place: Path, to: Hub, **more: str) -> dict[str, str]:
    ours = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS"))
    }
    # Xet needs servers of its own; the stand-in has the LFS storage.
    hub_client = {"HF_ENDPOINT": to.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    return {**ours, **hub_client, "HF_HOME": str(place / "hf"), "NO_PROXY": "127.0.0.1", **more}


def command(place: Path, model: Path, name: str, *overrides: str) -> list[str]:
    data = ["data=jsonl", f"data.path={place / 'data.jsonl'}", "reward=[ndcg]", f"model.path={model}"]
    where = [f"--config-dir={place / 'conf'}", f"run_dir={place / 'run'}", "model.max_prompt_tokens=512"]
    return ["-m", "rl_rerank", name, "experiment=tiny", *data, *where, *overrides]


def python(place: Path, to: Hub, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    env = environment(place, to, **more.pop("env", {}))
    return subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True, check=False, **more)


def finished(ended: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert ended.returncode == 0, ended.stderr
    return ended


def upload(place: Path, to: Hub, folder: Path, repo: str = "ann/tiny") -> subprocess.CompletedProcess[str]:
    return python(place, to, "-c", UPLOAD, str(folder), repo)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_pushed_model_comes_back_byte_for_byte_and_ranks_the_same(place, module_hub, pushed):
    folder = place / "run/export/model"
    repo = module_hub.repos["models/ann/tiny"]
    assert repo.is_private
    assert repo.files() == contents(folder)
    assert len(repo.commits) == 2  # the hub's own and ours
    assert f"{module_hub.endpoint}/ann/tiny: " in pushed.stderr
    assert f"commit {repo.branches['main']} (private repository)" in pushed.stderr
    ranked = json.loads(finished(python(place, module_hub, "-c", RANK, input=json.dumps(DOCUMENTS))).stdout)
    assert ranked == [list(pair) for pair in Reranker.load(folder).rank("caves", DOCUMENTS)]
    [snapshot] = (place / "hf/hub/models--ann--tiny/snapshots").iterdir()
    pulled = contents(snapshot)
    assert {"model.safetensors", "tokenizer.json", "reranker.json", "config.json"} <= pulled.keys()
    assert pulled == {name: content for name, content in contents(folder).items() if name in pulled}


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "branch"), [("step", "step-2"), ("lora", "adapter-1")])
def test_a_checkpoint_and_an_adapter_are_pushed_to_a_branch_and_verify_where_they_are_pulled(
    place, module_hub, tiny_model_dir, stage, branch
):
    """One private repository: a branch for NAME@STEP, and one for an adapter, which is merged into its base."""
    push = command(place, tiny_model_dir, "export", f"stage={stage}", "push=ann/steps", f"hub.revision={branch}")
    finished(python(place, module_hub, *push))
    repo = module_hub.repos["models/ann/steps"]
    assert repo.is_private
    files = repo.files(branch)
    assert files == contents(place / f"run/{stage}/model")
    assert f'Reranker.load("ann/steps", revision="{branch}")'.encode() in files["README.md"]
    assert "adapter_config.json" not in files
    assert files["model.safetensors"] != (tiny_model_dir / "model.safetensors").read_bytes()
    said = finished(python(place, module_hub, "-c", VERIFY, branch)).stdout
    [line] = [line for line in said.splitlines() if line.startswith("VERIFIED ")]
    assert json.loads(line.removeprefix("VERIFIED ")) == [["hf", []], ["cross_encoder", []]]


@pytest.mark.engine
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm")
def test_vllm_loads_the_pulled_model(place, module_hub, pushed):
    asked = python(
        place, module_hub, "-c", RANK_BY_VLLM, input=json.dumps(DOCUMENTS), env={"VLLM_CPU_KVCACHE_SPACE": "1"}
    )
    said = finished(asked).stdout
    [line] = [line for line in said.splitlines() if line.startswith("RANKED ")]
    ranked = json.loads(line.removeprefix("RANKED "))
    expected = Reranker.load(place / "run/export/model").rank("caves", DOCUMENTS)
    assert [i for i, _ in ranked] == [i for i, _ in expected]
    assert [score for _, score in ranked] == pytest.approx([score for _, score in expected], abs=1e-3)


def test_what_is_pushed_names_itself_and_no_place_of_this_machine(place, module_hub, pushed, tiny_model_dir):
    files = module_hub.repos["models/ann/tiny"].files()
    assert b'Reranker.load("ann/tiny")' in files["README.md"]
    for name, content in files.items():
        assert str(place).encode() not in content, name
        assert str(tiny_model_dir.parent).encode() not in content, name


def test_the_token_is_sent_to_the_hub_and_stays_nowhere(place, module_hub, pushed):
    assert all(TOKEN not in request.path for request in module_hub.requests)
    assert {r.authorization for r in module_hub.requests if "/storage/" in r.path} == {None}
    assert f"Bearer {TOKEN}" in {r.authorization for r in module_hub.requests}
    assert TOKEN not in pushed.stdout + pushed.stderr
    assert SIGNATURE not in pushed.stdout + pushed.stderr
    written = [path for path in place.rglob("*") if path.is_file()]
    assert place / "run/export/log.txt" in written
    assert [path for path in written if TOKEN.encode() in path.read_bytes()] == []


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """A folder of which three files go to the storage."""
    folder = tmp_path / "big"
    folder.mkdir()
    for number in range(3):
        (folder / f"model-{number}.safetensors").write_bytes(bytes([number]) * 200_000)
    (folder / "config.json").write_text('{"a": 1}')
    return folder


def test_an_upload_that_was_refused_on_the_way_goes_on_with_what_is_missing(tmp_path, there, big):
    there.put_fault = lambda number: "refuse" if number else ""
    ended = upload(tmp_path, there, big)
    assert "refused: push=ann/tiny: Error while uploading 'model-" in ended.stderr
    assert "to the Hub. 403 Forbidden; the same command goes on from here" in ended.stderr
    assert SIGNATURE not in ended.stderr
    repo = there.repos["models/ann/tiny"]
    assert repo.files() == {}
    [arrived] = repo.stored
    there.put_fault, before = lambda number: "", len(there.transfers())
    finished(upload(tmp_path, there, big))
    sent = there.transfers()[before:]
    assert arrived not in sent
    assert sorted([*sent, arrived]) == sorted(repo.stored)
    assert repo.files() == contents(big)


def test_an_upload_that_was_killed_goes_on_with_what_is_missing(tmp_path, there, big):
    there.put_fault = lambda number: "hold" if number else ""
    process = subprocess.Popen(
        [sys.executable, "-c", UPLOAD, str(big), "ann/tiny"],
        env=environment(tmp_path, there),
        stderr=subprocess.DEVNULL,
    )
    assert there.held.wait(30)
    while not (arrived := list(there.repos["models/ann/tiny"].stored)):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there.release.set()
    assert there.repos["models/ann/tiny"].files() == {}
    there.put_fault, before = lambda number: "", len(there.transfers())
    finished(upload(tmp_path, there, big))
    assert len(there.transfers()[before:]) == 2
    assert arrived[0] not in there.transfers()[before:]
    assert there.repos["models/ann/tiny"].files() == contents(big)


def test_a_connection_that_breaks_is_tried_again(tmp_path, there, big):
    there.put_fault = lambda number: "" if number else "drop"
    finished(upload(tmp_path, there, big))
    assert len(there.transfers()) == 4
    assert there.repos["models/ann/tiny"].files() == contents(big)


@pytest.mark.parametrize(("fault", "seen"), [("drop", False), ("lose", True)])
def test_a_commit_whose_answer_is_lost_is_made_once_in_the_end(tmp_path, there, big, fault, seen):
    there.commit_fault = fault
    ended = upload(tmp_path, there, big)
    assert "refused: push=ann/tiny: the hub cannot be reached (Server disconnected" in ended.stderr
    assert (there.repos["models/ann/tiny"].files() == contents(big)) == seen
    there.commit_fault = ""
    finished(upload(tmp_path, there, big))
    assert len(there.transfers()) == 3
    assert len(there.repos["models/ann/tiny"].commits) == 2
    assert there.repos["models/ann/tiny"].files() == contents(big)


def test_the_repository_holds_the_folder_and_nothing_else_or_the_command_fails(tmp_path, there, big):
    finished(upload(tmp_path, there, big))
    (big / "model-2.safetensors").unlink()
    finished(upload(tmp_path, there, big))
    assert there.repos["models/ann/tiny"].files() == contents(big)
    (big / "config.json").write_text('{"a": 2}')
    there.commit_fault = "spoil"
    ended = upload(tmp_path, there, big)
    assert ended.returncode == 1
    assert "does not hold what was sent" in ended.stderr
    assert "these files differ, are missing or are too many: config.json\n" in ended.stderr


def test_pushed_rows_load_as_a_dataset(place, rows_hub):
    loaded = json.loads(finished(python(place, rows_hub, "-c", LOAD_DATASET)).stdout)
    assert len(loaded) == 6
    assert loaded == read_jsonl(place / "run/synth/rows.jsonl")
    repo = rows_hub.repos["datasets/ann/rows"]
    assert repo.files().keys() == {"README.md", "rows.jsonl"}
    assert not repo.is_private


def test_what_is_finished_is_pushed_to_another_branch_as_it_is(place, rows_hub, tiny_model_dir):
    repo = rows_hub.repos["datasets/ann/rows"]
    main, config = repo.files(), (place / "run/config.json").read_bytes()
    (place / "run/synth/rows.jsonl").write_text('{"qid": "a row that a second synthesis would not write"}\n')
    push = command(place, tiny_model_dir, "synth", "push=ann/rows", "hub.revision=step-40")
    ended = finished(python(place, rows_hub, *push))
    assert f"{rows_hub.endpoint}/datasets/ann/rows/tree/step-40: 2 files" in ended.stderr
    assert "(public repository)" in ended.stderr  # as it was
    assert repo.files() == main
    assert repo.files("step-40")["rows.jsonl"].startswith(b'{"qid": "a row that')
    assert (place / "run/config.json").read_bytes() == config
    assert (json.loads(config)["push"], json.loads(config)["hub"]["private"]) == (None, True)


@pytest.mark.parametrize(
    ("repo", "env", "expected"),
    [
        ("ann/tiny", {"HF_TOKEN": "hf_wrong"}, "the hub answers 401 Unauthorized (Invalid username or password.): it"),
        ("bob/tiny", {}, "the hub answers 403 Forbidden (You don't have the rights to create a model under bob): the"),
        (
            "ann/tiny",
            {"HF_ENDPOINT": "http://127.0.0.1:9"},
            "the hub cannot be reached ([Errno 111] Connection refused",
        ),
        ("ann/tiny", {"HF_HUB_OFFLINE": "1"}, "the hub cannot be reached (Cannot reach"),
    ],
)
def test_what_the_hub_refuses_is_told_in_a_sentence(tmp_path, there, big, repo, env, expected):
    ended = python(tmp_path, there, "-c", UPLOAD, str(big), repo, env=env)
    assert ended.returncode == 1
    assert f"refused: push={repo}: {expected}" in ended.stderr
    assert there.repos == {}


@pytest.mark.parametrize(
    ("repo", "settings", "message"),
    [
        ("tiny", HubConfig(), "push='tiny' must be user/name or organisation/name"),
        ("datasets/ann/tiny", HubConfig(), "push='datasets/ann/tiny' is no repository's name: "),
        ("ann/ti ny", HubConfig(), "push='ann/ti ny' is no repository's name: "),
        ("ann/tiny", HubConfig(revision="step 40"), "hub.revision='step 40' is no branch's name"),
        ("ann/tiny", HubConfig(revision="../main"), "hub.revision='../main' is no branch's name"),
    ],
)
def test_a_name_that_cannot_be_is_refused_without_asking_the_hub(repo, settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        hub.check(repo, settings)


def test_a_push_without_a_login_is_refused_before_any_work(tmp_path, place, there, tiny_model_dir):
    push = command(place, tiny_model_dir, "synth", "push=ann/tiny", f"run_dir={tmp_path / 'run'}")
    ended = python(tmp_path, there, *push, env={"HF_TOKEN": ""})
    expected = "nobody is logged in to the hub; run `hf auth login`, or set HF_TOKEN to a token that may write"
    assert (ended.returncode, ended.stderr) == (2, f"rl-rerank: push=ann/tiny: {expected}\n")
    assert not (tmp_path / "run").exists()
    assert there.requests == []


def test_a_dry_run_looks_at_the_name(capsys):
    assert main(["export", "experiment=quickstart_tokens", "push=tiny", "dry_run=true"]) == 2
    assert capsys.readouterr().err == "rl-rerank: push='tiny' must be user/name or organisation/name\n"


@pytest.mark.parametrize("name", ["run", "sft", "grpo", "rerank", "evaluate", "report"])
def test_only_export_and_synth_push(name, capsys):
    assert main([name, "experiment=quickstart_tokens", "push=ann/tiny"]) == 2
    expected = f"rl-rerank: push=ann/tiny belongs to the commands export and synth; {name} uploads nothing\n"
    assert capsys.readouterr().err == expected
