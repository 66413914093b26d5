# syntax=docker/dockerfile:1
#
# CPU image:   docker build -t plumbline .
# CUDA image:  docker build -t plumbline:cuda --build-arg DEVICE=cuda --build-arg CUDA_COMPUTE_CAP=90 .
# Run:         docker run --read-only -p 8080:8080 -v "$PWD/api-keys:/run/secrets/api-keys:ro" plumbline \
#                  serve --listen 0.0.0.0:8080 --api-key-file /run/secrets/api-keys
#              add --cap-drop ALL --security-opt no-new-privileges: it needs neither. What is to outlive the container goes to a volume
#              at /var/lib/plumbline, which belongs to the user that it runs as.
#
# DEVICE            cpu (default) or cuda: which toolchain and base image, and for cuda the cargo feature `cuda`
# FEATURES          more cargo features of the `plumbline` crate, comma-separated
# CUDA_COMPUTE_CAP  the GPU generation to compile kernels for (80 = A100, 89 = L4, 90 = H100); the build has no GPU to ask
# CUDA_*_IMAGE      the CUDA base images: a development one to build, a runtime one of the same version and distribution to run
ARG DEVICE=cpu
ARG RUST_IMAGE=rust:1.95-slim-bookworm
ARG CPU_RUNTIME_IMAGE=debian:bookworm-slim
ARG CUDA_BUILD_IMAGE=nvidia/cuda:12.9.1-devel-ubuntu24.04
ARG CUDA_RUNTIME_IMAGE=nvidia/cuda:12.9.1-runtime-ubuntu24.04

FROM ${RUST_IMAGE} AS toolchain-cpu
ENV DEVICE_FEATURES=""

FROM ${CUDA_BUILD_IMAGE} AS toolchain-cuda
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates g++ \
    && rm -rf /var/lib/apt/lists/*
COPY --from=toolchain-cpu /usr/local/rustup /usr/local/rustup
COPY --from=toolchain-cpu /usr/local/cargo /usr/local/cargo
# The driver's libcuda comes with the GPU at run time; the stub satisfies the linker.
ENV DEVICE_FEATURES="cuda" \
    RUSTUP_HOME=/usr/local/rustup \
    CARGO_HOME=/usr/local/cargo \
    PATH=/usr/local/cargo/bin:$PATH \
    LIBRARY_PATH=/usr/local/cuda/lib64/stubs

# Builds that carry the list of their dependencies, so that scanners (syft, trivy, grype) can tell what is in the binary.
FROM toolchain-${DEVICE} AS auditable
ARG CARGO_AUDITABLE_VERSION=0.7.7
RUN cargo install cargo-auditable --locked --version ${CARGO_AUDITABLE_VERSION} --root /opt/auditable

FROM toolchain-${DEVICE} AS build
COPY --from=auditable /opt/auditable/bin/cargo-auditable /usr/local/bin/cargo-auditable
ARG DEVICE
ARG FEATURES=""
ARG CUDA_COMPUTE_CAP=80
ENV CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP}
WORKDIR /src
COPY . .
# The target folder lives in a cache mount, so the binary is copied out of it in the same step.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,id=plumbline-target-${DEVICE},sharing=locked \
    cargo auditable build --release --locked -p plumbline --features "${DEVICE_FEATURES},${FEATURES}" \
    && cp target/release/plumbline /plumbline

FROM ${CPU_RUNTIME_IMAGE} AS runtime-cpu
FROM ${CUDA_RUNTIME_IMAGE} AS runtime-cuda

FROM runtime-${DEVICE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin plumbline \
    && install --directory --owner 10001 --group 10001 --mode 0750 /var/lib/plumbline
COPY --from=build /plumbline /usr/local/bin/plumbline
COPY LICENSE /usr/share/doc/plumbline/LICENSE

# By number, so that Kubernetes' runAsNonRoot can check it. Nothing is written to the root file system: --read-only works.
USER 10001:10001
EXPOSE 8080
# No HEALTHCHECK: the image has no HTTP client. Probe GET /livez (process) and GET /readyz (model loaded, not draining) from outside.
STOPSIGNAL SIGTERM
ENTRYPOINT ["plumbline"]
# Listening beyond loopback needs one more flag, or the server refuses to start: --api-key-file FILE (one key a line; docs/security.md)
# or, behind something that authenticates, --no-auth. PLUMBLINE_API_KEY_FILE and PLUMBLINE_NO_AUTH do the same without changing the command.
CMD ["serve", "--listen", "0.0.0.0:8080"]
