# The gateway, without models of its own. From the top of the checkout:
#
#     docker build --file deploy/gateway.Dockerfile --tag penstock-gateway .
#
# One stage: every dependency comes as a wheel, so no compiler has to be left behind.

FROM python:3.11-slim

# The uid is fixed so that volumes and Kubernetes' securityContext can name it.
RUN groupadd --gid 10001 penstock \
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin penstock

# More arguments for pip, such as the index that it should use.
ARG PIP_ARGS=""

WORKDIR /src
COPY constraints.txt ./
COPY clients/python clients/python
COPY server server
RUN pip install --no-cache-dir --root-user-action=ignore $PIP_ARGS --constraint constraints.txt \
    ./clients/python ./server

# In a container the loopback default would be out of everybody's reach; what may reach this port
# is decided outside. PENSTOCK_TARGET is for the health check, and for a `penstock` that is run in
# the container.
ENV PENSTOCK_LISTEN=[::]:50051 \
    PENSTOCK_LOG__FORMAT=json \
    PENSTOCK_TARGET=127.0.0.1:50051
EXPOSE 50051

USER 10001:10001
WORKDIR /
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=1m --interval=15s --timeout=10s --retries=3 \
    CMD ["penstock", "--timeout", "5", "health"]
ENTRYPOINT ["penstock-server"]
