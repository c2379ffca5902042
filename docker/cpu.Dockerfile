# SPDX-License-Identifier: Apache-2.0
# A worker for a machine's CPU: pytorch, torch_compile, onnxruntime_cpu, openvino.
ARG BASE=python:3.12-slim-bookworm
# hadolint ignore=DL3006
FROM ${BASE} AS build
ARG PIP_ARGS=
ARG EXTRAS=cpu
WORKDIR /src
COPY pyproject.toml constraints.txt ./
# EXTRAS is words of its own: extras of pyproject.toml, or none for a worker of the `fake` workflow alone.
# hadolint ignore=SC2086
RUN --mount=type=bind,source=docker/install.sh,target=/install.sh \
    --mount=type=bind,source=docker/wheels,target=/wheels \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    PIP_ARGS="${PIP_ARGS}" sh /install.sh --dependencies /opt/farm ${EXTRAS}
COPY LICENSE README.md ./
COPY farm farm
COPY scheduler scheduler
COPY workers workers
RUN --mount=type=bind,source=docker/install.sh,target=/install.sh \
    --mount=type=bind,source=docker/wheels,target=/wheels \
    PIP_ARGS="${PIP_ARGS}" sh /install.sh /opt/farm

# hadolint ignore=DL3006
FROM ${BASE}
RUN groupadd --gid 10001 farm \
    && useradd --uid 10001 --gid farm --home-dir /var/lib/inferfarm --no-create-home --shell /usr/sbin/nologin farm \
    && install -d -o farm -g farm -m 0750 /var/lib/inferfarm /store \
    && install -d -m 1777 /run/lock/inferfarm
COPY --from=build /opt/farm /opt/farm
ENV PATH=/opt/farm/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    FARM_HOME=/var/lib/inferfarm \
    FARM_STORE=/store
USER 10001:10001
WORKDIR /var/lib/inferfarm
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 CMD ["farm", "healthcheck", "worker"]
ENTRYPOINT ["farm"]
CMD ["worker"]
