//! The caller's own names for things.

mod contacts;
mod tag_names;
