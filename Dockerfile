# The image of Holdfast: the program, the C library that it is linked to, certificate authorities, and nothing else: no shell.
# docs/docker.md says how to run it; scripts/test-image builds it where no registry is reachable, and proves what is said there.

# Another base is given by `--build-arg BUILDER=…`: it has Rust, cc, make and certificate authorities, on glibc.
ARG BUILDER=rust:1.95-bookworm

FROM ${BUILDER} AS build
WORKDIR /build

# jemalloc is made for one page size and ends on a kernel with a larger one; those of arm64 have 4, 16 or 64 KiB.
RUN if [ "$(uname -m)" = aarch64 ]; then \
        printf '[env]\nJEMALLOC_SYS_WITH_LG_PAGE = "16"\n' > "${CARGO_HOME:-$HOME/.cargo}/config.toml"; \
    fi

# The dependencies are a layer of their own: it is made anew only when these files change.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
RUN mkdir src \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked --bin holdfast

COPY config/demo.yaml config/demo-rabbitmq.yaml config/
COPY schemas/demo schemas/demo
COPY src src
# Cargo goes by times, and these files may be older than the empty ones before.
RUN touch src/lib.rs src/main.rs \
    && cargo build --release --locked --bin holdfast

# A pipe fails if any part of it does.
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# The image's root: the program with the libraries that it names, at the places where it looks for them.
RUN install -D target/release/holdfast /image/usr/local/bin/holdfast \
    && ldd target/release/holdfast | grep -o '/[^ ]*' | xargs -I{} install -D {} /image{} \
    && install -D -m 644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt \
    && echo 'holdfast:x:65532:65532:holdfast:/:/sbin/nologin' > /image/etc/passwd \
    && echo 'holdfast:x:65532:' > /image/etc/group \
    && mkdir -p /image/etc/holdfast \
    && install -d -m 1777 /image/tmp

FROM scratch
COPY --from=build /image /

# Said by who builds: `--build-arg REVISION=$(git rev-parse HEAD) --build-arg SOURCE=$(git remote get-url origin)`.
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="Holdfast" \
      org.opencontainers.image.description="A sidecar that owns WebSocket connections so that the application beside it can stay stateless." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"

# The demo's own schemas are the only files that are ever written: this place is writable where the root is not.
ENV PATH=/usr/local/bin \
    TMPDIR=/dev/shm

# By number, so that Kubernetes' runAsNonRoot can tell that it is not root.
USER 65532:65532
EXPOSE 8000
STOPSIGNAL SIGTERM
# Asks the admin listener at 127.0.0.1:8001, or at HOLDFAST_ADMIN. A drain is no illness: only `--live` is asked.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["holdfast", "probe", "--live"]
ENTRYPOINT ["holdfast"]
CMD ["run", "--config", "/etc/holdfast/holdfast.yaml"]
