# A stand-in for Milvus where its own image cannot be pulled: the newest server that there is as a
# Python package for Linux. For deploy/verify.sh only.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}
RUN python -m venv /opt/milvus && /opt/milvus/bin/pip install --quiet milvus==2.3.5 'setuptools<81'
COPY milvus_entry.py /
VOLUME /var/lib/milvus
ENTRYPOINT ["/opt/milvus/bin/python", "/milvus_entry.py"]
