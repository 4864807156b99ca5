# syntax=docker/dockerfile:1
# Two stages: the first has a compiler for the data path, the second only what runs.

FROM python:3.11-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/bgproxy
WORKDIR /src
COPY pyproject.toml setup.py README.md ./
COPY bgproxy ./bgproxy
# EXTRAS=[demo] adds the demo's agents and clients (compose.yaml uses it for its two agents).
ARG EXTRAS=""
RUN BGPROXY_COMPILE=1 /opt/bgproxy/bin/pip install --no-cache-dir ".${EXTRAS}"

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/bgproxy bgproxy
COPY --from=build /opt/bgproxy /opt/bgproxy
COPY config/bgproxy.toml /etc/bgproxy/bgproxy.toml
ENV PATH=/opt/bgproxy/bin:$PATH PYTHONUNBUFFERED=1 BGPROXY_LISTEN=0.0.0.0:8080
USER bgproxy
WORKDIR /var/lib/bgproxy
EXPOSE 8080
# The admin API stays on the container's loopback; `docker exec` reaches it, and so does this.
HEALTHCHECK --interval=5s --timeout=2s --start-period=5s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9900/readyz', timeout=1)"]
# SIGTERM drains; give it longer than `grace_timeout` (docker stop --time).
STOPSIGNAL SIGTERM
ENTRYPOINT ["bgproxy"]
CMD ["serve", "--config", "/etc/bgproxy/bgproxy.toml"]
