#!/usr/bin/env bash
# A vLLM server for grpo stages with rollout=vllm_server, on GPUs of its own. CUDA only.
#   CUDA_VISIBLE_DEVICES=7 launch/vllm_server.sh Qwen/Qwen3-0.6B --max-model-len 4096
#   HOST=0.0.0.0 launch/vllm_server.sh Qwen/Qwen3-0.6B --port 8001    # for training on other machines
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
PATH=$PATH:$here/../.venv/bin:$here/../../../bin  # of a checkout, and of the environment that carries this script
export PYTHONSAFEPATH=1  # a folder of the caller's directory must not shadow a package of ours
# The endpoints that replace the weights belong to vLLM's development mode and have no authentication. By default only
# this machine reaches them; HOST changes that.
export VLLM_SERVER_DEV_MODE=1
exec vllm serve --host "${HOST:-127.0.0.1}" --weight-transfer-config '{"backend": "nccl"}' \
  --logprobs-mode processed_logprobs "$@"
