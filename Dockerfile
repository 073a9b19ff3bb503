# glmc-engine in a container; the project's CI does not build it.
#
#   docker build -t glmc-engine .
#   docker run --rm glmc-engine                                              # the demo, on the CPU
#   docker run --rm --gpus all glmc-engine info                              # with NVIDIA's container toolkit: finds the GPU
#   docker run --rm --gpus all -v "$PWD:/data" glmc-engine train --preset cifar10-lt-if100 --data cifar10-if100.lt --out runs/c10

FROM rust:1.89-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked && strip target/release/glmc-engine

# NVRTC compiles the kernels on the first use of a GPU; libcuda comes from the host's driver.
# Kernels of CUDA 13 need a driver for it: under one for CUDA 12, build with --build-arg NVRTC=nvidia-cuda-nvrtc-cu12.
FROM python:3.13-slim-bookworm AS nvrtc
ARG NVRTC="nvidia-cuda-nvrtc==13.0.*"
RUN pip install --no-cache-dir --target /opt "$NVRTC" && mv "$(dirname /opt/nvidia/*/lib/libnvrtc.so.1[23])" /opt/nvrtc

FROM debian:bookworm-slim
COPY --from=build /src/target/release/glmc-engine /usr/local/bin/
COPY --from=nvrtc /opt/nvrtc /opt/nvrtc
ENV LD_LIBRARY_PATH=/opt/nvrtc NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /data
ENTRYPOINT ["glmc-engine"]
CMD ["train"]
