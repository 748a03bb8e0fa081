//! Cursors: places in a workspace's log, opaque to callers and proof against forgery.
//!
//! `version (1 byte) | workspace (16) | log epoch (16) | position (8) | MAC (16)`, in base64url: HMAC-SHA256 over what
//! comes before, cut to 16 bytes, with a key that the deployment keeps sealed. It is the same for every server.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::domain::outcome::Position;
use crate::error::{Error, Result};
use crate::ids::WorkspaceId;
use crate::store::deployment::Facts;

const VERSION: u8 = 1;
const BODY_BYTES: usize = 1 + 16 + 16 + 8;
const MAC_BYTES: usize = 16;

/// Writes a cursor.
#[must_use]
pub fn encode(facts: &Facts, workspace: WorkspaceId, position: Position) -> String {
    let mut bytes = body(facts, workspace, position);
    let mac = mac(facts, &bytes);
    bytes.extend_from_slice(&mac);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads a cursor of the workspace.
///
/// # Errors
///
/// [`Error::CursorInvalid`] if it is malformed, forged, or of another workspace or deployment.
pub fn decode(facts: &Facts, workspace: WorkspaceId, text: &str) -> Result<Position> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| Error::CursorInvalid)?;
    let (given, given_mac) = bytes.split_at_checked(BODY_BYTES).ok_or(Error::CursorInvalid)?;
    let position =
        given.last_chunk::<8>().map(|bytes| Position(i64::from_be_bytes(*bytes))).ok_or(Error::CursorInvalid)?;
    let is_ours = given == body(facts, workspace, position);
    let is_authentic = bool::from(mac(facts, given).ct_eq(given_mac));
    if is_ours && is_authentic { Ok(position) } else { Err(Error::CursorInvalid) }
}

fn body(facts: &Facts, workspace: WorkspaceId, position: Position) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BODY_BYTES + MAC_BYTES);
    bytes.push(VERSION);
    bytes.extend_from_slice(workspace.0.as_bytes());
    bytes.extend_from_slice(facts.log_epoch.as_bytes());
    bytes.extend_from_slice(&position.0.to_be_bytes());
    bytes
}

fn mac(facts: &Facts, body: &[u8]) -> [u8; MAC_BYTES] {
    let mut key = [0; 64];
    key.iter_mut().zip(facts.cursor_key).for_each(|(to, from)| *to = from);
    let mut mac = Hmac::<Sha256>::new(&key.into());
    mac.update(body);
    let full: [u8; 32] = mac.finalize().into_bytes().into();
    full.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn facts(epoch: u128, key: u8) -> Facts {
        let default_workspace = WorkspaceId(Uuid::nil());
        Facts { log_epoch: Uuid::from_u128(epoch), cursor_key: [key; 32], default_workspace }
    }

    #[test]
    fn a_cursor_is_good_for_its_workspace_and_log_alone() {
        let (ours, theirs) = (WorkspaceId(Uuid::from_u128(1)), WorkspaceId(Uuid::from_u128(2)));
        let cursor = encode(&facts(7, 1), ours, Position(42));
        assert_eq!(decode(&facts(7, 1), ours, &cursor).unwrap(), Position(42));
        for (facts, workspace) in [(facts(7, 1), theirs), (facts(8, 1), ours), (facts(7, 2), ours)] {
            assert!(matches!(decode(&facts, workspace, &cursor), Err(Error::CursorInvalid)));
        }
    }

    #[test]
    fn no_changed_cursor_is_taken() {
        let ours = WorkspaceId(Uuid::from_u128(1));
        let cursor = URL_SAFE_NO_PAD.decode(encode(&facts(7, 1), ours, Position(42))).unwrap();
        for index in 0..cursor.len() {
            let mut forged = cursor.clone();
            forged[index] ^= 1;
            assert!(decode(&facts(7, 1), ours, &URL_SAFE_NO_PAD.encode(forged)).is_err(), "byte {index}");
        }
        for length in 0..cursor.len() {
            assert!(decode(&facts(7, 1), ours, &URL_SAFE_NO_PAD.encode(&cursor[..length])).is_err(), "{length} bytes");
        }
        for text in ["", "!", "AAAA", "null"] {
            assert!(decode(&facts(7, 1), ours, text).is_err(), "{text:?}");
        }
    }
}
