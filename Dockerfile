# GPU image: gpu_spots and CuPy with the CUDA parts it needs at run time. The driver comes from the host.
#   docker build -t gpu_spots .
#   docker run --rm --gpus all -v "$PWD:/data" gpu_spots find scan__mccd.h5
# The CPU backend needs no GPU and no --gpus. Files are written as user 1000; --user "$(id -u):$(id -g)" makes it yours.
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY gpu_spots gpu_spots
COPY cpu_fallback cpu_fallback
RUN python -m venv /opt/gpu_spots \
 && /opt/gpu_spots/bin/pip install --no-cache-dir ".[gpu,images,plugins]"

FROM python:3.13-slim
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
