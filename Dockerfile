# Two images from one file: `train` (entrypoint finetune, PyTorch) and `grade` (entrypoint grader, no PyTorch).
#
#   docker build --target train -t finetune:train .
#   docker build --target grade -t finetune:grade .
#
# docs/container.md explains the arguments. The wheels contain CUDA's libraries; NVIDIA's base image adds the
# compatibility layer for older drivers. Any Debian or Ubuntu with Python 3.11 or newer can replace it.
ARG BASE_IMAGE=nvidia/cuda:13.2.0-base-ubuntu24.04

# Common base. tini is process 1: it forwards SIGTERM even before Python has installed its handlers, whereas the
# kernel drops a signal that process 1 does not handle.
FROM ${BASE_IMAGE} AS base
# hadolint ignore=DL3008 # the base image determines the versions; distributions remove superseded ones from their mirrors
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates python3 tini \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log
# Nobody becomes another user in here: su, passwd, mount and others from the base image lose their setuid bits.
RUN find / -xdev -type f -perm /6000 -exec chmod a-s {} +
# The group owns the volumes: any user the container runs as can be given the group and write there.
RUN groupadd --gid 10001 finetune \
 && useradd --uid 10001 --gid 10001 --home-dir /workspace --no-create-home --shell /usr/sbin/nologin finetune \
 && install -d -o 10001 -g 10001 -m 2775 /workspace /workspace/data /workspace/runs /workspace/weights
# The root file system may be read-only and the user may have no home: caches go to /tmp.
ENV PATH=/opt/finetune/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp
WORKDIR /workspace

# Build tools. The stages below mount /opt/pip while they install, so that none of it ends up in an image.
FROM base AS pip
# hadolint ignore=DL3008 # as above
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv /opt/pip \
 && python3 -m venv --without-pip /opt/finetune
COPY deploy/pip-install deploy/split_lock.py deploy/build.lock requirements/grade.lock requirements/train.lock /opt/pip/

FROM pip AS code
RUN --mount=type=cache,target=/srv --mount=type=secret,id=ca \
    /opt/pip/pip-install /opt/pip --require-hashes -r /opt/pip/build.lock
COPY pyproject.toml README.md LICENSE /src/
COPY finetune /src/finetune
COPY grader /src/grader
# Only our own code, so that changing it leaves the package layers cached.
RUN /opt/pip/bin/pip wheel --quiet --no-index --no-deps --no-build-isolation --wheel-dir /wheel /src \
 && /opt/pip/pip-install /opt/finetune --no-index --no-deps /wheel/*.whl

# Packages are installed in their final stage: copying gigabytes between stages would double build time and disk
# space. /mnt and /srv exist in any base image, so the mounts leave no empty folders behind.
FROM base AS grade-packages
COPY --from=pip /opt/finetune /opt/finetune
RUN --mount=type=bind,from=pip,source=/opt/pip,target=/mnt \
    --mount=type=cache,target=/srv --mount=type=secret,id=ca \
    /mnt/pip-install /opt/finetune --require-hashes -r /mnt/grade.lock

FROM base AS train-packages
COPY --from=pip /opt/finetune /opt/finetune
# Empty: everything from the lock file. Otherwise torch and torchvision, in the locked versions, come from this index
# and NVIDIA's packages are left out, for an image without CUDA.
ARG TORCH_INDEX_URL=""
RUN --mount=type=bind,from=pip,source=/opt/pip,target=/mnt \
    --mount=type=cache,target=/srv --mount=type=secret,id=ca \
    if [ -z "$TORCH_INDEX_URL" ]; then \
      /mnt/pip-install /opt/finetune --require-hashes -r /mnt/train.lock; \
    else \
      python3 /mnt/split_lock.py /mnt/train.lock /tmp/hashed.txt /tmp/torch.txt \
      && /mnt/pip-install /opt/finetune --require-hashes -r /tmp/hashed.txt \
      && /mnt/pip-install /opt/finetune --no-deps --index-url "$TORCH_INDEX_URL" -r /tmp/torch.txt \
      && rm /tmp/hashed.txt /tmp/torch.txt; \
    fi
# 1: download torchvision's ImageNet weights (45 MB) and check their hash, for a host without internet.
ARG IMAGENET_WEIGHTS=0
RUN --mount=type=secret,id=ca \
    if [ "$IMAGENET_WEIGHTS" = 1 ]; then \
      if [ -s /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi; \
      TORCH_HOME=/workspace/weights /opt/finetune/bin/python -c \
        "from torchvision.models import ResNet18_Weights as W; W.IMAGENET1K_V1.get_state_dict(check_hash=True)" \
      && chown -R 10001:10001 /workspace/weights && chmod -R g+rwX /workspace/weights; \
    fi

FROM grade-packages AS grade
COPY --from=code /opt/finetune /opt/finetune
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

FROM train-packages AS train
# Decoded images are cached for later runs; those that fit neither there nor into memory go to TMPDIR, which must be on
# a disk: /tmp is usually a tmpfs.
ENV TORCH_HOME=/workspace/weights \
    XDG_CACHE_HOME=/workspace/data/.cache \
    TMPDIR=/workspace/data
COPY --from=code /opt/finetune /opt/finetune
USER 10001:10001
VOLUME /workspace/data /workspace/runs /workspace/weights
# finetune finishes its step, writes a checkpoint and exits with 143.
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--", "finetune"]
CMD ["--help"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="finetune" \
      org.opencontainers.image.description="Trains ResNet-18 three ways on the same images and records the evidence" \
      org.opencontainers.image.licenses="BSD-3-Clause" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
