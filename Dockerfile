# To build from exactly this base image, add its digest to both lines: FROM python:3.13-slim@sha256:…
# `docker buildx imagetools inspect python:3.13-slim` prints it.
FROM python:3.13-slim AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev libjpeg62-turbo-dev
# requirements-s3.lock: with the packages for a bucket
ARG LOCK=requirements.lock
COPY requirements*.lock /
RUN python -m venv /opt/imgsvc \
 && /opt/imgsvc/bin/pip install --no-cache-dir --no-deps --require-hashes -r /$LOCK \
 && rm -r /opt/imgsvc/lib/python*/site-packages/pip*
COPY imgsvc /opt/imgsvc/app/imgsvc
RUN /opt/imgsvc/bin/python /opt/imgsvc/app/imgsvc/images/native/build.py \
 && /opt/imgsvc/bin/python -m compileall -q /opt/imgsvc/app \
 && printf '#!/bin/sh\nexec python -P -m imgsvc "$@"\n' > /opt/imgsvc/bin/imgsvc \
 && chmod +x /opt/imgsvc/bin/imgsvc

FROM python:3.13-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends libjpeg62-turbo \
 && rm -r /var/lib/apt/lists/*
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin imgsvc \
 && install -d -o imgsvc -g imgsvc /data
COPY --from=build /opt/imgsvc /opt/imgsvc
ENV PATH=/opt/imgsvc/bin:$PATH \
    PYTHONPATH=/opt/imgsvc/app \
    PYTHONDONTWRITEBYTECODE=1 \
    IMGSVC_SERVER__HOST=0.0.0.0 \
    IMGSVC_STORAGE__DATA_DIR=/data \
    IMGSVC_LOG__FORMAT=json
RUN python -P -c "from imgsvc.images import native; raise SystemExit(not native.AVAILABLE)"
USER imgsvc
WORKDIR /data
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:%s/health/live' % os.environ.get('IMGSVC_SERVER__PORT', '8080'), timeout=4)"]
ENTRYPOINT ["imgsvc"]
CMD ["serve"]
