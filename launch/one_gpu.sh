#!/usr/bin/env bash
# Run every stage on one GPU (or on the CPU), one process each.
#   launch/one_gpu.sh experiment=quickstart engine=vllm
set -euo pipefail
export PYTHONSAFEPATH=1  # a folder of the caller's directory must not shadow a package of ours
exec rl-rerank run launcher=local "$@"
