#!/usr/bin/env bash
# Run every stage on one machine; sft and grpo use all its GPUs, sharded with ZeRO-3. Without a GPU: two CPU processes.
#   launch/one_node.sh experiment=quickstart engine=vllm
#   CUDA_VISIBLE_DEVICES=0,1 launch/one_node.sh experiment=quickstart launcher.strategy=ddp
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
PATH=$PATH:$here/../.venv/bin:$here/../../../bin  # of a checkout, and of the environment that carries this script
export PYTHONSAFEPATH=1  # a folder of the caller's directory must not shadow a package of ours
if [[ -v CUDA_VISIBLE_DEVICES ]]; then
  IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
  count=${#gpus[@]}
else
  count=$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU') || count=0
fi
((count)) || count=2
exec rl-rerank run launcher=accelerate launcher.strategy=zero3 launcher.num_processes="$count" "$@"
