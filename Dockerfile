# faceflax app in a container, on the CPU:
#
#   docker build --tag faceflax .
#   docker run --rm --publish 127.0.0.1:7860:7860 --env FACEFLAX_TOKEN=SECRET faceflax
#
# and open http://127.0.0.1:7860/?token=SECRET, of 16 characters or more. Inside a container the page has to listen beyond the container's own
# loopback, so it wants a token; publishing at 127.0.0.1 keeps other machines out.

FROM python:3.12-slim AS build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN python -m venv /opt/faceflax \
    && /opt/faceflax/bin/pip install --no-cache-dir ".[app]" \
    && /opt/faceflax/bin/pip uninstall --yes opencv-python \
    && /opt/faceflax/bin/pip install --no-cache-dir "opencv-python-headless>=4.11.0.86,<5"

FROM python:3.12-slim
COPY --from=build /opt/faceflax /opt/faceflax
RUN useradd --create-home --uid 10001 faceflax
USER 10001
ENV FACEFLAX_CACHE_DIR=/home/faceflax/cache PATH=/opt/faceflax/bin:$PATH
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/healthz', timeout=4)"]
# A shell hands over the token and then becomes the command, so that signals reach it.
ENTRYPOINT ["sh", "-c", "exec faceflax app --no-browser --host 0.0.0.0 --token \"${FACEFLAX_TOKEN:?give --env FACEFLAX_TOKEN=SECRET}\" \"$@\"", "faceflax"]
