# juggler server and juggler-callee. Your own image adds your code:
#
#     FROM juggler
#     COPY shop.py .
#     CMD ["juggler", "server", "shop:server"]
#
# docs/operations/containers.md explains it. Renew the tag with the security updates of its packages.
ARG PYTHON=python:3.13.9-slim-bookworm

FROM ${PYTHON} AS build
RUN python -m venv --without-pip /venv
WORKDIR /src
COPY setup.cfg setup.py pyproject.toml* MANIFEST.in* README.md LICENSE ./
COPY callee callee
COPY juggler juggler
RUN pip --python /venv/bin/python install --no-cache-dir --disable-pip-version-check --only-binary :all: --no-binary juggler ".[server]"

FROM ${PYTHON}
# The number lets Kubernetes check runAsNonRoot. /data is for volumes, which get its owner.
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin juggler && install -d -o 10001 -g 10001 /data
COPY --from=build /venv /venv
WORKDIR /app
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    JUGGLER_LISTEN_BIND=0.0.0.0:9000 \
    JUGGLER_LISTEN_METRICS_BIND=0.0.0.0:9001 \
    JUGGLER_CALLEE_LISTEN=0.0.0.0:9100
USER 10001:10001
# 9000: websockets and probes. 9001: metrics of a server. 9100: metrics and health of a callee. Publish only the first one.
EXPOSE 9000 9001 9100
# That of a server. For a callee, replace the port by 9100.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 9000, timeout=2); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
# Without a shell: SIGTERM reaches the server, which drains calls in flight for --grace seconds.
CMD ["juggler", "server"]
