#!/usr/bin/env bash
# A run on several machines: start the same command on each, with a shared run_dir.
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=node0 MASTER_PORT=29500 GPUS_PER_NODE=8 \
#     launch/multi_node.sh experiment=quickstart run_dir=/shared/run
# NODE_RANK is 0 on MASTER_ADDR, which runs every stage; the others join sft and grpo. Under Slurm it defaults to
# SLURM_NODEID.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
PATH=$PATH:$here/../.venv/bin:$here/../../../bin  # of a checkout, and of the environment that carries this script
export PYTHONSAFEPATH=1  # a folder of the caller's directory must not shadow a package of ours
NODE_RANK=${NODE_RANK-${SLURM_NODEID-}}
for name in NNODES NODE_RANK MASTER_ADDR MASTER_PORT GPUS_PER_NODE; do
  if [[ -z ${!name-} ]]; then
    echo "multi_node.sh: $name is not set; every machine needs NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT and" \
      "GPUS_PER_NODE" >&2
    exit 2
  fi
done
exec rl-rerank run launcher=accelerate launcher.strategy=zero3 launcher.num_processes="$((NNODES * GPUS_PER_NODE))" \
  launcher.num_machines="$NNODES" launcher.machine_rank="$NODE_RANK" \
  launcher.main_process_ip="$MASTER_ADDR" launcher.main_process_port="$MASTER_PORT" "$@"
