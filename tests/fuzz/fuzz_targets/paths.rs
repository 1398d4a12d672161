//! Paths and queries of requests: the attributes that are authorized are those that are carried
//! out, however the path is encoded.

#![no_main]

use http::Method;
use libfuzzer_sys::fuzz_target;
use rkube_fuzz::Source;
use rkube_request::{Query, RequestInfo, encode_path};

const PARTS: [&str; 26] = [
    "/",
    "//",
    "api",
    "apis",
    "v1",
    "apps",
    "namespaces",
    "a",
    "pods",
    "x",
    "status",
    "finalize",
    "proxy",
    "watch",
    "nodes",
    "..",
    ".",
    "%2F",
    "%2f",
    "%",
    "%00",
    "%e2%82",
    "é",
    "exec",
    "log",
    "namespaces/a/",
];
const QUERIES: [&str; 8] = [
    "",
    "watch=1",
    "fieldSelector=metadata.name%3Dx",
    "fieldSelector=metadata.name=a,metadata.name=b",
    "watch=true&watch=0",
    "labelSelector=a",
    "=&&=a",
    "%zz=+",
];

/// Returns the attributes that decide who may do what.
fn asked(info: &RequestInfo) -> (bool, &str, [&str; 6], bool) {
    (
        info.is_resource,
        info.verb,
        [
            &info.group,
            &info.version,
            &info.namespace,
            &info.resource,
            &info.subresource,
            &info.name,
        ],
        info.in_namespace,
    )
}

fuzz_target!(|data: &[u8]| {
    let mut source = Source::new(data);
    let method = source
        .one_of(&[
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ])
        .clone();
    let query = *source.one_of(&QUERIES);
    let mut path = String::from("/");
    for _ in 0..source.below(14) {
        path += *source.one_of(&PARTS);
        if source.chance(2) {
            path.push('/');
        }
    }
    if let Ok(text) = std::str::from_utf8(source.rest()) {
        path += text;
    }
    let info = RequestInfo::parse(&method, &path, query);
    // Decoded, encoded and decoded again, it is the same request. What is forwarded is encoded.
    let again = RequestInfo::parse(&method, &encode_path(&info.path), query);
    assert_eq!(again.path, info.path);
    assert_eq!(asked(&again), asked(&info), "{path}");
    assert_eq!(again.rest, info.rest, "{path}");
    assert!(info.rest.is_ascii(), "{}", info.rest);
    if info.in_namespace {
        assert!(
            info.is_resource && info.path.contains("namespaces/"),
            "{path}"
        );
    }
    for segment in [
        info.namespace.as_str(),
        &info.resource,
        &info.subresource,
        info.name_in_path(),
    ] {
        assert!(!segment.contains('/'), "{path}");
    }
    let parsed = Query::parse(query);
    let written = parsed.encoded();
    assert_eq!(Query::parse(&written).encoded(), written);
});
