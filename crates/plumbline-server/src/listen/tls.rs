//! TLS with a certificate that may be exchanged while connections come.

use std::fmt;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

/// The certificate in use; all clones see an exchange. New connections take it, open ones stay as they are.
#[derive(Clone)]
pub(crate) struct Tls {
    config: Arc<RwLock<Arc<ServerConfig>>>,
}

impl Tls {
    /// From a chain, the server's own certificate first, and its key, both in PEM.
    ///
    /// # Errors
    /// What is wrong with them, without a byte of the key.
    pub(crate) fn new(chain: &[u8], key: &[u8]) -> Result<Self, String> {
        Ok(Self { config: Arc::new(RwLock::new(read(chain, key)?)) })
    }

    /// The same into a certificate that is in use. On an error it stays.
    pub(crate) fn replace(&self, chain: &[u8], key: &[u8]) -> Result<(), String> {
        let config = read(chain, key)?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    pub(super) async fn accept<T: AsyncRead + AsyncWrite + Unpin>(&self, stream: T) -> io::Result<TlsStream<T>> {
        let config = Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner));
        TlsAcceptor::from(config).accept(stream).await
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

fn read(chain: &[u8], key: &[u8]) -> Result<Arc<ServerConfig>, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("the certificate is no PEM: {error}"))?;
    if chain.is_empty() {
        return Err("there is no certificate in the certificate file".into());
    }
    // The parser's error could quote what it read, which is a secret.
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "there is no private key in PEM in the key file")?;
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| format!("certificate and key cannot be used together: {error}"))?;
    let mut config = config;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use rcgen::generate_simple_self_signed;

    use super::*;

    fn pair() -> (String, String) {
        let made = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn what_does_not_belong_together_is_refused_and_nothing_is_shown() {
        let ((chain, key), (_, other)) = (pair(), pair());
        let tls = Tls::new(chain.as_bytes(), key.as_bytes()).unwrap();
        for (chain, key, part) in [
            (chain.as_str(), other.as_str(), "together"),
            ("", key.as_str(), "no certificate"),
            (chain.as_str(), chain.as_str(), "no private key"),
            (chain.as_str(), "nothing", "no private key"),
        ] {
            let error = tls.replace(chain.as_bytes(), key.as_bytes()).unwrap_err();
            assert!(error.contains(part) && !error.contains("nothing"), "{error}");
        }
    }
}
