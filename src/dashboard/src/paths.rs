//! Decides which paths of an API server the page may request.

/// First segments of permitted paths.
const ROOTS: [&str; 7] = [
    "api", "apis", "openapi", "version", "healthz", "livez", "readyz",
];

/// Fails unless a path may be forwarded to an API server.
///
/// The path must be unambiguous: a server that decodes or normalizes it must not read
/// another one. Errors are messages for the page.
pub fn check(path: &str) -> Result<(), &'static str> {
    let Some(rest) = path.strip_prefix('/') else {
        return Err("a path begins with a slash");
    };
    if !ROOTS.contains(&rest.split('/').next().unwrap_or_default()) {
        return Err("this path is not passed on");
    }
    if path
        .bytes()
        .any(|b| b.is_ascii_control() || !b.is_ascii() || b == b'\\')
    {
        return Err("the path has a character that belongs into no path");
    }
    let mut segments = Vec::new();
    for segment in rest.trim_end_matches('/').split('/') {
        let decoded = decode(segment).ok_or("the path has a broken escape")?;
        if decoded.is_empty() || decoded == b"." || decoded == b".." {
            return Err("the path has a segment that leads elsewhere");
        }
        if decoded
            .iter()
            .any(|b| matches!(b, b'/' | b'\\' | b'%' | b'?' | b'#') || b.is_ascii_control())
        {
            return Err("the path has an escape that changes its meaning");
        }
        segments.push(decoded);
    }
    // Decoded, as in the API server: `%70roxy` is `proxy`.
    let segments: Vec<&[u8]> = segments.iter().map(Vec::as_slice).collect();
    check_proxy(&segments)
}

/// Fails if a path refers to a proxy: responses of pods and services must never have this page's
/// origin. The statistics of kubelets are harmless.
fn check_proxy(segments: &[&[u8]]) -> Result<(), &'static str> {
    let refused = Err("proxied pages are not served here; use a port-forward");
    let [b"api", b"v1", segments @ ..] = segments else {
        return Ok(());
    };
    match segments {
        [b"nodes", _, b"proxy", b"stats", b"summary"] => Ok(()),
        [b"nodes", _, b"proxy", ..] => refused,
        [b"namespaces", _, b"pods" | b"services", _, b"proxy", ..] => refused,
        [b"proxy", ..] => refused,
        _ => Ok(()),
    }
}

/// Decodes percent escapes. Returns `None` if one is malformed.
fn decode(segment: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || (bytes.next()? as char).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ordinary_paths_pass() {
        for good in [
            "/api/v1/pods",
            "/apis/apps/v1/namespaces/default/deployments/web",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
            "/api/v1/nodes/n1/proxy/stats/summary",
            "/api/v1/namespaces/proxy/pods/proxy/log",
            "/version",
            "/openapi/v3",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn ambiguous_paths_do_not_pass() {
        for bad in [
            "",
            "api/v1",
            "//api/v1",
            "/etc/passwd",
            "/api/../metrics",
            "/api/%2e%2e/metrics",
            "/api/.%2E/metrics",
            "/api/v1/..%2fmetrics",
            "/api/v1/%252e%252e/x",
            "/api/v1//pods",
            "/api/v1/./pods",
            "/api/v1\\pods",
            "/api/v1/%5c",
            "/api/v1/pods%00",
            "/api/v1/pods%",
            "/api/v1/pods%zz",
            "/api/v1/pods%3Fx",
            "/api/v1/nodes/n1/proxy/",
            "/api/v1/nodes/n1/proxy/run/x",
            "/api/v1/namespaces/x/pods/y/proxy",
            "/api/v1/namespaces/x/services/y/proxy/a/b",
            "/api/v1/namespaces/x/services/y/%70roxy/a/b",
            "/%61pi/v1/namespaces/x/services/y/proxy",
            "/api/v1/nodes/n1/prox%79/run/x",
            "/rkube/session",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn passed_paths_have_one_reading(path in "/(api|apis)(/[a-z.%0-9\\\\/?]{0,12}){0,5}") {
            if check(&path).is_ok() {
                let decoded = decode(&path).unwrap();
                let text = String::from_utf8_lossy(&decoded);
                prop_assert!(!text.trim_end_matches('/').split('/').skip(1).any(|s| matches!(s, "" | "." | "..")));
                prop_assert_eq!(text.matches('/').count(), path.matches('/').count());
            }
        }
    }
}
