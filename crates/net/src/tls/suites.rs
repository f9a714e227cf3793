//! Versions and cipher suites by the names that Go's flags use.

use std::sync::Arc;

use rustls::{
    CipherSuite, SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    version::{TLS12, TLS13},
};

use super::TlsError;

/// The oldest TLS version that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    #[default]
    V1_2,
    V1_3,
}

/// The cipher suites of TLS 1.2 that are offered; those of TLS 1.3 are not up for choice, as in Go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CipherSuites(Option<Vec<CipherSuite>>);

/// Suites of TLS 1.2 that are supported, by Go's names.
const TLS12_SUITES: [(&str, CipherSuite); 6] = [
    (
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// Suites of TLS 1.3: accepted, always on.
const TLS13_SUITES: [&str; 3] =
    ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];

/// Go's other names for suites above.
const ALIASES: [(&str, &str); 2] = [
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
];

/// Suites that Go knows and nobody should use: left out with a warning, so that a list that names
/// them beside others still starts.
const REFUSED_SUITES: [&str; 15] = [
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
];

// === impl TlsVersion ===

impl TlsVersion {
    /// The names of `--tls-min-version`.
    pub const NAMES: [&str; 4] = ["VersionTLS10", "VersionTLS11", "VersionTLS12", "VersionTLS13"];

    /// Reads a name; empty means the default. Versions 1.0 and 1.1 are spoken by nobody any more:
    /// they mean 1.2, with a warning.
    pub fn from_name(name: &str) -> Result<Self, TlsError> {
        match name {
            "" | "VersionTLS12" => Ok(Self::V1_2),
            "VersionTLS13" => Ok(Self::V1_3),
            "VersionTLS10" | "VersionTLS11" => {
                tracing::warn!(asked = name, used = "VersionTLS12", "TLS version is not supported");
                Ok(Self::V1_2)
            }
            _ => Err(TlsError::UnknownVersion { name: name.to_owned() }),
        }
    }

    pub(super) fn and_newer(self) -> &'static [&'static SupportedProtocolVersion] {
        static FROM_1_2: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
        static FROM_1_3: [&SupportedProtocolVersion; 1] = [&TLS13];
        match self {
            Self::V1_2 => &FROM_1_2,
            Self::V1_3 => &FROM_1_3,
        }
    }
}

// === impl CipherSuites ===

impl CipherSuites {
    /// All names that have an effect or are accepted.
    pub fn names() -> Vec<&'static str> {
        TLS12_SUITES.iter().map(|(name, _)| *name).chain(TLS13_SUITES).collect()
    }

    /// Reads Go's names; an empty list means the default.
    pub fn from_names<S: AsRef<str>>(names: &[S]) -> Result<Self, TlsError> {
        if names.is_empty() {
            return Ok(Self(None));
        }
        let mut chosen = Vec::new();
        let mut only_refused = true;
        for name in names {
            let name = name.as_ref().trim();
            let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, to)| to);
            if let Some((_, suite)) = TLS12_SUITES.iter().find(|(known, _)| *known == name) {
                chosen.push(*suite);
                only_refused = false;
            } else if TLS13_SUITES.contains(&name) {
                only_refused = false;
            } else if REFUSED_SUITES.contains(&name) {
                tracing::warn!(suite = name, "insecure cipher suite is not supported, left out");
            } else {
                return Err(TlsError::UnknownSuite { name: name.to_owned() });
            }
        }
        if only_refused { Err(TlsError::NoSuiteLeft) } else { Ok(Self(Some(chosen))) }
    }

    pub(super) fn provider(&self) -> CryptoProvider {
        let mut provider = aws_lc_rs::default_provider();
        if let Self(Some(chosen)) = self {
            provider.cipher_suites.retain(|suite| match suite {
                SupportedCipherSuite::Tls13(_) => true,
                SupportedCipherSuite::Tls12(suite) => chosen.contains(&suite.common.suite),
            });
        }
        provider
    }
}

/// The default cryptography. Handed to each configuration: nothing installs a process-wide one.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_by_go_names() {
        for (name, version) in [
            ("", TlsVersion::V1_2),
            ("VersionTLS10", TlsVersion::V1_2),
            ("VersionTLS11", TlsVersion::V1_2),
            ("VersionTLS12", TlsVersion::V1_2),
            ("VersionTLS13", TlsVersion::V1_3),
        ] {
            assert_eq!(TlsVersion::from_name(name).unwrap(), version, "{name}");
        }
        let error = TlsVersion::from_name("TLS1.2").unwrap_err().to_string();
        assert!(error.contains("`TLS1.2`") && error.contains("VersionTLS13"), "{error}");
    }

    fn n_tls12(names: &[&str]) -> usize {
        let suites = CipherSuites::from_names(names).unwrap().provider().cipher_suites;
        assert_eq!(suites.iter().filter(|suite| suite.tls13().is_some()).count(), 3);
        suites.len() - 3
    }

    #[test]
    fn suites_by_go_names() {
        assert_eq!(n_tls12(&[]), 6);
        assert_eq!(n_tls12(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]), 1);
        assert_eq!(n_tls12(&["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"]), 1);
        assert_eq!(n_tls12(&["TLS_AES_128_GCM_SHA256"]), 0);
        let mixed = ["TLS_RSA_WITH_AES_128_CBC_SHA", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"];
        assert_eq!(n_tls12(&mixed), 1);
        for (name, _) in TLS12_SUITES {
            assert_eq!(n_tls12(&[name]), 1, "{name}");
        }
    }

    #[test]
    fn unknown_suites_are_errors_that_list_the_known() {
        let error = CipherSuites::from_names(&["TLS_FANCY"]).unwrap_err().to_string();
        assert!(
            error.contains("`TLS_FANCY`") && error.contains("TLS_AES_128_GCM_SHA256"),
            "{error}"
        );
        let only_bad = CipherSuites::from_names(&["TLS_RSA_WITH_RC4_128_SHA"]);
        assert!(matches!(only_bad, Err(TlsError::NoSuiteLeft)));
    }
}
