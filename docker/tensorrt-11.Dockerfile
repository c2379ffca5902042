# SPDX-License-Identifier: Apache-2.0
# A GPU worker with TensorRT 11, from its wheels: no vendor's image is needed but CUDA's smallest.
ARG BASE=nvidia/cuda:13.0.1-base-ubuntu24.04
# hadolint ignore=DL3006
FROM ${BASE}
ARG PIP_ARGS=
ARG STACK_PACKAGES="tensorrt-cu13>=11,<12 torch torchvision onnx onnxruntime-gpu"
WORKDIR /src
# An Ubuntu base has no venv module in it; one that has (a Python image, a stand-in) is left as it is.
# hadolint ignore=DL3008
RUN python3 -c 'import ensurepip, venv' 2>/dev/null \
    || { apt-get update && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*; }
COPY pyproject.toml constraints.txt ./
RUN --mount=type=bind,source=docker/install.sh,target=/install.sh \
    --mount=type=bind,source=docker/wheels,target=/wheels \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    PIP_ARGS="${PIP_ARGS}" sh /install.sh --dependencies /opt/farm
# The stack is a virtual environment of its own: the daemon's libraries and TensorRT's never meet.
# hadolint ignore=DL3013,SC2086
RUN --mount=type=bind,source=docker/wheels,target=/wheels \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    python3 -m venv /opt/stack \
    && { [ -z "${STACK_PACKAGES}" ] \
    || /opt/stack/bin/pip install --no-cache-dir ${PIP_ARGS} --find-links /wheels ${STACK_PACKAGES}; }
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
    FARM_STACKS__TENSORRT11__PYTHON=/opt/stack/bin/python \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /var/lib/inferfarm
HEALTHCHECK --interval=30s --timeout=10s --start-period=180s --retries=3 CMD ["farm", "healthcheck", "worker"]
ENTRYPOINT ["farm"]
CMD ["worker"]
