//! Signature algorithms of tokens (RFC 7518 §3.1, RFC 8037).

use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, VerificationAlgorithm,
};

/// An algorithm that a token may be signed with: asymmetric ones only, so that nobody who can verify
/// a token can make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// RSA, PKCS #1 v1.5, SHA-256.
    Rs256,
    /// RSA, PKCS #1 v1.5, SHA-384.
    Rs384,
    /// RSA, PKCS #1 v1.5, SHA-512.
    Rs512,
    /// RSA-PSS, SHA-256.
    Ps256,
    /// RSA-PSS, SHA-384.
    Ps384,
    /// RSA-PSS, SHA-512.
    Ps512,
    /// ECDSA on P-256.
    Es256,
    /// ECDSA on P-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

/// What verifies a signature.
pub(super) enum Check {
    Rsa(&'static RsaParameters),
    Point(&'static dyn VerificationAlgorithm),
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Algorithm; 9] = [
        Algorithm::Rs256,
        Algorithm::Rs384,
        Algorithm::Rs512,
        Algorithm::Ps256,
        Algorithm::Ps384,
        Algorithm::Ps512,
        Algorithm::Es256,
        Algorithm::Es384,
        Algorithm::EdDsa,
    ];

    /// What an issuer may sign with that is not pinned to some: what providers do sign with.
    pub const DEFAULT: [Algorithm; 5] =
        [Algorithm::Rs256, Algorithm::Ps256, Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa];

    /// The algorithm of a JWS header; `None` for any other, `none` and HMAC among them.
    pub fn parse(name: &str) -> Option<Algorithm> {
        match name {
            // The name of RFC 9864 for the one curve of it that is verified here.
            "Ed25519" => Some(Algorithm::EdDsa),
            name => Algorithm::ALL.into_iter().find(|one| one.as_str() == name),
        }
    }

    /// Its name in a JWS header.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Rs256 => "RS256",
            Algorithm::Rs384 => "RS384",
            Algorithm::Rs512 => "RS512",
            Algorithm::Ps256 => "PS256",
            Algorithm::Ps384 => "PS384",
            Algorithm::Ps512 => "PS512",
            Algorithm::Es256 => "ES256",
            Algorithm::Es384 => "ES384",
            Algorithm::EdDsa => "EdDSA",
        }
    }

    pub(super) fn check(self) -> Check {
        match self {
            Algorithm::Rs256 => Check::Rsa(&RSA_PKCS1_2048_8192_SHA256),
            Algorithm::Rs384 => Check::Rsa(&RSA_PKCS1_2048_8192_SHA384),
            Algorithm::Rs512 => Check::Rsa(&RSA_PKCS1_2048_8192_SHA512),
            Algorithm::Ps256 => Check::Rsa(&RSA_PSS_2048_8192_SHA256),
            Algorithm::Ps384 => Check::Rsa(&RSA_PSS_2048_8192_SHA384),
            Algorithm::Ps512 => Check::Rsa(&RSA_PSS_2048_8192_SHA512),
            Algorithm::Es256 => Check::Point(&ECDSA_P256_SHA256_FIXED),
            Algorithm::Es384 => Check::Point(&ECDSA_P384_SHA384_FIXED),
            Algorithm::EdDsa => Check::Point(&ED25519),
        }
    }
}
