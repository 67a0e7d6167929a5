# The worker's image. Everything is pinned by hash; nothing runs as root.
FROM python:3.13.9-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /venv
COPY requirements.lock .
RUN /venv/bin/pip install --no-cache-dir --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY sf_healer sf_healer
COPY agents agents
COPY tables tables
RUN /venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.13.9-slim-bookworm
RUN useradd --uid 10001 --create-home --home-dir /app healer && install -d -o healer -g healer /data
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 SF_HEALER_DATA_DIR=/data
WORKDIR /app
USER 10001
VOLUME /data
EXPOSE 6066 6067
CMD ["sf-healer", "worker"]
