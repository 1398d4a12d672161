//! Downloads to files of this machine.

use std::path::Path;

use futures::StreamExt as _;
use rkube_failure::{Failure, Kind, Source};
use tokio::io::AsyncWriteExt as _;

use crate::addons::http_client;
use crate::files::io_failure;

/// Downloads a file over HTTP or HTTPS to `to`.
///
/// # Errors
///
/// A failure of the internet's if the server does not send the file, or one of the program's if it
/// cannot be written.
pub async fn download(url: &str, to: &Path) -> Result<(), Failure> {
    let failed = |kind, e: String| {
        Failure::new(
            Source::Internet,
            kind,
            format!("cannot download {url}: {e}"),
        )
    };
    let parsed = reqwest::Url::parse(url).map_err(|e| failed(Kind::Usage, e.to_string()))?;
    let unreached = |e: reqwest::Error| failed(Kind::Unavailable, e.without_url().to_string());
    let client = http_client(&parsed).map_err(unreached)?;
    let response = client.get(parsed).send().await.map_err(unreached)?;
    let status = response.status();
    if !status.is_success() {
        let kind = match status == reqwest::StatusCode::NOT_FOUND {
            true => Kind::NotFound,
            false => Kind::Error,
        };
        return Err(failed(kind, format!("the server answers {status}")));
    }
    let written = |e: std::io::Error| io_failure("write", to, &e);
    let mut file = tokio::fs::File::create(to).await.map_err(written)?;
    let mut body = response.bytes_stream();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(unreached)?;
        file.write_all(&chunk).await.map_err(written)?;
    }
    file.flush().await.map_err(written)
}
