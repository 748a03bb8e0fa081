//! Pages of lists: opaque tokens that hold the last item's place, so that inserts and deletions shift nothing.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::Violations;

/// The items of a page when the caller doesn't say.
const DEFAULT_SIZE: u64 = 50;
/// The most items of a page.
const MAX_SIZE: u64 = 1_000;

/// A page that is asked for. `P` is the place of an item in the list's order.
pub(super) struct Page<P> {
    size: u64,
    after: Option<P>,
    list: [u8; 8],
}

#[derive(Serialize, Deserialize)]
struct Token<P> {
    /// Names the list: a token of another list or filter is refused.
    list: [u8; 8],
    after: P,
}

impl<P: Serialize + DeserializeOwned> Page<P> {
    /// Reads what a request says of the page. `list` names the list, with its parent; `filter` is the request's.
    pub(super) fn read(
        size: i32,
        token: &str,
        list: &str,
        filter: Option<&impl Message>,
        violations: &mut Violations,
    ) -> Self {
        let list = fingerprint(list, filter);
        let size = match u64::try_from(size).unwrap_or(0) {
            0 => DEFAULT_SIZE,
            size => size.min(MAX_SIZE),
        };
        let after = if token.is_empty() {
            None
        } else {
            let after = decode(token).filter(|token: &Token<P>| token.list == list).map(|token| token.after);
            if after.is_none() {
                violations.add_if_new(
                    "page_token",
                    "PAGE_TOKEN",
                    "must be the next_page_token of an earlier answer to the same request",
                );
            }
            after
        };
        Self { size, after, list }
    }

    /// The place after which the page begins.
    pub(super) fn after(&self) -> Option<&P> {
        self.after.as_ref()
    }

    /// How many items to read: one more than the page has, which tells whether there is another one.
    pub(super) fn limit(&self) -> u64 {
        self.size + 1
    }

    /// Cuts what was read to the page; answers with it and the token of the next one, empty on the last.
    pub(super) fn cut<T>(&self, mut items: Vec<T>, place: impl Fn(&T) -> P) -> (Vec<T>, String) {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        let has_more = items.len() > size;
        items.truncate(size);
        let token =
            items.last().filter(|_| has_more).map(|last| encode(&Token { list: self.list, after: place(last) }));
        (items, token.unwrap_or_default())
    }
}

fn fingerprint(list: &str, filter: Option<&impl Message>) -> [u8; 8] {
    let mut hash = Sha256::new_with_prefix(list);
    hash.update([0]);
    hash.update(filter.map(Message::encode_to_vec).unwrap_or_default());
    let digest: [u8; 32] = hash.finalize().into();
    digest.first_chunk().copied().unwrap_or_default()
}

fn encode<P: Serialize>(token: &Token<P>) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(token).unwrap_or_default())
}

fn decode<P: DeserializeOwned>(token: &str) -> Option<Token<P>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).ok()?).ok()
}
