//! TLS to engines: rustls with ring, the system's certificate authorities, and one's own.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;

/// How the certificate of whoever serves an address is checked: by the system's authorities, and by those of a file in PEM. An
/// address without TLS needs none, and a machine may have none.
///
/// # Errors
/// The file cannot be read or holds no certificate; the system has no authorities and none were given.
pub fn client_config(url: &str, authorities: Option<&Path>) -> Result<ClientConfig, String> {
    match url.starts_with("https:") {
        true => config(authorities),
        false => unused(),
    }
}

/// How an engine's certificate is checked. `authorities` is a file in PEM; they are trusted beside the system's.
///
/// # Errors
/// The file cannot be read or holds no certificate; the system has no authorities and none were given.
fn config(authorities: Option<&Path>) -> Result<ClientConfig, String> {
    let extra = authorities.map_or_else(|| Ok(Vec::new()), read)?;
    let provider = Arc::new(default_provider());
    let verifier = Verifier::new_with_extra_roots(extra, Arc::clone(&provider))
        .map_err(|error| format!("the certificate authorities cannot be used: {error}"))?;
    let config = builder(provider)?.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    Ok(config.with_no_client_auth())
}

/// For addresses without TLS: no certificate is ever good.
fn unused() -> Result<ClientConfig, String> {
    let config = builder(Arc::new(default_provider()))?.with_root_certificates(RootCertStore::empty());
    Ok(config.with_no_client_auth())
}

fn builder(
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, String> {
    let builder = ClientConfig::builder_with_provider(provider);
    builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())
}

fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let refuse = |reason: &dyn std::fmt::Display| format!("{}: {reason}", path.display());
    let pem = std::fs::read(path).map_err(|error| refuse(&error))?;
    let found = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().map_err(|error| refuse(&error))?;
    if found.is_empty() {
        return Err(refuse(&"there is no certificate in PEM in it"));
    }
    Ok(found)
}

/// Whether a connection failed because the server's certificate is not trusted: that will not pass by itself.
pub(super) fn is_distrust(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if matches!(error.downcast_ref(), Some(rustls::Error::InvalidCertificate(_))) {
            return true;
        }
        // An I/O error hides what it was made of from `source`.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    false
}
