# A replacement for Milvus's image when it cannot be pulled: the newest server on PyPI for Linux.
# Only for deploy/verify.sh.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}
RUN python -m venv /opt/milvus && /opt/milvus/bin/pip install --quiet milvus==2.3.5 'setuptools<81'
COPY --chmod=755 milvus_entry.py /usr/local/bin/milvus
VOLUME /var/lib/milvus
