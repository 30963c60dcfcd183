#!/bin/sh
# What the containers of docker-compose.yaml need to trust each other. The service `setup` runs this
# before the others at every start, in a folder with one volume for itself (private) and one for each
# of the others. The first time it makes a CA, certificates, API keys and passwords. Later it changes
# only what .env asks for. The volumes of the others are copies of what each of them may see.
#
#   setup.sh                make what is missing, and hand it out
#   setup.sh keys COMMAND   also run `sentinel keys COMMAND` on the gateway's keys
set -eu
umask 022
exec 9>private/lock
flock 9

# FOLDER NAME...: a certificate of our CA for a server that is called by these names. It lasts ten
# years, as the CA: nobody would replace it in time.
certificate() {
  folder=$1
  shift
  # shellcheck disable=SC2046 # one word each
  sentinel certs pki --days 3650 $(printf -- '--name %s ' "$@") >/dev/null
  mv pki/server-key.pem "$folder/tls-key.pem"
  mv pki/server.pem "$folder/tls.pem"
  cp pki/ca.pem "$folder/ca.pem"
}

# FILE VALUE: in one step, so that a crash leaves no half of it.
put() {
  printf %s "$2" >"$1.new"
  mv "$1.new" "$1"
}

# FILE VALUE: the value, if there is one; else what is there; else a random one.
secret() {
  if [ -n "$2" ]; then
    put "$1" "$2"
  elif [ ! -s "$1" ]; then
    put "$1" "$(python -c 'import secrets; print(secrets.token_hex(24))')"
  fi
}

# All or nothing: keys without their hashes, or half a CA, are of no use.
if [ ! -d private/made ]; then
  rm -rf private/new
  mkdir private/new
  (
    cd private/new
    mkdir gateway worker app milvus minio grafana prometheus
    certificate worker worker
    certificate milvus milvus
    cp pki/ca.pem app/
    cp pki/ca.pem prometheus/
    sentinel keys create --file worker/keys.json --grant service --name gateway >gateway/worker-key
    sentinel keys create --file gateway/keys.json --grant owner --name owner >app/key
  )
  sync
  mv private/new private/made
fi

(
  cd private/made
  names=$(echo "${GATEWAY_NAMES:-}" | tr , ' ')
  if [ ! -e names ] || [ "$(cat names)" != "$names" ]; then
    # shellcheck disable=SC2086 # several words
    certificate gateway gateway $names
    put names "$names" # last: if this was interrupted, it begins again
  fi
  secret gateway/sentinel_gateway_page_token_secret ""
  secret milvus/root-password "${MILVUS_ROOT_PASSWORD:-}"
  put gateway/sentinel_gateway_milvus_token "root:$(cat milvus/root-password)"
  secret minio/password "${MINIO_ROOT_PASSWORD:-}"
  put milvus/minio-password "$(cat minio/password)"
  secret grafana/password "${GRAFANA_ADMIN_PASSWORD:-}"
  if [ $# -gt 0 ]; then
    SENTINEL_KEYS_FILE=gateway/keys.json sentinel "$@"
  fi
)

# Everybody may read a copy, as with Docker's own secrets: each volume is in one container only.
for file in private/made/*/*; do
  copy=${file#private/made/}
  [ -d "${copy%/*}" ] && ! cmp -s "$file" "$copy" || continue
  install -m 444 "$file" "$copy.new"
  mv "$copy.new" "$copy"
done
sync
