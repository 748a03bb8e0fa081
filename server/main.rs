//! The `taghook` command.

fn main() {}
