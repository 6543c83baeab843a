# The sidecar for Hugging Face models. From the top of the checkout:
#
#     docker build --file deploy/hf.Dockerfile --tag penstock-hf .
#
# No weights are in it: models come by a volume, or from the hub into /cache.
# One stage: every dependency comes as a wheel, so no compiler has to be left behind.

FROM python:3.11-slim

# The uid is fixed so that volumes and Kubernetes' securityContext can name it. A new volume that is
# mounted at /cache gets that directory's owner.
RUN groupadd --gid 10001 penstock \
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin penstock \
    && install --directory --owner=10001 --group=10001 /cache

# More arguments for pip. Without any, it takes its index's default build of PyTorch, which on
# x86-64 is the large one for CUDA; an index with builds for the CPU alone is named here.
ARG PIP_ARGS=""

# PyTorch has a layer of its own, ahead of our code: that changes more often, and is small.
WORKDIR /src
COPY constraints.txt ./
RUN pip install --no-cache-dir --root-user-action=ignore $PIP_ARGS --constraint constraints.txt \
    torch
COPY clients/python clients/python
COPY server server
COPY sidecars/hf sidecars/hf
RUN pip install --no-cache-dir --root-user-action=ignore $PIP_ARGS --constraint constraints.txt \
    ./clients/python ./server ./sidecars/hf

# In a container the loopback default would be out of everybody's reach; what may reach this port
# is decided outside. PENSTOCK_TARGET is for the health check, and for a `penstock` that is run in
# the container.
ENV PENSTOCK_SIDECAR_LISTEN=[::]:50061 \
    PENSTOCK_SIDECAR_LOG__FORMAT=json \
    PENSTOCK_TARGET=127.0.0.1:50061 \
    HF_HOME=/cache/huggingface
EXPOSE 50061

USER 10001:10001
WORKDIR /
STOPSIGNAL SIGTERM
# SERVING means that the models are loaded: large ones take minutes, a download even longer.
HEALTHCHECK --start-period=10m --interval=15s --timeout=10s --retries=3 \
    CMD ["penstock", "--timeout", "5", "health"]
ENTRYPOINT ["penstock-hf"]
