# The HTTP service (the last stage, so the default) and the web app (--target app). docs/deployment.md says how to run them.
#
# The base is a tag and not a digest, so that a build today has today's security fixes of Debian and Python. What decides
# a mask is pinned all the same: the Python packages by constraints.txt, the weights by the hashes in their bundle.
# Nothing is installed with apt: the wheels of OpenCV (headless) and ONNX Runtime bring the libraries they need.
ARG PYTHON=3.13-slim-trixie

FROM python:${PYTHON} AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE LICENSE-WEIGHTS.md ./
COPY src src
RUN --mount=type=cache,target=/root/.cache/pip \
    pip wheel --no-deps --wheel-dir /wheels .

# The environments have no pip of their own; the base's fills them.
FROM python:${PYTHON} AS environment
COPY constraints.txt /
COPY --from=wheel /wheels /wheels
RUN python -m venv --without-pip /opt/dermseg

FROM environment AS service-environment
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/dermseg/bin/python install -c /constraints.txt "$(ls /wheels/*.whl)[serve]"

FROM environment AS app-environment
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/dermseg/bin/python install -c /constraints.txt "$(ls /wheels/*.whl)[app]"

# Runs as nobody in particular (1000, as Hugging Face does) and on a read-only root: only /tmp is written to.
FROM python:${PYTHON} AS runtime
RUN useradd --uid 1000 --no-create-home --home-dir /tmp dermseg
ENV PATH=/opt/dermseg/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /tmp
USER 1000:1000
STOPSIGNAL SIGTERM
ENTRYPOINT ["dermseg"]
LABEL org.opencontainers.image.title="dermseg" \
      org.opencontainers.image.description="Segmentation of skin lesions in dermoscopy images. Research software, not a medical device." \
      org.opencontainers.image.licenses="Apache-2.0 AND CC-BY-NC-4.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.13-slim-trixie"

FROM runtime AS app
COPY --from=app-environment /opt/dermseg /opt/dermseg
ENV PORT=8501
EXPOSE 8501
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-I", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=4); c.request('GET', '/_stcore/health'); sys.exit(c.getresponse().status != 200)"]
CMD ["app", "--host", "0.0.0.0"]

FROM runtime AS service
COPY --from=service-environment /opt/dermseg /opt/dermseg
ENV PORT=7860
EXPOSE 7860
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-I", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=4); c.request('GET', '/health/ready'); sys.exit(c.getresponse().status != 200)"]
CMD ["serve", "--host", "0.0.0.0"]
