//! The crypto of DTLS and ICE: ring's, which is not asked the same question twice.

use rtc_crypto::providers::RingProvider;
use rtc_crypto::{
    ActiveKeyExchange, AeadAlgorithm, AeadCipher, BlockCipherAlgorithm, CbcAlgorithm, CbcCipher, CryptoAlgorithm,
    CryptoError, HashAlgorithm, HmacAlgorithm, KeyExchangeAlgorithm, Mac, PublicKey, PublicKeyEncoding, RTCCrypto,
    RTCCryptoProvider, RTCRandom, SignatureScheme, SigningKey, StreamCipher, StreamCipherAlgorithm,
};
use std::cell::RefCell;
use std::sync::Arc;

/// rtc-dtls as a server reads the client's last flight twice, for its keys and for its Finished, and each time verifies
/// the signature in it (CertificateVerify): a tenth of all that a handshake costs both sides together. So the last
/// signature that was found good on this thread is remembered.
pub(super) struct Provider(RingProvider);

impl Provider {
    pub fn new() -> Provider {
        Provider(RingProvider::new())
    }
}

/// All that a verification depends on.
#[derive(Default)]
struct Verified {
    what: Option<(SignatureScheme, PublicKeyEncoding)>,
    key: Vec<u8>,
    message: Vec<u8>,
    signature: Vec<u8>,
}

impl Verified {
    fn is(&self, what: (SignatureScheme, PublicKeyEncoding), key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        self.what == Some(what) && self.signature == signature && self.key == key && self.message == message
    }

    fn set(&mut self, what: (SignatureScheme, PublicKeyEncoding), key: &[u8], message: &[u8], signature: &[u8]) {
        self.what = Some(what);
        for (ours, theirs) in [(&mut self.key, key), (&mut self.message, message), (&mut self.signature, signature)] {
            ours.clear();
            ours.extend_from_slice(theirs);
        }
    }
}

thread_local! {
    static LAST: RefCell<Verified> = RefCell::default();
    #[cfg(test)]
    static ASKED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl RTCCryptoProvider for Provider {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn crypto(&self) -> &dyn RTCCrypto {
        self
    }

    fn random(&self) -> &dyn RTCRandom {
        self.0.random()
    }
}

impl RTCCrypto for Provider {
    fn verify_signature(
        &self,
        scheme: SignatureScheme,
        public_key: PublicKey<'_>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), CryptoError> {
        let (what, key) = ((scheme, public_key.encoding), public_key.bytes);
        if LAST.with_borrow(|last| last.is(what, key, message, signature)) {
            return Ok(());
        }
        #[cfg(test)]
        ASKED.set(ASKED.get() + 1);
        self.0.crypto().verify_signature(scheme, public_key, message, signature)?;
        LAST.with_borrow_mut(|last| last.set(what, key, message, signature));
        Ok(())
    }

    fn supports(&self, algorithm: CryptoAlgorithm) -> bool {
        self.0.crypto().supports(algorithm)
    }

    fn hash(&self, algorithm: HashAlgorithm, data: &[u8]) -> Result<Vec<u8>, CryptoError> {
        self.0.crypto().hash(algorithm, data)
    }

    fn block_encrypt(&self, algorithm: BlockCipherAlgorithm, key: &[u8], block: &mut [u8]) -> Result<(), CryptoError> {
        self.0.crypto().block_encrypt(algorithm, key, block)
    }

    fn new_hmac(&self, algorithm: HmacAlgorithm, key: &[u8]) -> Result<Box<dyn Mac>, CryptoError> {
        self.0.crypto().new_hmac(algorithm, key)
    }

    fn new_stream_cipher(
        &self,
        algorithm: StreamCipherAlgorithm,
        key: &[u8],
    ) -> Result<Box<dyn StreamCipher>, CryptoError> {
        self.0.crypto().new_stream_cipher(algorithm, key)
    }

    fn new_aead(&self, algorithm: AeadAlgorithm, key: &[u8]) -> Result<Box<dyn AeadCipher>, CryptoError> {
        self.0.crypto().new_aead(algorithm, key)
    }

    fn new_cbc(&self, algorithm: CbcAlgorithm, key: &[u8]) -> Result<Box<dyn CbcCipher>, CryptoError> {
        self.0.crypto().new_cbc(algorithm, key)
    }

    fn start_key_exchange(&self, algorithm: KeyExchangeAlgorithm) -> Result<Box<dyn ActiveKeyExchange>, CryptoError> {
        self.0.crypto().start_key_exchange(algorithm)
    }

    fn generate_signing_key(&self, scheme: SignatureScheme) -> Result<Arc<dyn SigningKey>, CryptoError> {
        self.0.crypto().generate_signing_key(scheme)
    }

    fn import_signing_key(&self, scheme: SignatureScheme, pkcs8: &[u8]) -> Result<Arc<dyn SigningKey>, CryptoError> {
        self.0.crypto().import_signing_key(scheme, pkcs8)
    }
}

/// Signatures that ring was asked to verify on this thread until now.
#[cfg(test)]
pub(super) fn verifications() -> usize {
    ASKED.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_same_signature_is_taken_for_good() {
        let provider = Provider::new();
        let scheme = SignatureScheme::EcdsaP256Sha256;
        let [one, other] = [0, 1].map(|_| provider.generate_signing_key(scheme).unwrap());
        let [key, other_key] = [&one, &other].map(|k| k.public_key().bytes.to_vec());
        let signature = one.sign(scheme, b"message").unwrap().to_vec();
        let verify = |key: &[u8], message: &[u8], signature: &[u8]| {
            let key = PublicKey { encoding: PublicKeyEncoding::EcUncompressedPoint, bytes: key };
            provider.verify_signature(scheme, key, message, signature).is_ok()
        };
        let mut bent = signature.clone();
        *bent.last_mut().unwrap() ^= 1;
        let bad =
            [(&other_key, &b"message"[..], &signature), (&key, b"messagE", &signature), (&key, b"message", &bent)];
        assert!(bad.iter().all(|(k, m, s)| !verify(k, m, s)));
        let before = verifications();
        assert!(verify(&key, b"message", &signature) && verify(&key, b"message", &signature));
        assert_eq!(verifications() - before, 1);
        assert!(bad.iter().all(|(k, m, s)| !verify(k, m, s)));
        assert!(bad.iter().all(|(k, m, s)| !verify(k, m, s)), "what was found bad is no good the second time");
        assert_eq!(verifications() - before, 7);
    }
}
