#!/usr/bin/env bash
# Pins every package of the images by version and hash. constraints.txt has the versions, the lock
# files the hashes. No lock file names a host. Needs uv; run by `make lock-images`.
set -euo pipefail
cd "$(dirname "$0")/../.."

lock() { # name of the file, then what to compile
  local name=$1
  shift
  "${UV:-uv}" pip compile "$@" --quiet --no-config --universal --python-version 3.11 \
    --no-emit-index-url --no-annotate --no-header --generate-hashes \
    --no-emit-package sentinel-retrieval-client \
    --constraint constraints.txt --output-file "deploy/docker/locks/$name.txt"
}

echo hatchling | lock build -
lock gateway pyproject.toml --extra gateway --extra s3
lock worker-cpu pyproject.toml --extra photos --extra hub --extra openvino
# ONNX Runtime for GPUs is another package with the same modules: it takes the place of the other one.
echo 'onnxruntime-gpu[cuda,cudnn]>=1.27,<2' |
  lock worker-cuda pyproject.toml - --extra photos --extra torch --no-emit-package onnxruntime
lock app pyproject.toml --extra app
