//! Images that come and go: archives and registries.

use std::io;
use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use rkube_failure::{Failure, Kind, Source};
use serde::Deserialize;
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt as _;
use tokio_util::io::ReaderStream;

use super::images::{self, By, familiar};
use super::reply::{self, Body, Error, Messages};
use super::request::Query;
use super::server::Endpoint;
use crate::cli::image::build::check_platform;
use crate::cli::image::credentials::{self, Credential};
use crate::cli::image::push::{Request as Push, advise, full_name, on_pusher, registry};
use crate::cli::image::{
    Input, Origin, check_name, load_everywhere, nodes, pull_with, refuse_text, remote_failure,
};

/// Size of the buffer between two connections.
const PIPE_BYTES: usize = 256 << 10;

/// Writes the body of a request to a file.
pub async fn spool(request: Request<Incoming>) -> Result<NamedTempFile, Failure> {
    let failed = |e: io::Error| {
        let message = format!("cannot keep what the client sends: {e}");
        Failure::new(Source::Host, Kind::Error, message)
    };
    let file = NamedTempFile::new().map_err(failed)?;
    let mut writer = tokio::fs::File::from_std(file.reopen().map_err(failed)?);
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| failed(io::Error::other(e)))?;
        if let Ok(data) = frame.into_data() {
            writer.write_all(&data).await.map_err(failed)?;
        }
    }
    writer.flush().await.map_err(failed)?;
    Ok(file)
}

/// `docker load`
pub async fn load(
    endpoint: &Endpoint,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Error> {
    // First, so that the client sees an answer that refuses the archive.
    let file = spool(request).await?;
    if let Some(platform) = query.get("platform") {
        check_platform(platform)?;
    }
    let profile = endpoint.profile()?;
    refuse_text(file.path(), "the archive")?;
    let size = file
        .as_file()
        .metadata()
        .map_or(0, |metadata| metadata.len());
    let origin = Origin::Copy(file, size);
    let (names, _) = load_everywhere(&endpoint.home, &profile, &origin).await?;
    let (messages, response) = Messages::open();
    for name in names {
        match name.starts_with("sha256:") {
            true => messages.line(&format!("Loaded image ID: {name}")),
            false => messages.line(&format!("Loaded image: {}", familiar(&name))),
        }
    }
    Ok(response)
}

/// `docker save`
pub async fn save<'a>(
    endpoint: &Endpoint,
    names: impl Iterator<Item = &'a str>,
) -> Result<Response<Body>, Error> {
    let profile = endpoint.profile()?;
    let images = images::all(endpoint, &profile).await?;
    let mut command = "rkube ctl save".to_owned();
    let mut count = 0;
    for name in names {
        let (image, by) = images::find(&images, name)?;
        command += &match by {
            By::Id => format!(" {}", image.id),
            By::Name => format!(" {}", check_name(&full_name(name))?),
        };
        count += 1;
    }
    if count == 0 {
        return Err(Error::new(StatusCode::BAD_REQUEST, "no image is named"));
    }
    let (reader, writer) = tokio::io::duplex(PIPE_BYTES);
    let (tell, told) = tokio::sync::oneshot::channel::<Failure>();
    let home = endpoint.home.clone();
    // It ends if the reader is gone.
    tokio::task::spawn_local(async move {
        let saved = async {
            let node = Endpoint::node(&profile)?;
            let done =
                rkube_cluster::on_node(&home, &profile, node, &command, None::<Input>, writer);
            match done.await? {
                (0, _) => Ok(()),
                (code, error) => Err(remote_failure(node, code, &error)),
            }
        };
        if let Err(failure) = saved.await {
            // The client is gone.
            let _ = tell.send(failure);
        }
    });
    // A response that breaks off tells the client that the archive is not complete.
    let end = futures::stream::once(told).filter_map(|told| async {
        let failure: Failure = told.ok()?;
        Some(Err::<Bytes, _>(io::Error::other(failure.message)))
    });
    Ok(reply::archive(
        ReaderStream::new(reader)
            .map_err(io::Error::other)
            .chain(end),
    ))
}

/// The content of the header `X-Registry-Auth`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase", default)]
struct Auth {
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// Reads the credentials for a registry that a client sends; none if it has none.
fn auth(header: Option<&[u8]>, registry: &str) -> Result<Vec<Credential>, Error> {
    let Some(text) = header.filter(|text| !text.is_empty()) else {
        return Ok(Vec::new());
    };
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent);
    let decoder = GeneralPurpose::new(&base64::alphabet::URL_SAFE, config);
    let decoded = decoder.decode(text).ok();
    let found: Option<Auth> = decoded.and_then(|text| serde_json::from_slice(&text).ok());
    let Some(found) = found else {
        // Its text could show the credentials.
        let message = "the header X-Registry-Auth is malformed";
        return Err(Error::new(StatusCode::BAD_REQUEST, message));
    };
    let credential = Credential {
        registry: credentials::key(registry).to_owned(),
        username: found.username,
        password: found.password,
        identity_token: found.identitytoken,
        registry_token: found.registrytoken,
    };
    let empty = Credential {
        registry: credential.registry.clone(),
        ..Credential::default()
    };
    Ok((credential != empty)
        .then_some(credential)
        .into_iter()
        .collect())
}

fn header(request: &Request<Incoming>) -> Option<&[u8]> {
    let value = request.headers().get("x-registry-auth");
    value.map(hyper::header::HeaderValue::as_bytes)
}

/// Adds a tag or digest to a name.
fn with_tag(name: &str, tag: Option<&str>) -> Result<String, Error> {
    let has = name.contains('@')
        || name
            .rsplit('/')
            .next()
            .is_some_and(|last| last.contains(':'));
    let name = match tag {
        Some(tag) if tag.contains(':') => format!("{name}@{tag}"),
        Some(tag) => format!("{name}:{tag}"),
        None if has => name.to_owned(),
        None => {
            return Err(Error::unsupported(
                "all tags at once are not supported: name one of them",
            ));
        }
    };
    Ok(check_name(&name)?.to_owned())
}

/// `docker pull`
pub fn pull(
    endpoint: Rc<Endpoint>,
    query: &Query,
    request: &Request<Incoming>,
) -> Result<Response<Body>, Error> {
    let Some(from) = query.get("fromImage") else {
        return Err(Error::unsupported(
            "docker import is not supported: build an image with FROM scratch and ADD",
        ));
    };
    if let Some(platform) = query.get("platform") {
        check_platform(platform)?;
    }
    let name = with_tag(from, query.get("tag"))?;
    let found = auth(header(request), &registry(&name))?;
    let profile = endpoint.profile()?;
    let (messages, response) = Messages::open();
    tokio::task::spawn_local(async move {
        messages.status(&format!("Pulling {name} on {}", nodes(&profile)));
        tokio::select! {
            () = messages.closed() => {}
            pulled = pull_with(&endpoint.home, &profile, &name, &found, |text| messages.status(text)) => match pulled {
                Ok(()) => messages.status(&format!("Status: Downloaded image for {name}")),
                Err(failure) => messages.error(1, &reply::words(&failure)),
            },
        }
    });
    Ok(response)
}

/// `docker push`
pub fn push(
    endpoint: Rc<Endpoint>,
    name: &str,
    query: &Query,
    request: &Request<Incoming>,
) -> Result<Response<Body>, Error> {
    let name = with_tag(name, query.get("tag"))?;
    let registry = registry(&name);
    let found = auth(header(request), &registry)?;
    let anonymous = found.is_empty();
    let profile = endpoint.profile()?;
    let (messages, response) = Messages::open();
    let work = messages.clone();
    let pushing = async move {
        let images = images::all(&endpoint, &profile).await?;
        if images::find(&images, &name).is_err() {
            let name = familiar(&name);
            let message = format!("An image does not exist locally with the tag: {name}");
            return Err(Failure::new(Source::Runtime, Kind::NotFound, message));
        }
        let full = full_name(&name);
        let (repository, tag) = full.rsplit_once(':').unwrap_or((&full, ""));
        work.status(&format!("The push refers to repository [{repository}]"));
        let request = Push {
            image: name.clone(),
            target: None,
            credentials: found,
        };
        let node = Endpoint::node(&profile)?;
        let shown = std::cell::Cell::new(0);
        let show = |tally: &crate::cli::image::push::Tally| {
            // Not each of the many pieces of a layer.
            if shown.replace(tally.complete()) != tally.complete() {
                work.status(&tally.progress());
            }
        };
        let (pushed, _) = on_pusher(&endpoint.home, &profile, node, &request, show)
            .await
            .map_err(|failure| advise(failure, &registry, anonymous))?;
        let (digest, size) = (&pushed.digest, pushed.size);
        work.status(&format!("{tag}: digest: {digest} size: {size}"));
        work.send(&serde_json::json!({
            "progressDetail": {},
            "aux": { "Tag": tag, "Digest": digest, "Size": size },
        }));
        Ok::<(), Failure>(())
    };
    tokio::task::spawn_local(async move {
        tokio::select! {
            () = messages.closed() => {}
            pushed = pushing => if let Err(failure) = pushed {
                messages.error(1, &reply::words(&failure));
            },
        }
    });
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_those_of_the_client() {
        let encode = |text: &str| base64::engine::general_purpose::URL_SAFE.encode(text);
        let full = encode(r#"{"username":"u","password":"p?>","serveraddress":"r.example"}"#);
        let found = auth(Some(full.as_bytes()), "r.example").unwrap();
        assert_eq!(found[0].registry, "r.example");
        assert_eq!((&*found[0].username, &*found[0].password), ("u", "p?>"));
        let token = encode(r#"{"identitytoken":"t"}"#);
        let found = auth(Some(token.trim_end_matches('=').as_bytes()), "docker.io").unwrap();
        assert_eq!(found[0].identity_token, "t");
        assert_eq!(found[0].registry, "https://index.docker.io/v1/");
        for none in ["", &encode("{}"), &encode(r#"{"serveraddress":"x"}"#)] {
            assert_eq!(auth(Some(none.as_bytes()), "r.example").unwrap(), []);
        }
        assert_eq!(auth(None, "r.example").unwrap(), []);
        let error = auth(Some(b"%%"), "r.example").unwrap_err();
        assert_eq!(error.status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn one_tag_is_meant() {
        for (name, tag, expected) in [
            ("app", Some("1"), Some("app:1")),
            (
                "r.example:5000/app",
                Some("1"),
                Some("r.example:5000/app:1"),
            ),
            ("app", Some("sha256:ab"), Some("app@sha256:ab")),
            ("app:1", None, Some("app:1")),
            ("r.example:5000/app", None, None),
            ("app; ls", Some("1"), None),
        ] {
            assert_eq!(with_tag(name, tag).ok().as_deref(), expected, "{name}");
        }
    }
}
