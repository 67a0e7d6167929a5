# The worker's image. What is installed is pinned by hash, the base by its whole version; nothing runs as root, and the root
# file system may be read only.
# tests/image runs these very commands in a scratch directory.
FROM python:3.13.9-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /venv
COPY requirements-image.lock .
RUN /venv/bin/pip install --no-cache-dir --require-hashes --requirement requirements-image.lock
COPY pyproject.toml README.md LICENSE ./
COPY sf_healer sf_healer
COPY agents agents
COPY tables tables
RUN /venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.13.9-slim-bookworm
LABEL org.opencontainers.image.title="sf-healer" \
      org.opencontainers.image.description="Finds stuck and failed Kubernetes Jobs from their Kafka telemetry and restarts them" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.13.9-slim-bookworm"
RUN useradd --uid 10001 --create-home --home-dir /app healer && install -d -o healer -g healer /data
COPY --from=build /venv /venv
# Bytecode is there since the install; a read-only file system takes no more of it.
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 SF_HEALER_DATA_DIR=/data
WORKDIR /app
USER 10001:10001
VOLUME /data
EXPOSE 6066 6067
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ.get('SF_HEALER_WEB_PORT', '6066') + '/livez', timeout=4)"]
CMD ["sf-healer", "worker"]
