//! Requests that can be repeated by their `request_id`.

/// A request with a `request_id`. `build.rs` writes the implementations from the descriptors.
pub(super) trait Repeatable {
    /// The method, which is the scope of its request ids.
    const METHOD: &'static str;

    /// Takes the id out. The rest is what the id stands for.
    fn take_request_id(&mut self) -> String;
}

macro_rules! repeatable {
    ($message:ident = $method:literal) => {
        impl crate::rpc::repeat::Repeatable for crate::pb::$message {
            const METHOD: &'static str = $method;

            fn take_request_id(&mut self) -> String {
                std::mem::take(&mut self.request_id)
            }
        }
    };
}

pub(super) use repeatable;
