FROM python:3.13-slim AS builder

# For builds behind a package mirror or a private certificate authority.
ARG PIP_INDEX_URL
ARG UV_INDEX_URL
ARG PIP_CERT
ARG SSL_CERT_FILE

WORKDIR /build
COPY requirements/bootstrap.txt requirements/service.txt requirements/
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --quiet --no-cache-dir --require-hashes -r requirements/bootstrap.txt \
    && /opt/build/bin/uv venv --quiet --python "$(command -v python)" /opt/venv \
    && /opt/build/bin/uv pip install --quiet --no-cache --python /opt/venv --compile-bytecode --require-hashes \
        -r requirements/service.txt

COPY pyproject.toml README.md ./
COPY app app
RUN /opt/build/bin/hatchling build --target wheel --directory /tmp/dist \
    && /opt/build/bin/uv pip install --quiet --no-cache --python /opt/venv --compile-bytecode --no-deps /tmp/dist/*.whl


FROM python:3.13-slim

RUN python -c "import pip, shutil; shutil.rmtree(pip.__path__[0])" && rm -f /usr/local/bin/pip* \
    && useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin tradeverdict

COPY --from=builder /opt/venv /opt/venv
WORKDIR /srv/tradeverdict
COPY alembic.ini ./
COPY alembic alembic
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER tradeverdict
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=4s --start-period=20s --retries=5 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=3)"]
CMD ["tradeverdict", "serve", "--host", "0.0.0.0", "--port", "8000"]
