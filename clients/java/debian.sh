#!/bin/sh
# Build the client without Maven, with the compilers and libraries of Debian:
#
#   apt-get install default-jdk-headless liberror-prone-java libgeronimo-annotation-1.3-spec-java \
#       libgoogle-gson-java libgrpc-java libguava-java libnetty-java libnetty-tcnative-java \
#       libperfmark-java libprotobuf-java protobuf-compiler protobuf-compiler-grpc-java-plugin
#   ./debian.sh [TARGET]
#
# TARGET (default: target) gets stubs/; classes/; classpath, the path of all libraries; and native/,
# for java -Djava.library.path.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=${1:-$here/target}
protos=$here/../../protos
jars=/usr/share/java

rm -rf "$target/stubs" "$target/classes"
mkdir -p "$target/stubs" "$target/classes" "$target/native"
# The descriptor set has no bounds, so the code needs no package of protovalidate. Google's error
# details are generated, too: Debian's package of them is older than ErrorInfo.
# shellcheck disable=SC2046
/usr/bin/protoc --descriptor_set_in="$protos/gen/descriptors/sentinel-0.1.0.binpb" \
    --plugin=protoc-gen-grpc-java=/usr/bin/grpc_java_plugin \
    --java_out="$target/stubs" --grpc-java_out="$target/stubs" \
    google/rpc/status.proto google/rpc/error_details.proto \
    $(cd "$protos" && find sentinel -name '*.proto')

path=
for jar in error_prone_annotations geronimo-annotation-1.3-spec grpc-api grpc-context grpc-core \
    grpc-netty grpc-protobuf grpc-protobuf-lite grpc-stub gson guava netty-buffer netty-codec \
    netty-codec-http netty-codec-http2 netty-codec-socks netty-common netty-handler \
    netty-handler-proxy netty-resolver netty-tcnative netty-transport \
    netty-transport-native-unix-common perfmark-api protobuf; do
    [ -e "$jars/$jar.jar" ] || { echo "not installed: $jars/$jar.jar" >&2; exit 1; }
    path=$path:$jars/$jar.jar
done
path=${path#:}
echo "$path" >"$target/classpath"
# For TLS: Debian's Netty has no ALPN of its own, and looks for OpenSSL under this name.
cp /usr/lib/*/jni/libnetty-tcnative.so "$target/native/libnetty_tcnative.so"

find "$target/stubs" -name '*.java' >"$target/sources"
# -J: half the CPU for a compiler that runs this short.
compile="javac -J-XX:TieredStopAtLevel=1 --release 17 -proc:none"
$compile -nowarn -cp "$path" -d "$target/classes" @"$target/sources"
$compile -Xlint:all,-path,-classfile -Werror -cp "$target/classes:$path" \
    -d "$target/classes" "$here"/src/main/java/sentinel/client/*.java
