# forkgate as process 1 of a container: it reaps what others leave, and TERM drains it. docs/containers.md explains the rest.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --profile dist -p forkgate

FROM debian:bookworm-slim
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
RUN groupadd --system --gid 10001 forkgate \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/forkgate \
        --shell /usr/sbin/nologin forkgate \
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/forkgate
COPY --from=build /src/target/dist/forkgate /usr/local/bin/forkgate

# Published ports are reached from outside, so the main port listens everywhere; metrics stay inside until you say otherwise.
ENV GATEWAY_BIND=0.0.0.0:4444 GATEWAY_ADMIN_BIND=127.0.0.1:4445 GATEWAY_STATE_DIR=/var/lib/forkgate
USER 10001:10001
WORKDIR /var/lib/forkgate
VOLUME /var/lib/forkgate
EXPOSE 4444
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["forkgate", "health"]
ENTRYPOINT ["forkgate"]
CMD ["serve"]
