# GPU image: gpu_spots and CuPy with the CUDA parts it needs at run time, for single runs, reports and
# batches. The driver comes from the host.
#   docker build -t gpu_spots .
#   docker run --rm --gpus all -v "$PWD:/data" gpu_spots find scan__mccd.h5
# The CPU backend needs no GPU and no --gpus. Files are written as user 1000;
# --user "$(id -u):$(id -g)" makes them yours.
#
# Packages have fixed versions and are checked against their hashes; `make lock` renews them.
# To fix the base image too, give its digest, as `docker buildx imagetools inspect python:3.13-slim`
# prints it:
#   docker build --build-arg BASE=python:3.13-slim@sha256:... -t gpu_spots .
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY docker docker
RUN python -m venv /opt/gpu_spots \
 && /opt/gpu_spots/bin/pip install --require-hashes --no-deps -r docker/requirements.txt \
 && python -m venv /opt/build \
 && /opt/build/bin/pip install --require-hashes --no-deps -r docker/build-requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY gpu_spots gpu_spots
COPY cpu_fallback cpu_fallback
# no build isolation: it would fetch what builds the wheel without a hash
RUN /opt/build/bin/pip wheel --no-build-isolation --no-deps --wheel-dir /wheels . \
 && /opt/gpu_spots/bin/pip install --no-index --no-deps /wheels/*.whl \
 && /opt/gpu_spots/bin/pip check \
 && /opt/gpu_spots/bin/gpu-spots --version

FROM ${BASE}
COPY --from=build /opt/gpu_spots /opt/gpu_spots
RUN useradd --uid 1000 --create-home spots
# what the NVIDIA container runtime gives this container
ENV PATH=/opt/gpu_spots/bin:$PATH \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER spots
WORKDIR /data
ENTRYPOINT ["gpu-spots"]
CMD ["--help"]
