# WFR without a GPU, in the exact versions of requirements/cpu.lock:
#   docker build -f cluster/docker/cpu.Dockerfile -t wfr:cpu \
#       --build-arg TORCH_INDEX=<address of PyTorch's CPU wheels> .
FROM python:3.11-slim-bookworm
ARG TORCH_INDEX=""
RUN apt-get update \
    && apt-get install -y --no-install-recommends bubblewrap g++ make ninja-build wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 ray
WORKDIR /opt/wfr
COPY requirements ./requirements
RUN pip install --no-cache-dir --no-deps \
    ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} --requirement requirements/cpu.lock
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation .
USER ray
WORKDIR /home/ray
ENTRYPOINT []
CMD ["wfr", "--help"]
