//! TLS: served, exchanged, and spoken to engines.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, StatusCode};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::{Folder, sequence};
use crate::support::{PATIENCE, Server, client, plumbline};

/// A certificate for this machine and its key, in PEM.
pub(crate) fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// A client that trusts one certificate only, and keeps no connection.
fn trusting(pem: &str) -> Client {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    Client::builder().tls_backend_preconfigured(config).pool_max_idle_per_host(0).build().unwrap()
}

#[tokio::test]
async fn it_is_served_and_the_certificate_is_exchanged_without_a_restart() {
    let folder = Folder::new("tls");
    let ((old, old_key), (new, new_key)) = (certificate(), certificate());
    let (cert, key) = (folder.file("cert.pem", &old), folder.file("key.pem", &old_key));
    let arguments = ["--tls-cert-file", &cert, "--tls-key-file", &key, "--credentials-poll-seconds", "1"];
    let server = Server::start_as(plumbline(), &arguments, "https", trusting(&old)).await;
    server.verify("secret", &[sequence()]).await;

    let plain = server.url.replace("https:", "http:");
    let unencrypted = client().get(format!("{plain}/livez")).send().await;
    assert!(unencrypted.is_err(), "plain HTTP is not answered: {unencrypted:?}");
    let stranger = trusting(&new);
    assert!(stranger.get(server.at("/livez")).send().await.is_err());

    // Between the two files they do not belong together.
    folder.file("cert.pem", &new);
    let waited = tokio::time::timeout(PATIENCE, async {
        while !server.log().contains("cannot be used") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    waited.await.unwrap();
    assert_eq!(server.client.get(server.at("/livez")).send().await.unwrap().status(), StatusCode::OK);
    folder.file("key.pem", &new_key);
    let waited = tokio::time::timeout(PATIENCE, async {
        while stranger.get(server.at("/livez")).send().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    waited.await.unwrap();
    assert!(server.client.get(server.at("/livez")).send().await.is_err(), "the old one is not served any more");
    assert!(!server.log().contains("PRIVATE KEY"));
}

#[test]
fn a_certificate_that_cannot_be_used_ends_the_start() {
    let folder = Folder::new("tls-bad");
    let ((cert, key), (_, other)) = (certificate(), certificate());
    let (cert, wrong) = (folder.file("cert.pem", &cert), folder.file("other.pem", &other));
    let start = |arguments: &[&str]| {
        let output = plumbline().args(["serve", "--listen", "127.0.0.1:0"]).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = start(&["--tls-cert-file", &cert, "--tls-key-file", &wrong]);
    assert!(code == Some(1) && said.contains("together") && said.contains("cert.pem"), "{said}");
    assert!(!said.contains(key.lines().nth(1).unwrap()) && !said.contains(other.lines().nth(1).unwrap()));
    let (code, said) = start(&["--tls-cert-file", &cert]);
    assert!(code == Some(2) && said.contains("tls_key_file"), "{said}");
}
