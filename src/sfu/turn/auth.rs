//! Long-term credentials (RFC 8489 9.2), fixed or time-limited.

use super::relay::Client;
use base64::Engine as _;
use ring::hmac;
use std::time::{Duration, Instant};
use turn_types::stun::attribute::{ErrorCode, MessageIntegrity, Nonce, Realm, Username};
use turn_types::stun::message::{IntegrityAlgorithm, IntegrityKey, LongTermKeyCredentials, Message};
use turn_types::stun::prelude::*;

/// Who may come.
#[derive(Clone)]
pub struct Auth {
    realm: String,
    users: Vec<(String, String)>,
    /// Of time-limited credentials: the user name begins with the time at which they expire, in seconds since 1970, and
    /// the password is base64(HMAC-SHA1(secret, user name)) (draft-uberti-behave-turn-rest).
    secret: Option<hmac::Key>,
    nonce_lifetime: Duration,
    nonces: hmac::Key,
    start: Instant,
    start_unix_s: u64,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("realm", &self.realm).finish_non_exhaustive()
    }
}

/// An authenticated user.
#[derive(Clone)]
pub struct User {
    pub name: String,
    pub key: IntegrityKey,
}

/// Why a request's credentials were not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    Unauthorized,
    StaleNonce,
    BadRequest,
}

impl Refusal {
    pub fn code(self) -> u16 {
        match self {
            Refusal::Unauthorized => ErrorCode::UNAUTHORIZED,
            Refusal::StaleNonce => ErrorCode::STALE_NONCE,
            Refusal::BadRequest => ErrorCode::BAD_REQUEST,
        }
    }
}

impl Auth {
    /// `seed` keys the nonces; `start_unix_s` is `start` on the clock that time-limited credentials expire by.
    pub fn new(realm: &str, seed: [u8; 32], start: Instant, start_unix_s: u64) -> Auth {
        Auth {
            realm: realm.to_owned(),
            users: Vec::new(),
            secret: None,
            nonce_lifetime: Duration::from_secs(600),
            nonces: hmac::Key::new(hmac::HMAC_SHA256, &seed),
            start,
            start_unix_s,
        }
    }

    pub fn with_user(mut self, name: &str, password: &str) -> Auth {
        self.users.push((name.to_owned(), password.to_owned()));
        self
    }

    pub fn with_secret(mut self, secret: &str) -> Auth {
        self.secret = Some(hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes()));
        self
    }

    pub fn with_nonce_lifetime(mut self, lifetime: Duration) -> Auth {
        self.nonce_lifetime = lifetime;
        self
    }

    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// A nonce for a client: when it was made, and proof that we made it for this client.
    pub fn nonce(&self, client: Client, now: Instant) -> String {
        self.nonce_of(client, now.saturating_duration_since(self.start).as_millis() as u64)
    }

    fn nonce_of(&self, client: Client, made_ms: u64) -> String {
        let tag = hmac::sign(&self.nonces, format!("{made_ms} {client:?}").as_bytes());
        let tag: String = tag.as_ref()[..12].iter().map(|b| format!("{b:02x}")).collect();
        format!("{made_ms:x}-{tag}")
    }

    fn is_fresh(&self, nonce: &str, client: Client, now: Instant) -> bool {
        let made = nonce.split_once('-').and_then(|(made, _)| u64::from_str_radix(made, 16).ok());
        let Some(made) = made else { return false };
        let age = now.saturating_duration_since(self.start).as_millis() as u64;
        nonce == self.nonce_of(client, made) && age.saturating_sub(made) <= self.nonce_lifetime.as_millis() as u64
    }

    fn password(&self, name: &str, now: Instant) -> Option<String> {
        if let Some((_, password)) = self.users.iter().find(|(known, _)| known == name) {
            return Some(password.clone());
        }
        let secret = self.secret.as_ref()?;
        let expires: u64 = name.split(':').next()?.parse().ok()?;
        let unix_s = self.start_unix_s + now.saturating_duration_since(self.start).as_secs();
        let password = hmac::sign(secret, name.as_bytes());
        (expires > unix_s).then(|| base64::engine::general_purpose::STANDARD.encode(password))
    }

    /// # Errors
    /// What to answer instead.
    pub fn check(&self, request: &Message<'_>, client: Client, now: Instant) -> Result<User, Refusal> {
        if !request.has_attribute(MessageIntegrity::TYPE) {
            return Err(Refusal::Unauthorized);
        }
        let name = request.attribute::<Username>().map_err(|_| Refusal::BadRequest)?;
        let realm = request.attribute::<Realm>().map_err(|_| Refusal::BadRequest)?;
        let nonce = request.attribute::<Nonce>().map_err(|_| Refusal::BadRequest)?;
        if !self.is_fresh(nonce.nonce(), client, now) {
            return Err(Refusal::StaleNonce);
        }
        let name = name.username().to_owned();
        let password = self.password(&name, now).filter(|_| realm.realm() == self.realm);
        let password = password.ok_or(Refusal::Unauthorized)?;
        let credentials = LongTermKeyCredentials::new(name.clone(), password, self.realm.clone());
        let key = credentials.make_key(IntegrityAlgorithm::Sha1);
        request.validate_integrity_with_key(&key).map_err(|_| Refusal::Unauthorized)?;
        Ok(User { name, key })
    }
}
