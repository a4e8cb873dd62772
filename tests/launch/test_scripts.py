"""The scripts under launch/, started for real as far as a CPU allows; srun, scontrol, nvidia-smi and vllm stand in."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted((*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")))
EXPERIMENT = """\
# @package _global_
stages:
  synth: {kind: synth, mixture: {pointwise: 8}}
  sft: {kind: sft, batch_size: 4, micro_batch: 2, max_steps: 1}
"""
RANKED = """\
# @package _global_
stages:
  first_stage: {kind: rerank, model: first_stage}
"""
SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NODELIST": "node[0-1]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_GPUS_ON_NODE": "8",
    "SLURM_CPUS_PER_TASK": "64",
}
SBATCH_OPTIONS = set(
    """account array begin chdir cluster-constraint clusters comment constraint container contiguous core-spec
    cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot dependency distribution error exclude
    exclusive export export-file get-user-env gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task gres
    gres-flags hint hold ignore-pbs input job-name kill-on-invalid-dep licenses mail-type mail-user mcs-label mem
    mem-bind mem-per-cpu mem-per-gpu mincpus network nice no-kill no-requeue nodefile nodelist nodes ntasks
    ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket open-mode output overcommit oversubscribe
    partition power prefer priority profile propagate qos quiet reboot requeue reservation signal sockets-per-node
    spread-job stepmgr switches test-only thread-spec threads-per-core time time-min tmp tres-bind tres-per-task uid
    use-min-nodes verbose wait wait-all-nodes wckey wrap""".split()  # noqa: SIM905
)
"""The long options of sbatch, from its manual."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with two experiments, their data and an empty bin/."""
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/tiny.yaml").write_text(EXPERIMENT)
    (tmp_path / "conf/experiment/ranked.yaml").write_text(RANKED)
    (tmp_path / "bin").mkdir()
    with (tmp_path / "data.jsonl").open("w") as file:
        for i in range(12):
            candidates = [{"docid": f"{i}{c}", "text": f"the text {c} {i}"} for c in "abc"]
            row = {"qid": f"q{i}", "query": f"query {i}", "candidates": candidates, "qrels": {f"{i}a": 1}}
            file.write(json.dumps({**row, "split": "test" if i < 3 else "train"}) + "\n")
    return tmp_path


def stand_in(folder: Path, name: str, script: str) -> None:
    (folder / "bin" / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
    (folder / "bin" / name).chmod(0o755)


def start(folder: Path, script: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "NODE_", "MASTER_"))}
    path = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**kept, "PATH": path, "OMP_NUM_THREADS": "1", **variables}
    with (folder / "output.txt").open("a") as output:
        return subprocess.Popen(
            ["bash", str(LAUNCH / script), *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
        )


def output_of(folder: Path, script: str, *arguments: str, **variables: str) -> str:
    status = start(folder, script, *arguments, **variables).wait(timeout=600)
    shown = (folder / "output.txt").read_text()
    assert status == 0, shown[-4000:]
    return shown


def tiny(model: Path, *more: str) -> list[str]:
    data = ["data=jsonl", "data.path=data.jsonl", "run_dir=run", "report_to=[]"]
    return ["experiment=tiny", *data, f"model.path={model}", "model.max_prompt_tokens=400", *more]


RANK = ["experiment=ranked", "data=jsonl", "data.path=data.jsonl", "run_dir=run"]


def finished(folder: Path) -> list[str]:
    return [json.loads(line)["stage"] for line in (folder / "run/ledger.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_strict_short_and_clean(script: Path):
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert lines[1].startswith("# ")
    assert "set -euo pipefail" in lines
    assert any(line.startswith("export PYTHONSAFEPATH=1") for line in lines)
    assert len(lines) <= 45
    assert os.access(script, os.X_OK)
    shellcheck = Path(sys.executable).with_name("shellcheck")
    ended = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout


def test_one_gpu_runs_every_stage(folder: Path):
    output_of(folder, "one_gpu.sh", *RANK)
    assert finished(folder) == ["first_stage"]


@pytest.mark.parametrize(
    ("variables", "arguments", "expected"),
    [
        ({}, [], {"num_processes": "3", "strategy": "zero3", "kind": "accelerate"}),
        ({"CUDA_VISIBLE_DEVICES": "0,2"}, [], {"num_processes": "2"}),
        ({"CUDA_VISIBLE_DEVICES": ""}, [], {"num_processes": "2"}),
        ({}, ["launcher.strategy=zero2", "launcher.num_processes=6"], {"num_processes": "6", "strategy": "zero2"}),
        ({}, ["launcher=local", "launcher.num_processes=1"], {"num_processes": "1", "kind": "local"}),
    ],
)
def test_one_node_takes_all_gpus_and_what_comes_later_wins(
    folder: Path, variables: Mapping[str, str], arguments: list[str], expected: dict[str, str]
):
    stand_in(folder, "nvidia-smi", "echo 'GPU 0: A'; echo 'GPU 1: B'; echo '  MIG 1g'; echo 'GPU 2: C'")
    shown = output_of(folder, "one_node.sh", *RANK, "dry_run=true", *arguments, **variables)
    launcher = shown[shown.index("launcher:") :]
    found = {key: re.search(rf"^  {key}: (.*)", launcher, re.MULTILINE) for key in expected}
    assert {key: match and match[1] for key, match in found.items()} == expected
    assert not (folder / "run").exists()


def test_one_node_trains_on_two_processes_without_a_gpu(folder: Path, tiny_model_dir: Path):
    (folder / "peft.py").write_text("raise ImportError('a file of the working directory was imported')")
    shown = output_of(folder, "one_node.sh", *tiny(tiny_model_dir), CUDA_VISIBLE_DEVICES="")
    assert finished(folder) == ["synth", "sft"]
    assert "zero3" in (folder / "run/config.json").read_text()
    # Each process reads the rows.
    assert shown.count("sft on 8 rows") == 2


def test_two_machines_meet_in_the_training_stage(folder: Path, tiny_model_dir: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    machine = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GPUS_PER_NODE": "1"}
    arguments = tiny(tiny_model_dir, "launcher.strategy=ddp")
    second = start(folder, "multi_node.sh", *arguments, **machine, SLURM_NODEID="1", CUDA_VISIBLE_DEVICES="")
    shown = output_of(folder, "multi_node.sh", *arguments, **machine, NODE_RANK="0", CUDA_VISIBLE_DEVICES="")
    assert second.wait(timeout=60) == 0
    assert "sft: waits for machine 0 to finish" in shown
    assert "sft: joins as machine 1 of 2" in shown
    assert shown.count("sft on 8 rows") == 2
    assert finished(folder) == ["synth", "sft"]
    # A machine that comes late finds nothing to do.
    assert "sft: done, skipped" in output_of(folder, "multi_node.sh", *arguments, **machine, NODE_RANK="1")


@pytest.mark.parametrize("missing", ["NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "GPUS_PER_NODE"])
def test_several_machines_refuse_a_rendezvous_that_is_not_whole(folder: Path, missing: str):
    machine = {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1", "GPUS_PER_NODE": "1"}
    machine[missing] = ""
    assert start(folder, "multi_node.sh", *RANK, **machine).wait(timeout=60) == 2
    assert f"multi_node.sh: {missing} is not set" in (folder / "output.txt").read_text()


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_no_process_outlives_a_conductor_that_is_ended(folder: Path, tiny_model_dir: Path, how: str):
    arguments = tiny(
        tiny_model_dir, "launcher.strategy=ddp", "stages.sft.max_steps=100000", "stages.sft.warmup_ratio=0"
    )
    process = start(folder, "one_node.sh", *arguments, CUDA_VISIBLE_DEVICES="")
    wait_for(folder / "run/sft/metrics.jsonl", process)
    # The runner, accelerate, and its two processes.
    assert len(at_work_in(folder)) >= 4
    getattr(process, how)()
    assert process.wait(timeout=60) == (75 if how == "terminate" else -signal.SIGKILL)
    deadline = time.monotonic() + 30
    while at_work_in(folder):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def at_work_in(folder: Path) -> list[Path]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == folder.resolve() and (process / "cmdline").read_bytes():
                found.append(process)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


SRUN = """\
echo "$MASTER_ADDR:$MASTER_PORT $NNODES x $GPUS_PER_NODE, $SRUN_CPUS_PER_TASK cpus: $*" >srun.txt
[[ $STATUS ]] && exit "$STATUS"
trap 'exit "$AFTER"' USR1
touch ready
while :; do sleep 0.05; done
"""
SCONTROL = """\
case $1 in
  show) echo node0; echo node1 ;;
  *) echo "$*" >>scontrol.txt ;;
esac
"""


@pytest.fixture
def cluster(folder: Path) -> Path:
    """The folder with stand-ins for Slurm's programs; `srun` ends as $STATUS, or with $AFTER when it is interrupted."""
    stand_in(folder, "srun", SRUN)
    stand_in(folder, "scontrol", SCONTROL)
    return folder


@pytest.mark.parametrize(("status", "is_requeued"), [(0, False), (3, False), (75, True)])
def test_a_job_that_ends_by_itself_keeps_its_status_and_is_requeued_if_that_asks_for_it(
    cluster: Path, status: int, is_requeued: bool
):
    process = start(cluster, "slurm.sbatch", "a=1", "b=c d", STATUS=str(status), **SLURM)
    assert process.wait(timeout=60) == status
    # 20000 + 4711
    step = "node0:24711 2 x 8, 64 cpus: --kill-on-bad-exit=1 launch/multi_node.sh a=1 b=c d\n"
    assert (cluster / "srun.txt").read_text() == step
    assert (cluster / "scontrol.txt").exists() == is_requeued


@pytest.mark.parametrize(("after", "is_requeued"), [(75, True), (137, True), (0, False)])
def test_a_job_whose_time_is_up_ends_its_step_and_is_requeued_if_something_is_left(
    cluster: Path, after: int, is_requeued: bool
):
    process = start(cluster, "slurm.sbatch", STATUS="", AFTER=str(after), **SLURM)
    wait_for(cluster / "ready", process)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=60) == after
    assert (cluster / "scontrol.txt").exists() == is_requeued
    if is_requeued:
        assert (cluster / "scontrol.txt").read_text() == "requeue 4711\n"


def test_a_step_of_a_job_is_a_machine_of_the_run(folder: Path):
    stand_in(folder, "srun", f'shift; cd {ROOT}; SLURM_NODEID=1 exec "$@"')
    stand_in(folder, "scontrol", SCONTROL)
    paths = [f"--config-dir={folder / 'conf'}", f"data.path={folder / 'data.jsonl'}", f"run_dir={folder / 'run'}"]
    shown = output_of(folder, "slurm.sbatch", "experiment=ranked", "data=jsonl", *paths, "dry_run=true", **SLURM)
    for line in ("num_processes: 16", "num_machines: 2", "machine_rank: 1", "main_process_ip: node0"):
        assert f"  {line}\n" in shown


def test_the_directives_of_a_job_are_options_of_sbatch():
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    directives = {}
    for line in lines:
        if match := re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(\S+))?", line):
            directives[match[1]] = match[2]
        # sbatch stops reading at the first command.
        elif line and not line.startswith("#"):
            break
        else:
            assert "SBATCH" not in line
    assert directives.keys() <= SBATCH_OPTIONS
    assert len(directives) == sum(line.startswith("#SBATCH") for line in lines) == 10
    assert directives["ntasks-per-node"] == "1"
    assert directives["signal"] == "B:USR1@300"
    assert directives["open-mode"] == "append"


def test_the_vllm_server_is_reached_from_this_machine_alone_unless_asked(folder: Path):
    stand_in(folder, "vllm", 'echo "$VLLM_SERVER_DEV_MODE $*"')
    shown = output_of(folder, "vllm_server.sh", "some/model", "--port", "8001")
    assert shown == (
        '1 serve --host 127.0.0.1 --weight-transfer-config {"backend": "nccl"} --logprobs-mode processed_logprobs '
        "some/model --port 8001\n"
    )
    (folder / "output.txt").unlink()
    assert "serve --host 0.0.0.0 " in output_of(folder, "vllm_server.sh", "some/model", HOST="0.0.0.0")


PARSED = """
import sys
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = FlexibleArgumentParser()
ServeSubcommand().subparser_init(parser.add_subparsers())
found = parser.parse_args(sys.argv[1:])
print(found.model_tag, found.host, found.port, found.logprobs_mode, found.weight_transfer_config.backend)
"""


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
def test_the_installed_vllm_takes_the_servers_arguments(folder: Path):
    stand_in(folder, "vllm", "printf '%s\\n' \"$@\"")
    arguments = output_of(folder, "vllm_server.sh", "some/model", "--port", "8001").splitlines()
    ended = subprocess.run([sys.executable, "-c", PARSED, *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.splitlines()[-1] == "some/model 127.0.0.1 8001 processed_logprobs nccl"
