# A server for one exported model.
#
#   docker build -f docker/serving.Dockerfile -t rl-rerank-serving .
#   docker run -e RL_RERANK_API_KEY -p 8000:8000 -v "$PWD/runs/quickstart/export/model:/model:ro" rl-rerank-serving \
#       name=quickstart
#
# Without the key it does not start. TORCH_INDEX is the package index that torch comes from, such as that of builds for
# the CPU; empty: pip's own, whose builds are for CUDA (docker run --gpus all).
FROM python:3.11-slim-bookworm AS build
WORKDIR /source
RUN pip install --no-cache-dir build==1.3.0
COPY . .
RUN python -m build --wheel --outdir /wheels

FROM python:3.11-slim-bookworm
ARG TORCH_INDEX=
RUN PIP_INDEX_URL="$TORCH_INDEX" pip install --no-cache-dir torch==2.13.0
# The wheel has the version of this checkout, and pyproject.toml the bounds of what it needs.
# hadolint ignore=DL3013
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir "$(echo /wheels/*.whl)[train,serve]" \
    && useradd --create-home --uid 1000 reranker
USER 1000
WORKDIR /home/reranker
EXPOSE 8000
# A model takes some time to load; /healthz answers once it has.
HEALTHCHECK --start-period=300s --interval=30s --timeout=5s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
# As a list, so that the server itself has SIGTERM and answers what it has accepted. Further settings follow the image.
ENTRYPOINT ["rl-rerank", "serve", "model=/model", "host=0.0.0.0", "port=8000"]
