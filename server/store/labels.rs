//! Labels in their column: a JSON object whose keys are in their order, without white space.

use sea_orm::ColumnTrait;
use sea_orm::sea_query::{Condition, Expr, ExprTrait, Func};

use crate::domain::labels::Labels;
use crate::error::{Error, Result};

/// Labels as the column has them.
///
/// # Errors
///
/// [`Error::Internal`] if they can't be written as JSON.
pub(super) fn to_json(labels: &Labels) -> Result<String> {
    serde_json::to_string(labels).map_err(Error::internal)
}

/// Labels from the column.
///
/// # Errors
///
/// [`Error::Internal`] if the column is damaged.
pub(super) fn from_json(text: &str) -> Result<Labels> {
    serde_json::from_str(text).map_err(Error::internal)
}

/// The rows that have all of these labels. No index carries it: it is asked of the rows of one workspace alone, of which
/// there are at most 1,000 webhooks, 500 campaigns and 10,000 tags, found by the index of the workspace.
///
/// # Errors
///
/// [`Error::Internal`] if the labels can't be written as JSON.
pub(super) fn all_of(column: impl ColumnTrait, labels: &Labels) -> Result<Condition> {
    let mut condition = Condition::all();
    for (key, value) in labels {
        // A pair as it stands in the object. A quote inside a text is escaped, so that nothing else looks like it. Both
        // databases compare what is left byte for byte, which neither LIKE nor a function of one of them does.
        let pair = to_json(&[(key.clone(), value.clone())].into())?;
        let pair = pair.trim_start_matches('{').strip_suffix('}').unwrap_or_default().to_owned();
        let column = || Expr::col(column.as_column_ref());
        let without = Func::cust("REPLACE").arg(column()).arg(pair).arg("");
        condition = condition.add(Expr::from(without).ne(column()));
    }
    Ok(condition)
}
