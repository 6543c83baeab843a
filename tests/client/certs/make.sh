#!/bin/sh
# Makes the certificates beside this file: a CA, a server for localhost and 127.0.0.1, a client.
# They are valid from 2020 to 2120 and protect nothing but tests. Run it in this directory.
set -eu

work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
: > "$work/index.txt"
cat > "$work/ca.conf" <<EOF
[ca]
default_ca = tests
[tests]
database = $work/index.txt
new_certs_dir = $work
rand_serial = yes
policy = any
default_md = sha256
[any]
commonName = supplied
[root]
basicConstraints = critical,CA:TRUE
subjectKeyIdentifier = hash
[server]
subjectAltName = DNS:localhost,IP:127.0.0.1
extendedKeyUsage = serverAuth
[client]
extendedKeyUsage = clientAuth
EOF

sign() { # NAME SUBJECT KEY FLAGS…: a key, a request, and a certificate signed with KEY
    name=$1 subject=$2 key=$3
    shift 3
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
        -keyout "$name" -out "$work/request" -subj "/CN=$subject"
    openssl ca -batch -notext -config "$work/ca.conf" -keyfile "$key" -in "$work/request" \
        -startdate 20200101000000Z -enddate 21200101000000Z "$@"
}

# The CA's key is thrown away: nothing else will be signed.
sign "$work/ca.key" "Penstock test CA" "$work/ca.key" -selfsign -extensions root -out ca.pem
sign server.key "Penstock test server" "$work/ca.key" -cert ca.pem -extensions server -out server.pem
sign client.key "Penstock test client" "$work/ca.key" -cert ca.pem -extensions client -out client.pem
