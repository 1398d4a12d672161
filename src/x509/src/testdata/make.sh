#!/bin/sh
# Makes the certificates that rcgen cannot make. Their keys are thrown away.
set -e
d=$(mktemp -d)
san=subjectAltName=DNS:svc,IP:10.0.0.1
self() { # name, options of the key
    name=$1; shift
    openssl req -x509 -nodes -days 36500 -subj "/CN=$name" -addext $san -keyout "$d/$name.key" -out "$name.pem" "$@" 2>/dev/null
}
leaf() { # name, issuer, options of the signature: version 1 without extensions
    name=$1 ca=$2; shift 2
    openssl req -new -nodes -newkey rsa:1024 -keyout "$d/$name.key" -out "$d/$name.csr" -subj "/O=devs/CN=jane" 2>/dev/null
    openssl x509 -req -days 36500 -in "$d/$name.csr" -CA "$ca.pem" -CAkey "$d/$ca.key" -set_serial 7 -out "$name.pem" "$@" 2>/dev/null
}
self rsa1024 -newkey rsa:1024
self rsa1536-sha384 -newkey rsa:1536 -sha384
self rsa2048 -newkey rsa:2048
self rsa512 -newkey rsa:512
self p521-sha256 -newkey ec -pkeyopt ec_paramgen_curve:P-521 -sha256
self p521-sha512 -newkey ec -pkeyopt ec_paramgen_curve:P-521 -sha512
self p256-sha512 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -sha512
self pss1024 -newkey rsa:1024 -sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32
self pss2048 -newkey rsa:2048 -sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32
self sha1 -newkey rsa:2048 -sha1
leaf v1-of-rsa1024 rsa1024 -sha256
leaf v1-of-pss1024 pss1024 -sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32
leaf v1-of-p521 p521-sha512 -sha256
leaf v1-of-rsa1536 rsa1536-sha384 -sha384
leaf sha1-of-rsa2048 rsa2048 -sha1
# A CA of version 1 and a leaf of version 3 below it.
openssl req -new -nodes -newkey rsa:2048 -keyout "$d/v1ca.key" -out "$d/v1ca.csr" -subj /CN=v1ca 2>/dev/null
openssl x509 -req -days 36500 -in "$d/v1ca.csr" -signkey "$d/v1ca.key" -out v1ca.pem 2>/dev/null
openssl req -new -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -keyout "$d/l.key" -out "$d/l.csr" -subj /CN=leaf 2>/dev/null
echo "$san" >"$d/ext"
openssl x509 -req -days 36500 -in "$d/l.csr" -CA v1ca.pem -CAkey "$d/v1ca.key" -set_serial 9 -extfile "$d/ext" -out leaf-of-v1ca.pem 2>/dev/null
rm -r "$d"
