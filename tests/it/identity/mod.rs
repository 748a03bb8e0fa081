//! The caller's own names for things.

mod contacts;
mod keys;
mod labels;
mod tag_names;
