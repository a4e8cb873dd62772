#!/usr/bin/env bash
# Run every stage on one GPU (or on the CPU), one process each.
#   launch/one_gpu.sh experiment=quickstart engine=vllm
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
PATH=$PATH:$here/../.venv/bin:$here/../../../bin  # of a checkout, and of the environment that carries this script
export PYTHONSAFEPATH=1  # a folder of the caller's directory must not shadow a package of ours
exec rl-rerank run launcher=local "$@"
