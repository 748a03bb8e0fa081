//! Batches of calls: the items that can be read are done together, each other one keeps its error.

use prost::{Message, Name};

use super::call::{Call, request_key};
use super::repeat::Repeatable;
use crate::automation::{Shared, run_each};
use crate::error::{Error, Result, Violations};
use crate::store::Store;
use crate::store::request::RequestKey;

/// The most items of a batch.
pub(super) const MAX_ITEMS: usize = 1_000;

/// The items of a batch.
pub(super) struct Batch<W> {
    /// In the order of the request: why the item was refused, or `None` if it is among the good ones.
    refused: Vec<Option<Error>>,
    good: Vec<(W, Option<RequestKey>)>,
}

impl<W: Shared> Batch<W> {
    /// Reads a batch's items, each by the rules of the call that it stands for; `read` says what it wants.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the batch is empty or too large: the items are left out of its proto's rules, and with them
    /// their number.
    pub(super) fn read<B, M: Repeatable + Message + Name>(
        call: &mut Call<B>,
        items: Vec<M>,
        read: impl Fn(M, &mut Violations) -> Option<W>,
    ) -> Result<Self> {
        let count = items.len();
        if !(1..=MAX_ITEMS).contains(&count) {
            let rule = format!("must have 1 to {MAX_ITEMS} items; has {count}");
            call.violations.add_if_new("requests", "ITEMS", rule);
        }
        call.finish()?;
        let mut batch = Self { refused: Vec::with_capacity(count), good: Vec::with_capacity(count) };
        for item in items {
            match read_item(call, item, &read) {
                Ok(good) => {
                    batch.good.push(good);
                    batch.refused.push(None);
                }
                Err(error) => batch.refused.push(Some(error)),
            }
        }
        Ok(batch)
    }

    /// Does what the good items want; `answer` makes an answer of what each wanted and got.
    ///
    /// # Errors
    ///
    /// The database's, when nothing can be said of any item.
    pub(super) async fn run<T>(self, store: &Store, answer: impl Fn(W, W::Answer) -> T) -> Result<Vec<Result<T>>> {
        let wishes: Vec<_> = self.good.iter().map(|(wish, key)| (wish, key.as_ref())).collect();
        let results = run_each(store, &wishes, |_| true).await?;
        let mut done = self.good.into_iter().zip(results);
        let answers = self.refused.into_iter().map(|refused| match refused {
            Some(error) => Err(error),
            None => {
                let got = done.next().ok_or_else(|| Error::internal("an item got no result"));
                got.and_then(|((wish, _), result)| Ok(answer(wish, result?)))
            }
        });
        Ok(answers.collect())
    }
}

fn read_item<B, M: Repeatable + Message + Name, W>(
    call: &Call<B>,
    mut item: M,
    read: impl Fn(M, &mut Violations) -> Option<W>,
) -> Result<(W, Option<RequestKey>)> {
    let mut violations = Violations::default();
    violations.check_rules("", &item)?;
    let key = request_key(&call.caller, &mut item, "request_id", &mut violations);
    let wish = read(item, &mut violations);
    violations.finish()?;
    Ok((wish.ok_or_else(|| Error::internal("a field was refused without a word"))?, key))
}
