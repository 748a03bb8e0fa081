//! Encryption of secrets at rest, and the master key that it hangs on.
//!
//! A sealed secret is `version (1 byte) | key id (8) | nonce (24) | ciphertext and tag`, by XChaCha20-Poly1305: its
//! nonces are long enough to be random. The key id tells a wrong key from a damaged value, and which key opens a value
//! while the master key is being changed. The header and a context are authenticated with it, so that a sealed value
//! that is moved to another row doesn't open.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use rand::CryptoRng;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

const KEY_BYTES: usize = 32;
const KEY_ID_BYTES: usize = 8;
const NONCE_BYTES: usize = 24;
const VERSION: u8 = 1;

/// The key that seals all other secrets: 32 bytes. It isn't shown by `Debug`.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<[u8; KEY_BYTES]>);

impl MasterKey {
    /// Makes a new random key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        rng.fill_bytes(bytes.as_mut_slice());
        Self(bytes)
    }

    /// Reads the written form, standard base64 with padding; white space around it is ignored.
    ///
    /// # Errors
    ///
    /// The text isn't base64 of 32 bytes.
    pub fn parse_base64(text: &str) -> Result<Self, InvalidMasterKey> {
        let bytes = STANDARD.decode(text.trim()).map(Zeroizing::new).map_err(|_| InvalidMasterKey)?;
        let bytes = <[u8; KEY_BYTES]>::try_from(bytes.as_slice()).map_err(|_| InvalidMasterKey)?;
        Ok(Self(Zeroizing::new(bytes)))
    }

    /// The written form, for the key file.
    #[must_use]
    pub fn expose_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.0.as_slice()))
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

/// The text isn't a master key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a master key is standard base64 of 32 bytes")]
pub struct InvalidMasterKey;

/// Seals and opens secrets with one master key.
#[derive(Clone)]
pub struct Sealer {
    cipher: XChaCha20Poly1305,
    key_id: [u8; KEY_ID_BYTES],
}

impl Sealer {
    /// Makes the sealer of a master key.
    #[must_use]
    pub fn new(key: &MasterKey) -> Self {
        Self::from_key_bytes(&key.0)
    }

    /// Makes the sealer of a key by its bytes.
    #[must_use]
    pub fn from_key_bytes(key: &[u8; KEY_BYTES]) -> Self {
        let digest = Sha256::new().chain_update("taghook master key id v1").chain_update(key).finalize();
        let mut key_id = [0; KEY_ID_BYTES];
        key_id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        Self { cipher: XChaCha20Poly1305::new(key.into()), key_id }
    }

    /// Encrypts `plaintext`. `context` says whose secret it is and what for (workspace, webhook, purpose); the same
    /// context opens it.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "it can't happen: the cipher's limit is 256 GiB")]
    #[expect(clippy::expect_used, reason = "the cipher refuses only plaintexts over 256 GiB")]
    pub fn seal(&self, rng: &mut impl CryptoRng, context: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let mut nonce = XNonce::default();
        rng.fill_bytes(&mut nonce);
        let mut sealed = vec![VERSION];
        sealed.extend_from_slice(&self.key_id);
        let aad = authenticated(&sealed, context);
        let payload = Payload { msg: plaintext, aad: &aad };
        let ciphertext = self.cipher.encrypt(&nonce, payload).expect("a secret is shorter than 256 GiB");
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&ciphertext);
        sealed
    }

    /// Decrypts what [`Sealer::seal`] made with the same key and context.
    ///
    /// # Errors
    ///
    /// [`OpenError::WrongKey`] if another key sealed it, [`OpenError::Corrupt`] if it is damaged, of an unknown
    /// version, or of another context.
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let (header, rest) = sealed.split_at_checked(1 + KEY_ID_BYTES).ok_or(OpenError::Corrupt)?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(OpenError::Corrupt)?;
        match header {
            [VERSION, key_id @ ..] if key_id == self.key_id => {}
            [VERSION, ..] => return Err(OpenError::WrongKey),
            _ => return Err(OpenError::Corrupt),
        }
        let payload = Payload { msg: ciphertext, aad: &authenticated(header, context) };
        self.cipher.decrypt(nonce.into(), payload).map(Zeroizing::new).map_err(|_| OpenError::Corrupt)
    }

    /// Whether a sealed value says that this key sealed it.
    #[must_use]
    pub fn has_sealed(&self, sealed: &[u8]) -> bool {
        sealed.get(1..1 + KEY_ID_BYTES) == Some(self.key_id.as_slice())
    }

    /// The key's id, in hexadecimal: it tells keys apart and nothing of them.
    #[must_use]
    pub fn key_id(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.key_id)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(..)")
    }
}

/// Why a sealed secret doesn't open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It was sealed with another master key.
    #[error("the secret was sealed with another master key")]
    WrongKey,
    /// It isn't what was sealed for this context.
    #[error("the sealed secret is damaged")]
    Corrupt,
}

/// What the tag covers beside the plaintext. The header's length is fixed, so the parts can't be told apart wrongly.
fn authenticated(header: &[u8], context: &[u8]) -> Vec<u8> {
    [header, context].concat()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const ASCENDING: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const CONTEXT: &[u8] = b"wrk_1/whk_1/signing";
    /// Made by Python's `Crypto.Cipher.ChaCha20_Poly1305`, with the nonce 0x40 to 0x57.
    const FROM_PYTHON: [u8; 60] = [
        0x01, 0x69, 0x02, 0xc1, 0x17, 0xc1, 0x62, 0x77, 0xa2, 0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48,
        0x49, 0x4a, 0x4b, 0x4c, 0x4d, 0x4e, 0x4f, 0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0xa3, 0x51, 0x76,
        0x15, 0xb3, 0xc0, 0x1b, 0x6f, 0xfb, 0x91, 0xf4, 0x46, 0x6f, 0xea, 0x4d, 0x68, 0x5f, 0x86, 0xb4, 0x2b, 0x8c,
        0xfb, 0xff, 0x2e, 0x7f, 0x56, 0xde,
    ];

    fn sealer(seed: u64) -> Sealer {
        Sealer::new(&MasterKey::generate(&mut StdRng::seed_from_u64(seed)))
    }

    #[test]
    fn what_is_sealed_opens() {
        let with = sealer(1);
        let mut rng = StdRng::seed_from_u64(9);
        for plaintext in [b"".as_slice(), b"s", &[0xff; 4096]] {
            let sealed = with.seal(&mut rng, CONTEXT, plaintext);
            assert_eq!(sealed.len(), 1 + 8 + 24 + plaintext.len() + 16);
            assert_eq!(with.open(CONTEXT, &sealed).unwrap().as_slice(), plaintext);
            assert_ne!(with.seal(&mut rng, CONTEXT, plaintext), sealed, "the nonce is fresh");
        }
    }

    #[test]
    fn a_value_from_the_outside_opens() {
        let sealer = Sealer::new(&MasterKey::parse_base64(ASCENDING).unwrap());
        assert_eq!(sealer.open(CONTEXT, &FROM_PYTHON).unwrap().as_slice(), b"whsec bytes");
    }

    #[test]
    fn another_key_is_told_from_damage() {
        let sealed = sealer(1).seal(&mut StdRng::seed_from_u64(9), CONTEXT, b"secret");
        assert!(sealer(1).has_sealed(&sealed) && !sealer(2).has_sealed(&sealed) && !sealer(1).has_sealed(b""));
        assert_eq!(sealer(2).open(CONTEXT, &sealed), Err(OpenError::WrongKey));
        assert_eq!(sealer(1).open(b"wrk_1/whk_2/signing", &sealed), Err(OpenError::Corrupt));
        assert_eq!(sealer(1).open(b"", &sealed), Err(OpenError::Corrupt));
        for length in 0..sealed.len() {
            assert_eq!(sealer(1).open(CONTEXT, &sealed[..length]), Err(OpenError::Corrupt), "{length} bytes");
        }
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            let expected = if (1..9).contains(&at) { OpenError::WrongKey } else { OpenError::Corrupt };
            assert_eq!(sealer(1).open(CONTEXT, &damaged), Err(expected), "byte {at}");
        }
    }

    #[test]
    fn master_keys_are_read_and_written() {
        let key = MasterKey::parse_base64(&format!("  {ASCENDING}\n")).unwrap();
        assert_eq!(*key.expose_base64(), ASCENDING);
        let generated = MasterKey::generate(&mut StdRng::seed_from_u64(1)).expose_base64();
        assert_eq!(MasterKey::parse_base64(&generated).unwrap().expose_base64(), generated);
        for text in
            ["", "AAEC", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g"]
        {
            assert_eq!(MasterKey::parse_base64(text).unwrap_err(), InvalidMasterKey, "{text:?}");
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let key = MasterKey::parse_base64(ASCENDING).unwrap();
        assert_eq!(format!("{key:?} {:?}", Sealer::new(&key)), "MasterKey(..) Sealer(..)");
    }
}
