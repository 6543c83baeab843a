# The sidecar for MLX models, on the CPU. From the top of the checkout:
#
#     docker build --file deploy/mlx.Dockerfile --tag penstock-mlx .
#
# It exists to try and test MLX where there is Linux. Containers do not reach Apple's GPU: on a Mac,
# run penstock-mlx on the machine itself.
#
# No weights are in it: models come by a volume, or from the hub into /cache.
# One stage: the compiler stays, because MLX compiles kernels while it runs (into /tmp, from where
# they must be loadable).

FROM python:3.11-slim

# OpenBLAS: without it, matrix products are many times slower.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libopenblas0-pthread \
    && rm -rf /var/lib/apt/lists/*

# The uid is fixed so that volumes and Kubernetes' securityContext can name it. A new volume that is
# mounted at /cache gets that directory's owner.
RUN groupadd --gid 10001 penstock \
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin penstock \
    && install --directory --owner=10001 --group=10001 /cache

# More arguments for pip, such as the index that it should use.
ARG PIP_ARGS=""

WORKDIR /src
COPY constraints.txt ./
COPY clients/python clients/python
COPY server server
COPY sidecars/mlx sidecars/mlx
RUN pip install --no-cache-dir --root-user-action=ignore $PIP_ARGS --constraint constraints.txt \
    ./clients/python ./server ./sidecars/mlx

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
ENTRYPOINT ["penstock-mlx"]
