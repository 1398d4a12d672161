//! Reads an addon's manifests from the binary, the addon's directory, or the internet.

use std::path::Path;
use std::time::Duration;

use reqwest::redirect::{Attempt, Policy};
use rkube_failure::{Failure, Kind, Source};

use super::description::{Addon, Manifest, Origin, is_loopback};
use super::objects::Text;
use crate::files::io_failure;

/// Maximum size of a manifest, in bytes. The largest known ones have 3 MB.
const MAX_SIZE: u64 = 16 << 20;
/// The time that a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The time for which a server may send no data.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Timeout of a complete download.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(300);
/// Maximum number of redirects that are followed.
const REDIRECTS: usize = 5;

/// Reads all manifests of an addon, in order.
pub(super) async fn manifests(addon: &Addon) -> Result<Vec<Text>, Failure> {
    let mut texts = Vec::new();
    for manifest in &addon.manifests {
        let (name, bytes) = match manifest {
            Manifest::File(file) => (file, read(&addon.origin, file)?),
            Manifest::Url(url, sha256) => (url, download(addon, url, sha256.as_deref()).await?),
        };
        let text = String::from_utf8(bytes).map_err(|_| {
            Failure::new(
                Source::Program,
                Kind::Config,
                format!("{name} is no manifest: it is not text"),
            )
        })?;
        texts.push(Text {
            name: name.clone(),
            text,
        });
    }
    Ok(texts)
}

/// Reads a file of an addon's directory.
fn read(origin: &Origin, file: &str) -> Result<Vec<u8>, Failure> {
    let text = match origin {
        Origin::BuiltIn(files) => {
            let found = files.iter().find(|(name, _)| *name == file);
            found.map(|(_, text)| *text)
        }
        Origin::Completed(files) => {
            let found = files.iter().find(|(name, _)| name == file);
            found.map(|(_, text)| text.as_str())
        }
        Origin::Directory(directory) => return read_inside(directory, file),
    };
    match text {
        Some(text) => Ok(text.as_bytes().to_vec()),
        None => Err(Failure::new(
            Source::Program,
            Kind::NotFound,
            format!("this rkube was built without the manifest {file}"),
        )),
    }
}

/// Reads a file in a directory. Fails if the path leads out of it through symbolic links.
fn read_inside(directory: &Path, file: &str) -> Result<Vec<u8>, Failure> {
    let path = directory.join(file);
    let real = |path: &Path| {
        path.canonicalize()
            .map_err(|e| io_failure("read", path, &e))
    };
    let (inside, target) = (real(directory)?, real(&path)?);
    let refused = |why: &str| {
        Failure::new(
            Source::Program,
            Kind::Config,
            format!("{} is no manifest: {why}", path.display()),
        )
    };
    if !target.starts_with(&inside) {
        return Err(refused(
            "it is a symbolic link that leaves the addon's directory",
        ));
    }
    let meta = std::fs::metadata(&target).map_err(|e| io_failure("read", &target, &e))?;
    if !meta.is_file() {
        return Err(refused("it is no file"));
    }
    if meta.len() > MAX_SIZE {
        return Err(refused("it is larger than 16 MiB"));
    }
    std::fs::read(&target).map_err(|e| io_failure("read", &target, &e))
}

/// Downloads a document and compares its checksum.
async fn download(addon: &Addon, url: &str, sha256: Option<&str>) -> Result<Vec<u8>, Failure> {
    let failed = |kind, why: String| {
        Failure::new(Source::Internet, kind, format!("cannot download {url}: {why}")).advise(
            format!(
                "if this machine cannot reach it, download it elsewhere into a directory with an addon.yaml that has 'name: {}' and 'file:' instead of 'url:', and enable that directory",
                addon.name
            ),
        )
    };
    let bytes = get(url).await.map_err(|(kind, why)| failed(kind, why))?;
    let sum = hex::encode(ring::digest::digest(&ring::digest::SHA256, &bytes));
    match sha256 {
        Some(wanted) if wanted != sum => Err(Failure::new(
            Source::Internet,
            Kind::Conflict,
            format!("{url} is not the file that the addon '{}' expects: its SHA-256 is {sum}, expected {wanted}", addon.name),
        )
        .advise("look at the document; if it is to be trusted, write its sum into an addon.yaml of your own")),
        _ => Ok(bytes),
    }
}

async fn get(url: &str) -> Result<Vec<u8>, (Kind, String)> {
    let other = |e: reqwest::Error| (Kind::Error, describe(&e));
    let unreached = |e: reqwest::Error| {
        let kind = if e.is_timeout() {
            Kind::Timeout
        } else {
            Kind::Unavailable
        };
        (kind, describe(&e))
    };
    let url = reqwest::Url::parse(url).map_err(|e| (Kind::Config, e.to_string()))?;
    let client = client(&url).map_err(other)?;
    let mut response = client.get(url).send().await.map_err(unreached)?;
    let status = response.status();
    if !status.is_success() {
        let kind = if status == reqwest::StatusCode::NOT_FOUND {
            Kind::NotFound
        } else {
            Kind::Error
        };
        return Err((kind, format!("the server answers {status}")));
    }
    let mut bytes = Vec::new();
    let too_large = || (Kind::Error, "it is larger than 16 MiB".to_owned());
    if response.content_length() > Some(MAX_SIZE) {
        return Err(too_large());
    }
    while let Some(chunk) = response.chunk().await.map_err(unreached)? {
        if bytes.len() + chunk.len() > MAX_SIZE as usize {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Creates a client that trusts the host's CA certificates.
pub(crate) fn client(url: &reqwest::Url) -> Result<reqwest::Client, reqwest::Error> {
    // Errors only if a provider is already installed, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder()
        .user_agent(concat!("rkube/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(STALL_TIMEOUT)
        .timeout(DOWNLOAD_TIMEOUT)
        .redirect(Policy::custom(redirect));
    // A proxy cannot reach the host's loopback, and plain HTTP needs no certificates.
    let builder = if is_loopback(url) {
        builder.no_proxy().tls_certs_only([])
    } else {
        builder
    };
    builder.build()
}

/// Rejects redirects to plain HTTP, except among loopback addresses.
fn redirect(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let plain_before = attempt.previous().iter().all(is_loopback);
    let allowed = attempt.url().scheme() == "https" || plain_before && is_loopback(attempt.url());
    if !allowed {
        let why = format!("it redirects to {}, which is not https", attempt.url());
        return attempt.error(why);
    }
    if attempt.previous().len() > REDIRECTS {
        return attempt.error("it redirects without end");
    }
    attempt.follow()
}

/// Returns the root cause of an HTTP error. The caller's message contains the URL.
fn describe(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "the server did not respond in time".into();
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::serve;
    use super::*;

    fn addon(manifest: Manifest, origin: Origin) -> Addon {
        Addon {
            name: "a".into(),
            description: String::new(),
            version: String::new(),
            homepage: String::new(),
            namespace: None,
            manifests: vec![manifest],
            origin,
        }
    }

    async fn from(url: String, sum: Option<&str>) -> Result<String, Failure> {
        let manifest = Manifest::Url(url, sum.map(str::to_owned));
        let texts = manifests(&addon(manifest, Origin::BuiltIn(&[]))).await?;
        Ok(texts[0].text.clone())
    }

    #[tokio::test]
    async fn downloads_are_checked() {
        let base = serve(&[
            ("/good", "200 OK\r\n\r\nkind: X\n"),
            ("/moved", "302 Found\r\nLocation: /good\r\n\r\n"),
            ("/out", "302 Found\r\nLocation: http://192.0.2.1/x\r\n\r\n"),
            ("/round", "302 Found\r\nLocation: /round\r\n\r\n"),
            ("/short", "200 OK\r\nContent-Length: 99\r\n\r\nhalf"),
            ("/long", "200 OK\r\nContent-Length: 99999999\r\n\r\n"),
        ]);
        assert_eq!(
            from(format!("{base}/good"), None).await.unwrap(),
            "kind: X\n"
        );
        assert_eq!(
            from(format!("{base}/moved"), None).await.unwrap(),
            "kind: X\n"
        );
        let sum = hex::encode(ring::digest::digest(&ring::digest::SHA256, b"kind: X\n"));
        from(format!("{base}/good"), Some(&sum)).await.unwrap();
        let wrong = "0".repeat(64);
        let cases = [
            ("/good", Some(wrong.as_str()), 41, sum.as_str()),
            ("/missing", None, 45, "404"),
            ("/out", None, 49, "which is not https"),
            ("/round", None, 49, "without end"),
            ("/short", None, 49, "/short"),
            ("/long", None, 40, "larger than"),
        ];
        for (path, wanted, code, part) in cases {
            let failure = from(format!("{base}{path}"), wanted).await.unwrap_err();
            assert_eq!(failure.exit_code(), code, "{path}: {failure}");
            assert!(failure.message.contains(part), "{failure}");
            assert!(failure.message.contains(&base), "{failure}");
            assert!(failure.advice.is_some());
        }
        let nobody = from("http://127.0.0.1:1/x".into(), None).await.unwrap_err();
        assert_eq!(nobody.exit_code(), 49);
        assert!(nobody.advice.unwrap().contains("download it elsewhere"));
    }

    #[tokio::test]
    async fn files_are_the_directories_own() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("a");
        std::fs::create_dir_all(directory.join("sub")).unwrap();
        std::fs::write(directory.join("sub/x.yaml"), "kind: X").unwrap();
        std::fs::write(directory.join("bytes"), [0xff, 0xfe]).unwrap();
        std::fs::write(dir.path().join("outside"), "secret").unwrap();
        std::os::unix::fs::symlink("sub/x.yaml", directory.join("inner")).unwrap();
        std::os::unix::fs::symlink("../outside", directory.join("outer")).unwrap();
        let large = std::fs::File::create(directory.join("large")).unwrap();
        large.set_len(MAX_SIZE + 1).unwrap();
        let read = async |file: &str| {
            let addon = addon(
                Manifest::File(file.into()),
                Origin::Directory(directory.clone()),
            );
            manifests(&addon).await.map(|t| t[0].text.clone())
        };
        assert_eq!(read("sub/x.yaml").await.unwrap(), "kind: X");
        assert_eq!(read("inner").await.unwrap(), "kind: X");
        let cases = [
            ("outer", "a symbolic link that leaves"),
            ("sub", "no file"),
            ("large", "larger"),
            ("bytes", "not text"),
            ("missing", "missing"),
        ];
        for (file, part) in cases {
            let failure = read(file).await.unwrap_err();
            assert!(failure.message.contains(part), "{failure}");
        }
    }
}
