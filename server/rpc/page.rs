//! Pages of lists: opaque tokens that hold the last item's place, so that inserts and deletions shift nothing.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Result, Violations};

/// The items of a page when the caller doesn't say.
const DEFAULT_SIZE: usize = 50;
/// The most items of a page.
pub(super) const MAX_ITEMS: usize = 1_000;
/// The bytes at which a page ends, though it may have more items: a response stays under the 4 MiB that gRPC clients take by
/// default, since no item is larger than 1 MiB.
pub(super) const MAX_BYTES: usize = 3 * 1024 * 1024;

/// What an item adds to its message in the response, in bytes: a tag and a length.
const ITEM_OVERHEAD: usize = 6;

/// Up to where the items of a list are counted.
pub(super) const MAX_TOTAL_SIZE: u64 = 10_000;

/// A page that is asked for. `P` is the place of an item in the list's order.
pub(super) struct Page<P> {
    size: usize,
    after: Option<P>,
    list: [u8; 8],
}

#[derive(Serialize, Deserialize)]
struct Token<P> {
    /// Names the list: a token of another list or filter is refused.
    list: [u8; 8],
    after: P,
}

/// How large the items of a list may be, which is how many are read at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// Up to a few KiB.
    Light,
    /// Up to 64 KiB.
    Medium,
    /// Up to 1 MiB.
    Heavy,
}

impl Weight {
    /// The items that are read first: about as many as fill a page if they are as large as they may be.
    const fn portion(self) -> usize {
        match self {
            Self::Light => MAX_ITEMS + 1,
            Self::Medium => 64,
            Self::Heavy => 4,
        }
    }
}

impl<P: Serialize + DeserializeOwned + Clone> Page<P> {
    /// Reads what a request says of the page. `list` names the list, with its parent; `filter` is the request's.
    pub(super) fn read(
        size: i32,
        token: &str,
        list: &str,
        filter: Option<&impl Message>,
        violations: &mut Violations,
    ) -> Self {
        let list = fingerprint(list, filter);
        let size = match usize::try_from(size).unwrap_or(0) {
            0 => DEFAULT_SIZE,
            size => size.min(MAX_ITEMS),
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

    /// Reads the page in portions, so that large items aren't all in memory, and ends it at [`MAX_BYTES`]. `fetch` returns up
    /// to so many items behind a place, fewer only at the list's end; `place` is an item's, and `show` makes its message.
    ///
    /// # Errors
    ///
    /// Those of `fetch`.
    pub(super) async fn collect<T, M, F, Fut>(
        &self,
        weight: Weight,
        fetch: F,
        place: impl Fn(&T) -> P,
        show: impl Fn(T) -> M,
    ) -> Result<(Vec<M>, String)>
    where
        M: Message,
        F: Fn(Option<P>, u64) -> Fut,
        Fut: Future<Output = Result<Vec<T>>>,
    {
        let (mut shown, mut bytes, mut last) = (Vec::new(), 0, self.after.clone());
        let mut portion = weight.portion();
        loop {
            let wanted = portion.min(self.size + 1 - shown.len());
            let items = fetch(last.clone(), u64::try_from(wanted).unwrap_or(u64::MAX)).await?;
            let is_end = items.len() < wanted;
            for item in items {
                let (place, message) = (place(&item), show(item));
                let length = message.encoded_len() + ITEM_OVERHEAD;
                let is_full = shown.len() == self.size || (bytes + length > MAX_BYTES && !shown.is_empty());
                if is_full {
                    return Ok((shown, last.map(|last| self.token(last)).unwrap_or_default()));
                }
                bytes += length;
                shown.push(message);
                last = Some(place);
            }
            if is_end {
                return Ok((shown, String::new()));
            }
            // As many as would fill the page if they are like those before.
            portion = (MAX_BYTES.saturating_sub(bytes) * shown.len() / bytes.max(1)).max(1);
        }
    }

    fn token(&self, after: P) -> String {
        encode(&Token { list: self.list, after })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn page(size: i32, token: &str) -> Page<usize> {
        Page::read(size, token, "test", None::<&()>, &mut Violations::default())
    }

    /// The lengths of the pages of a list whose items have these sizes in bytes.
    async fn pages(sizes: &[usize], page_size: i32, weight: Weight) -> Vec<usize> {
        let (mut lengths, mut token) = (Vec::new(), String::new());
        loop {
            let fetch = |after: Option<usize>, limit: u64| {
                let first = after.map_or(0, |after| after + 1);
                let limit = usize::try_from(limit).unwrap();
                std::future::ready(Ok((first..sizes.len()).take(limit).collect::<Vec<_>>()))
            };
            let show = |index: usize| "x".repeat(sizes[index]);
            let (shown, next) = page(page_size, &token).collect(weight, fetch, |index| *index, show).await.unwrap();
            assert!(shown.iter().map(String::len).sum::<usize>() <= MAX_BYTES || shown.len() == 1);
            lengths.push(shown.len());
            token = next;
            if token.is_empty() {
                return lengths;
            }
        }
    }

    #[tokio::test]
    async fn a_page_ends_by_items_or_by_bytes() {
        const MIB: usize = 1024 * 1024;
        for weight in [Weight::Light, Weight::Medium, Weight::Heavy] {
            assert_eq!(pages(&[], 10, weight).await, [0]);
            assert_eq!(pages(&[10; 25], 10, weight).await, [10, 10, 5]);
            assert_eq!(pages(&[10; 30], 10, weight).await, [10, 10, 10]);
            assert_eq!(pages(&[MIB; 5], 1_000, weight).await, [2, 2, 1]);
            // One that is too large by itself comes alone.
            assert_eq!(pages(&[4 * MIB, 1, 1], 1_000, weight).await, [1, 2]);
            assert_eq!(pages(&[1; 1_500], 0, weight).await.first(), Some(&DEFAULT_SIZE));
            assert_eq!(pages(&[1; 1_500], i32::MAX, weight).await, [MAX_ITEMS, 500]);
        }
    }
}
