# SPDX-License-Identifier: Apache-2.0
# The controller's parts: scheduler, nightly, Flower, metrics, and the farm's commands. No deep-learning library.
ARG BASE=python:3.12-slim-bookworm
# hadolint ignore=DL3006
FROM ${BASE} AS build
ARG PIP_ARGS=
WORKDIR /src
COPY pyproject.toml constraints.txt ./
RUN --mount=type=bind,source=docker/install.sh,target=/install.sh \
    --mount=type=bind,source=docker/wheels,target=/wheels \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    PIP_ARGS="${PIP_ARGS}" sh /install.sh --dependencies /opt/farm
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
    && install -d -o farm -g farm -m 0750 /var/lib/inferfarm /var/lib/inferfarm/redis /secrets /store
COPY --from=build /opt/farm /opt/farm
ENV PATH=/opt/farm/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    FARM_HOME=/var/lib/inferfarm \
    FARM_STORE=/store
USER 10001:10001
WORKDIR /var/lib/inferfarm
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 CMD ["farm", "healthcheck", "scheduler"]
ENTRYPOINT ["farm"]
CMD ["scheduler"]
