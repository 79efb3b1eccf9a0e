//! rustls, with ring as its only cryptography.

/// Makes ring what rustls uses, in servers and in HTTP requests alike. To call
/// it again changes nothing.
pub fn install() {
    // An error means that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
