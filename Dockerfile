# Two images from one file: `train` (entrypoint finetune, PyTorch) and `grade` (entrypoint grader, no PyTorch).
#
#   docker build --target train -t finetune:train .
#   docker build --target grade -t finetune:grade .
#
# docs/container.md explains the arguments. PyTorch's wheels contain CUDA's libraries; NVIDIA's base image adds the
# compatibility layer for older drivers. Any Debian or Ubuntu with Python 3.11 or newer can replace either base.
ARG BASE_IMAGE=nvidia/cuda:13.2.0-base-ubuntu24.04
ARG GRADE_BASE_IMAGE=debian:13-slim
# No file is newer. The commit's time would do as well; reproducible builds set the variable.
ARG SOURCE_DATE_EPOCH=1580601600

# One stage a helper or lock file: a step runs again only if what it mounts has changed.
FROM scratch AS base-script
COPY deploy/base /

# Build tools. The stages below mount /opt/pip while they install, so that none of it ends up in an image.
FROM ${GRADE_BASE_IMAGE} AS pip
# hadolint ignore=DL3008 # the base image determines the versions; distributions remove superseded ones from their mirrors
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv /opt/pip
COPY deploy/pip-install /opt/pip/

FROM pip AS locks
COPY deploy/split_lock.py requirements/grade.lock requirements/train.lock /locks/
RUN mkdir /locks/cuda /locks/torch /locks/others /locks/grade \
 && python3 /locks/split_lock.py /locks/train.lock /locks/others/lock /locks/torch/pins /locks/torch/lock /locks/cuda/lock \
 && cp /locks/grade.lock /locks/grade/lock
FROM scratch AS cuda-lock
COPY --from=locks /locks/cuda /
FROM scratch AS torch-lock
COPY --from=locks /locks/torch /
FROM scratch AS others-lock
COPY --from=locks /locks/others /
FROM scratch AS grade-lock
COPY --from=locks /locks/grade /

FROM pip AS wheel
ARG SOURCE_DATE_EPOCH
COPY deploy/build.lock /src/
RUN --mount=type=cache,target=/srv --mount=type=secret,id=ca,target=/srv/ca \
    if [ -s /srv/ca ]; then export PIP_CERT=/srv/ca; fi; \
    /opt/pip/bin/pip --cache-dir /srv install --quiet --require-hashes -r /src/build.lock
COPY pyproject.toml README.md LICENSE /src/
COPY finetune /src/finetune
COPY grader /src/grader
RUN /opt/pip/bin/pip wheel --quiet --no-index --no-deps --no-build-isolation --wheel-dir /wheel /src

# tini is process 1: it forwards SIGTERM even before Python has installed its handlers, whereas the kernel drops a
# signal that process 1 does not handle. The root file system may be read-only and the user may have no home: caches go
# to /tmp. Packages are installed in their final stage: copying gigabytes between stages would double build time and
# disk space. /media, /mnt and /srv exist in any base image, so the mounts leave no empty folders behind; the secret is
# mounted into one of them, because its usual place would leave one.
FROM ${GRADE_BASE_IMAGE} AS grade
ARG SOURCE_DATE_EPOCH
RUN --mount=type=bind,from=base-script,target=/mnt /mnt/base python3 tini
ENV PATH=/opt/finetune/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp
WORKDIR /workspace
RUN --mount=type=bind,from=pip,source=/opt/pip,target=/mnt --mount=type=bind,from=grade-lock,target=/media \
    --mount=type=cache,target=/srv --mount=type=secret,id=ca,target=/srv/ca \
    /mnt/pip-install --require-hashes -r /media/lock
# The grader needs neither the rest of the wheel nor the weights in it.
RUN --mount=type=bind,from=pip,source=/opt/pip,target=/mnt --mount=type=bind,from=wheel,source=/wheel,target=/media \
    /mnt/pip-install --no-index --no-deps --no-cache-dir /media/*.whl \
 && rm -r /opt/finetune/lib/python3*/site-packages/finetune /opt/finetune/bin/finetune \
 && touch -d "@$SOURCE_DATE_EPOCH" /opt/finetune/lib/python3*/site-packages /opt/finetune/bin
USER 10001:10001
VOLUME /workspace/runs
ENTRYPOINT ["tini", "--", "grader"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="finetune grader" \
      org.opencontainers.image.description="Checks which expected properties a finetune run has; exit code 0, 1 or 2" \
      org.opencontainers.image.licenses="BSD-3-Clause" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM ${BASE_IMAGE} AS train
ARG SOURCE_DATE_EPOCH
RUN --mount=type=bind,from=base-script,target=/mnt /mnt/base ca-certificates python3 tini
# Decoded images are cached for later runs; those that fit neither there nor into memory go to TMPDIR, which must be on
# a disk: /tmp is usually a tmpfs. What torch.compile caches is small, and for this image alone.
ENV PATH=/opt/finetune/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    TORCH_HOME=/workspace/weights \
    TORCHINDUCTOR_CACHE_DIR=/tmp/inductor \
    TRITON_CACHE_DIR=/tmp/triton \
    XDG_CACHE_HOME=/workspace/data/.cache \
    TMPDIR=/workspace/data
WORKDIR /workspace
# Empty: everything from the lock file. Otherwise torch and torchvision, in the locked versions, come from this index
# and NVIDIA's packages are left out, for an image without CUDA.
ARG TORCH_INDEX_URL=""
# The largest layers first. Each changes only with its own part of the lock file.
RUN --mount=type=bind,from=pip,source=/opt/pip,target=/mnt --mount=type=bind,from=cuda-lock,target=/media \
    --mount=type=cache,target=/srv --mount=type=secret,id=ca,target=/srv/ca \
    if [ -z "$TORCH_INDEX_URL" ]; then TMPDIR=/tmp /mnt/pip-install --no-deps --require-hashes -r /media/lock; fi
RUN --mount=type=bind,from=pip,source=/opt/pip,target=/mnt --mount=type=bind,from=torch-lock,target=/media \
    --mount=type=cache,target=/srv --mount=type=secret,id=ca,target=/srv/ca \
    if [ -z "$TORCH_INDEX_URL" ]; then TMPDIR=/tmp /mnt/pip-install --no-deps --require-hashes -r /media/lock; \
    else TMPDIR=/tmp /mnt/pip-install --no-deps --index-url "$TORCH_INDEX_URL" -r /media/pins; fi
RUN --mount=type=bind,from=pip,source=/opt/pip,target=/mnt --mount=type=bind,from=others-lock,target=/media \
    --mount=type=cache,target=/srv --mount=type=secret,id=ca,target=/srv/ca \
    TMPDIR=/tmp /mnt/pip-install --no-deps --require-hashes -r /media/lock
# 1: download torchvision's ImageNet weights (45 MB) and check their hash, for a host without internet.
ARG IMAGENET_WEIGHTS=0
RUN --mount=type=cache,target=/srv --mount=type=secret,id=ca,target=/srv/ca \
    if [ "$IMAGENET_WEIGHTS" = 1 ]; then \
      if [ -s /srv/ca ]; then export SSL_CERT_FILE=/srv/ca; fi; \
      python -c "from torchvision.models import ResNet18_Weights as W; W.IMAGENET1K_V1.get_state_dict(check_hash=True)" \
      && chown -R 10001:10001 /workspace/weights && chmod -R g+rwX /workspace/weights; \
    fi
COPY deploy/shared-umask /opt/finetune/bin/
# Only our own code, so that changing it leaves the packages cached.
RUN --mount=type=bind,from=pip,source=/opt/pip,target=/mnt --mount=type=bind,from=wheel,source=/wheel,target=/media \
    TMPDIR=/tmp /mnt/pip-install --no-index --no-deps --no-cache-dir /media/*.whl
USER 10001:10001
VOLUME /workspace/data /workspace/runs /workspace/weights
# finetune finishes its step, writes a checkpoint and exits with 143.
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--", "shared-umask", "finetune"]
CMD ["--help"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="finetune" \
      org.opencontainers.image.description="Trains ResNet-18 three ways on the same images and records the evidence" \
      org.opencontainers.image.licenses="BSD-3-Clause" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
