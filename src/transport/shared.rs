//! What all transports of a process share.

use super::crypto::Provider;
use super::hello::offered_profiles;
use super::{Timing, TransportError};
use crate::types::Suite;
use rtc_dtls::config::{ClientAuthType, ConfigBuilder, ExtendedMasterSecretType, HandshakeConfig};
use rtc_dtls::crypto::Certificate;
use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use rtc_ice::agent::agent_config::AgentConfig;
use rtc_ice::crypto::{HashAlgorithm, RTCCryptoProvider};
use rtc_ice::mdns::MulticastDnsMode;
use rtc_ice::network_type::NetworkType;
use std::sync::Arc;
use std::time::Duration;

/// Time between two checks of a pair (RFC 8445 14.2: Ta = 50 ms).
pub(super) const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// One certificate, and the DTLS and ICE settings: made once, 18.5 KiB a transport instead of 77.
pub struct Shared {
    pub(super) provider: Arc<dyn RTCCryptoProvider>,
    pub(super) client: Arc<HandshakeConfig>,
    /// With all suites, and with each one alone.
    server: Arc<HandshakeConfig>,
    server_with: Vec<(SrtpProtectionProfile, Arc<HandshakeConfig>)>,
    pub(super) ice: Arc<AgentConfig>,
    pub(super) timing: Timing,
    fingerprint: String,
}

impl Shared {
    /// `suites` in order of preference; at least one. Errors when no certificate can be made.
    pub fn new(suites: &[Suite], timing: Timing) -> Result<Arc<Shared>, TransportError> {
        let failed = |e: &dyn std::fmt::Display| TransportError::Certificate(e.to_string());
        if suites.is_empty() {
            return Err(failed(&"no SRTP suite given"));
        }
        let provider: Arc<dyn RTCCryptoProvider> = Arc::new(Provider::new());
        let certificate = Certificate::generate_self_signed(vec!["roomful".to_string()], provider.crypto())
            .map_err(|e| failed(&e))?;
        let der = certificate.certificate.first().ok_or_else(|| failed(&"no certificate was made"))?;
        let hash = provider.crypto().hash(HashAlgorithm::Sha256, der.as_ref()).map_err(|e| failed(&e))?;
        let profiles: Vec<_> = suites.iter().map(|s| profile(*s)).collect();
        let handshake = |client, profiles: &[SrtpProtectionProfile]| {
            ConfigBuilder::default()
                .with_crypto_provider(provider.clone())
                .with_certificates(vec![certificate.clone()])
                .with_srtp_protection_profiles(profiles.to_vec())
                .with_client_auth(ClientAuthType::RequireAnyClientCert)
                // A verifying callback could not know which transport asks. The peer's certificate is compared with
                // its description's fingerprint when the handshake is complete, before any key is used.
                .with_insecure_skip_verify(true)
                .with_extended_master_secret(ExtendedMasterSecretType::Require)
                // Always due: the times of retransmission are ours, see `dtls::Association::resend`.
                .with_flight_interval(Duration::from_millis(1))
                .build(client, None)
                .map(Arc::new)
                .map_err(|e| failed(&e))
        };
        let alone = profiles.iter().map(|p| Ok((*p, handshake(false, &[*p])?)));
        Ok(Arc::new(Shared {
            client: handshake(true, &profiles)?,
            server: handshake(false, &profiles)?,
            server_with: alone.collect::<Result<_, TransportError>>()?,
            ice: Arc::new(agent_config()),
            timing,
            fingerprint: hex(hash.as_ref()),
            provider,
        }))
    }

    /// Settings to answer a ClientHello with: as BoringSSL does for browsers, the first of *our* suites that the client
    /// has. rtc-dtls takes the client's first, so the settings leave it no choice.
    pub(super) fn server_for(&self, client_hello: &[u8]) -> &Arc<HandshakeConfig> {
        let Some(offered) = offered_profiles(client_hello) else { return &self.server };
        let offered: Vec<_> = offered.map(SrtpProtectionProfile::from).collect();
        let ours = self.server_with.iter().find(|(profile, _)| offered.contains(profile));
        ours.map_or(&self.server, |(_, config)| config)
    }

    /// SHA-256 of our certificate, `AB:CD:…`.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// SHA-256 of a DER certificate.
    pub(super) fn hash(&self, der: &[u8]) -> Option<Vec<u8>> {
        let hash = self.provider.crypto().hash(HashAlgorithm::Sha256, der).ok()?;
        let hash: &[u8] = hash.as_ref();
        Some(hash.to_vec())
    }
}

fn agent_config() -> AgentConfig {
    AgentConfig {
        multicast_dns_mode: MulticastDnsMode::Disabled,
        network_types: vec![NetworkType::Udp4, NetworkType::Udp6],
        // Never: consent is ours, because rtc-ice takes any inbound STUN for life.
        disconnected_timeout: Some(Duration::ZERO),
        failed_timeout: Some(Duration::ZERO),
        // Makes each `handle_timeout` of a connected agent send one request: the pace is ours, too.
        keepalive_interval: Some(Duration::from_millis(1)),
        check_interval: CHECK_INTERVAL,
        // A pair is given up with the whole transport (`Timing::connect`), not after 8 checks.
        max_binding_requests: Some(u16::MAX - 1),
        // The defaults would add 0.5 to 2 s to the set-up time that we measure.
        host_acceptance_min_wait: Some(Duration::ZERO),
        srflx_acceptance_min_wait: Some(Duration::ZERO),
        prflx_acceptance_min_wait: Some(Duration::ZERO),
        relay_acceptance_min_wait: Some(Duration::ZERO),
        ..AgentConfig::default()
    }
}

fn profile(suite: Suite) -> SrtpProtectionProfile {
    match suite {
        Suite::Aes128CmSha1_80 => SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80,
        Suite::AeadAes128Gcm => SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm,
        Suite::AeadAes256Gcm => SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm,
    }
}

/// The suite of a negotiated profile, if it is one of ours.
pub(super) fn suite(profile: SrtpProtectionProfile) -> Option<Suite> {
    match profile {
        SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80 => Some(Suite::Aes128CmSha1_80),
        SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm => Some(Suite::AeadAes128Gcm),
        SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm => Some(Suite::AeadAes256Gcm),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(":")
}

/// A fingerprint's 32 bytes from `AB:CD:…`, in either case.
pub(super) fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let mut parts = text.trim().split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprint_is_32_bytes_of_hex_and_reads_back() {
        let shared = Shared::new(&[Suite::AeadAes128Gcm], Timing::default()).unwrap();
        let bytes = unhex(shared.fingerprint()).unwrap();
        assert_eq!(hex(&bytes), shared.fingerprint());
        assert_eq!(unhex(&shared.fingerprint().to_lowercase()), Some(bytes));
    }

    #[test]
    fn other_fingerprints_are_refused() {
        let good = vec!["AB"; 32].join(":");
        assert!(unhex(&good).is_some());
        for bad in ["", "AB", "AB:CD", &good[1..], &format!("{good}:00"), &good.replace("AB", "+1")[..95]] {
            assert_eq!(unhex(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_process_without_suites_is_an_error() {
        assert!(matches!(Shared::new(&[], Timing::default()), Err(TransportError::Certificate(_))));
    }
}
