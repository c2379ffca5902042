# SPDX-License-Identifier: Apache-2.0
# A Jetson worker for JetPack 6 (L4T r36): Python 3.10 and TensorRT 10.3 of the base are the stack. aarch64 only.
ARG BASE=nvcr.io/nvidia/l4t-jetpack:r36.4.0
# hadolint ignore=DL3006
FROM ${BASE}
ARG PIP_ARGS=
ARG STACK_PACKAGES=""
WORKDIR /src
COPY pyproject.toml constraints.txt ./
RUN --mount=type=bind,source=docker/install.sh,target=/install.sh \
    --mount=type=bind,source=docker/wheels,target=/wheels \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    PIP_ARGS="${PIP_ARGS}" sh /install.sh --dependencies /opt/farm
# What the vendor's image lacks, into the vendor's own Python; nothing unless asked for.
# hadolint ignore=DL3013,SC2086
RUN --mount=type=bind,source=docker/wheels,target=/wheels \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    [ -z "${STACK_PACKAGES}" ] \
    || python3 -m pip install --no-cache-dir ${PIP_ARGS} --find-links /wheels ${STACK_PACKAGES}
COPY LICENSE README.md ./
COPY farm farm
COPY scheduler scheduler
COPY workers workers
RUN --mount=type=bind,source=docker/install.sh,target=/install.sh \
    --mount=type=bind,source=docker/wheels,target=/wheels \
    PIP_ARGS="${PIP_ARGS}" sh /install.sh /opt/farm \
    && groupadd --gid 10001 farm \
    && useradd --uid 10001 --gid farm --home-dir /var/lib/inferfarm --no-create-home --shell /usr/sbin/nologin farm \
    && install -d -o farm -g farm -m 0750 /var/lib/inferfarm /store \
    && install -d -m 1777 /run/lock/inferfarm
ENV PATH=/opt/farm/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    FARM_HOME=/var/lib/inferfarm \
    FARM_STORE=/store \
    FARM_STACKS__JETPACK6__PYTHON=/usr/bin/python3 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /var/lib/inferfarm
HEALTHCHECK --interval=30s --timeout=10s --start-period=180s --retries=3 CMD ["farm", "healthcheck", "worker"]
ENTRYPOINT ["farm"]
CMD ["worker"]
