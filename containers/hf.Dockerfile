# The load generator with transformers behind it: serve and sweep on the GPUs that the container is given.
#   docker build -f containers/hf.Dockerfile -t loadgen-hf .
#   docker run --rm --gpus all --shm-size 8g -v "$PWD/results:/data/results" loadgen-hf sweep exp1 --out results/exp1
FROM python:3.11.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY loadgen loadgen
COPY servers servers
COPY profiles profiles
RUN python -m venv /opt/loadgen && /opt/loadgen/bin/pip install --no-cache-dir '.[hf]'

FROM python:3.11.11-slim-bookworm
# torch compiles for the compiled engine with the machine's compiler; its version decides no figure, so any will do.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/loadgen /opt/loadgen
RUN useradd --uid 1000 loadgen && install -d -o loadgen /data
ENV PATH=/opt/loadgen/bin:$PATH HOME=/data
WORKDIR /data
USER 1000
ENTRYPOINT ["loadgen"]
CMD ["doctor"]
