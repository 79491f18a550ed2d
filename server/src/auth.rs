//! Passwords, secrets, roles, and the brake on sign-ins.

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// What somebody may do; each includes the ones before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look.
    Monitor,
    /// Look and order.
    Control,
    /// Everything.
    Admin,
}

impl Role {
    /// Word in API and database.
    pub fn word(self) -> &'static str {
        match self {
            Role::Monitor => "monitor",
            Role::Control => "control",
            Role::Admin => "admin",
        }
    }
    /// The role of that word; the least one for a word this version does not know.
    pub fn of_word(word: &str) -> Role {
        match word {
            "admin" => Role::Admin,
            "control" => Role::Control,
            _ => Role::Monitor,
        }
    }
}

/// A secret of 256 random bits as text for URLs and headers.
pub fn new_secret() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let mut out = [0; 32];
    out.copy_from_slice(digest.as_ref());
    out
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Hashes at once: argon2 takes 19 MiB and a good part of a core each, and two cores serve everything else too.
const HASHES_MAX: usize = 2;
/// Shortest password accepted.
pub const PASSWORD_CHARS_MIN: usize = 8;
/// Longest password accepted: a bound on what is hashed.
pub const PASSWORD_BYTES_MAX: usize = 1024;

/// Hashes and checks passwords away from the runtime's threads.
#[derive(Debug)]
pub struct Passwords {
    slots: Semaphore,
    /// Checked for users that do not exist, so that the answer takes as long.
    decoy: String,
}

impl Default for Passwords {
    fn default() -> Self {
        Self::new()
    }
}

impl Passwords {
    /// Ready to hash.
    pub fn new() -> Passwords {
        let decoy = hash(&new_secret()).expect("argon2 with its default parameters accepts any short password");
        Passwords { slots: Semaphore::new(HASHES_MAX), decoy }
    }

    /// PHC string of `password`.
    pub async fn hash(&self, password: String) -> anyhow::Result<String> {
        let _slot = self.slots.acquire().await?;
        tokio::task::spawn_blocking(move || hash(&password)).await?
    }

    /// Whether `password` is that of `stored`; always false, and as slow, without one.
    pub async fn verify(&self, password: String, stored: Option<String>) -> anyhow::Result<bool> {
        let _slot = self.slots.acquire().await?;
        let exists = stored.is_some();
        let stored = stored.unwrap_or_else(|| self.decoy.clone());
        let is_right =
            tokio::task::spawn_blocking(move || Argon2::default().verify_password(password.as_bytes(), stored.as_str()).is_ok()).await?;
        Ok(is_right && exists)
    }
}

fn hash(password: &str) -> anyhow::Result<String> {
    let hashed = Argon2::default().hash_password(password.as_bytes()).map_err(|e| anyhow::anyhow!("cannot hash a password: {e}"))?;
    Ok(hashed.to_string())
}

/// Failed sign-ins an account or address may make at once …
const TRIES_MAX: u32 = 8;
/// … and the time in which one of them is forgiven.
const TRY_EVERY: Duration = Duration::from_secs(15);
/// Accounts and addresses watched at once; the oldest make room. Bounds the memory an attacker can take.
const WATCHED_MAX: usize = 10_000;

/// Slows down guessing, per account and per address. In memory: a restart forgives.
#[derive(Debug, Default)]
pub struct SignInBrake {
    failures: Mutex<BTreeMap<String, (u32, Instant)>>,
}

impl SignInBrake {
    /// Time to wait before `account` may be tried from `address`, if any.
    pub fn wait(&self, account: &str, address: IpAddr) -> Option<Duration> {
        let failures = self.failures.lock().expect("nobody panics while holding this lock");
        let wait = |key: &str| {
            let (count, last) = failures.get(key)?;
            let forgiven = (last.elapsed().as_secs() / TRY_EVERY.as_secs()) as u32;
            (count.saturating_sub(forgiven) >= TRIES_MAX).then_some(TRY_EVERY)
        };
        wait(&format!("u:{account}")).or_else(|| wait(&format!("a:{address}")))
    }

    /// A failed try.
    pub fn failed(&self, account: &str, address: IpAddr) {
        let mut failures = self.failures.lock().expect("nobody panics while holding this lock");
        for key in [format!("u:{account}"), format!("a:{address}")] {
            if failures.len() >= WATCHED_MAX && !failures.contains_key(&key) {
                let oldest = failures.iter().min_by_key(|(_, (_, at))| *at).map(|(k, _)| k.clone());
                if let Some(oldest) = oldest {
                    failures.remove(&oldest);
                }
            }
            let entry = failures.entry(key).or_insert((0, Instant::now()));
            let forgiven = (entry.1.elapsed().as_secs() / TRY_EVERY.as_secs()) as u32;
            *entry = (entry.0.saturating_sub(forgiven) + 1, Instant::now());
        }
    }

    /// A successful one forgives the account (not the address, which may be guessing others).
    pub fn succeeded(&self, account: &str) {
        self.failures.lock().expect("nobody panics while holding this lock").remove(&format!("u:{account}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_checked_against_its_own_hash_only() {
        let passwords = Passwords::new();
        let stored = passwords.hash("correct horse".into()).await.unwrap();
        assert!(stored.starts_with("$argon2id$"), "{stored}");
        assert!(passwords.verify("correct horse".into(), Some(stored.clone())).await.unwrap());
        assert!(!passwords.verify("wrong horse".into(), Some(stored)).await.unwrap());
        assert!(!passwords.verify("anything".into(), None).await.unwrap());
    }

    #[test]
    fn guessing_is_braked_per_account_and_per_address() {
        let brake = SignInBrake::default();
        let (here, there): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        for _ in 0..TRIES_MAX {
            assert_eq!(brake.wait("root", here), None);
            brake.failed("root", here);
        }
        assert!(brake.wait("root", there).is_some(), "the account, from anywhere");
        assert!(brake.wait("other", here).is_some(), "the address, for any account");
        assert_eq!(brake.wait("other", there), None);
        brake.succeeded("root");
        assert_eq!(brake.wait("root", there), None);
    }
}
