# The load generator alone: run, sweep against endpoints that are up, report, compare. No engine, no torch.
#   docker build -f containers/loadgen.Dockerfile -t loadgen .
#   docker run --rm --network host -v "$PWD/results:/data/results" loadgen run --url http://127.0.0.1:8000 --out results/one
FROM python:3.11.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY loadgen loadgen
COPY servers servers
COPY profiles profiles
RUN python -m venv /opt/loadgen && /opt/loadgen/bin/pip install --no-cache-dir .

FROM python:3.11.11-slim-bookworm
COPY --from=build /opt/loadgen /opt/loadgen
RUN useradd --uid 1000 loadgen && install -d -o loadgen /data
ENV PATH=/opt/loadgen/bin:$PATH HOME=/data
WORKDIR /data
USER 1000
ENTRYPOINT ["loadgen"]
CMD ["--help"]
