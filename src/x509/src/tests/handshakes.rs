//! The verifier in handshakes.

use std::sync::Arc;

use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;

use super::*;
use crate::{AnyServer, RequestedClient, ServerVerifier, client_config, reason, renewable_client};

/// Connects a client and a server in memory. Returns the certificates that the server sees.
fn handshake(
    client: rustls::ClientConfig,
    server: rustls::ServerConfig,
) -> Result<usize, std::io::Error> {
    let name = "svc".try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = rustls::ServerConnection::new(Arc::new(server)).unwrap();
    let failed = std::io::Error::other;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire)?;
        }
        server.read_tls(&mut &wire[..])?;
        server.process_new_packets().map_err(failed)?;
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire)?;
        }
        client.read_tls(&mut &wire[..])?;
        client.process_new_packets().map_err(failed)?;
    }
    Ok(server.peer_certificates().map_or(0, <[_]>::len))
}

#[test]
fn handshakes_use_the_verifier() {
    let (ca, stranger) = (root(unchanged), root(unchanged));
    let identity = |parent: &Issued, name: &str| {
        let leaf = below(parent, name, NAMES, is_ca);
        let key = leaf.issuer.key().serialize_pem();
        Identity::from_pem(leaf.certificate.pem().as_bytes(), key.as_bytes()).unwrap()
    };
    let server = |version| {
        let leaf = below(&ca, "server", NAMES, is_ca);
        let key = PrivateKeyDer::from_pem_slice(leaf.issuer.key().serialize_pem().as_bytes());
        rustls::ServerConfig::builder_with_provider(crate::provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_client_cert_verifier(RequestedClient::new(&ca.roots()))
            .with_single_cert(vec![leaf.certificate.der().clone()], key.unwrap())
            .unwrap()
    };
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let trusting = || ServerVerifier::new(ca.roots());
        let plain = client_config(trusting(), None).unwrap();
        assert_eq!(handshake(plain, server(version)).unwrap(), 0);
        // A stranger's certificate does not fail the connection.
        for parent in [&ca, &stranger] {
            let client = client_config(trusting(), Some(identity(parent, "jane"))).unwrap();
            assert_eq!(handshake(client, server(version)).unwrap(), 1);
        }
        let any = client_config(Arc::new(AnyServer), None).unwrap();
        assert_eq!(handshake(any, server(version)).unwrap(), 0);
        let refusing = client_config(ServerVerifier::new(stranger.roots()), None).unwrap();
        let error = handshake(refusing, server(version)).unwrap_err();
        let text = reason(&error).unwrap();
        assert!(
            text.starts_with(
                "tls: failed to verify certificate: x509: certificate signed by unknown authority"
            ),
            "{text}"
        );
    }
}

#[test]
fn identities_need_the_key_of_their_certificate() {
    let ca = root(unchanged);
    let other = KeyPair::generate().unwrap().serialize_pem();
    let wrong = Identity::from_pem(ca.certificate.pem().as_bytes(), other.as_bytes()).unwrap();
    assert!(client_config(Arc::new(AnyServer), Some(wrong)).is_err());
    assert!(Identity::from_pem(b"", other.as_bytes()).is_err());
    assert!(Identity::from_pem(ca.certificate.pem().as_bytes(), b"").is_err());
}

#[test]
fn connections_show_the_certificate_of_the_time() {
    let ca = root(unchanged);
    let made = |name| below(&ca, name, NAMES, unchanged);
    let identity = |made: &Issued| {
        let key = made.issuer.key().serialize_pem();
        Identity::from_pem(made.certificate.pem().as_bytes(), key.as_bytes()).unwrap()
    };
    let server = Renewable::new(identity(&made("server"))).unwrap();
    let client = Renewable::new(identity(&made("client"))).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(crate::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(RequestedClient::new(&ca.roots()))
        .with_cert_resolver(server);
    let tls = renewable_client(ServerVerifier::new(ca.roots()), client).unwrap();
    assert_eq!(handshake(tls, config).unwrap(), 1);
}
