//! What the tests stand on.

pub(crate) mod postgres;
pub(crate) mod lost_commit;
