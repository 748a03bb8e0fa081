//! What the tests stand on.

pub(crate) mod lost_commit;
pub(crate) mod postgres;
