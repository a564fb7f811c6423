# WFR on NVIDIA GPUs. vLLM's image brings CUDA, PyTorch and vLLM in versions that fit each other:
#   docker build -f cluster/docker/gpu.Dockerfile -t wfr:gpu .
ARG VLLM=v0.32.0
FROM vllm/vllm-openai:${VLLM}
RUN apt-get update \
    && apt-get install -y --no-install-recommends bubblewrap wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 ray
WORKDIR /opt/wfr
COPY . .
# WFR is text only: these three break the import of model classes where their builds do not match.
RUN pip uninstall -y torchvision torchaudio torchcodec \
    && pip install --no-cache-dir ".[run]"
USER ray
WORKDIR /home/ray
ENTRYPOINT []
CMD ["wfr", "--help"]
