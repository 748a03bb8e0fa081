//! The API as its descriptors have it, for tests that walk all of it.

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, ReflectMessage, Value};

use super::{RawAnswer, RawGrpc, frame};

/// Every method of the API.
pub(crate) fn methods() -> Vec<MethodDescriptor> {
    let pool = DescriptorPool::decode(taghook::pb::FILE_DESCRIPTOR_SET).expect("the descriptors");
    let methods: Vec<_> = pool
        .services()
        .filter(|service| service.full_name().starts_with("taghook."))
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .collect();
    assert!(methods.len() >= 49, "{} methods", methods.len());
    methods
}

/// The path of a method's calls.
pub(crate) fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

/// The value of an extension, as `buf.validate.field`, in the options of something; `None` if it isn't there.
pub(crate) fn options(options: &DynamicMessage, extension: &str) -> Option<DynamicMessage> {
    let pool = options.descriptor().parent_pool().clone();
    let extension = pool.get_extension_by_name(extension).expect("the extension");
    options.has_extension(&extension).then(|| options.get_extension(&extension).as_message().cloned())?
}

/// The mask of an update that replaces the whole resource.
pub(crate) fn everything(mask: MessageDescriptor) -> DynamicMessage {
    let mut mask = DynamicMessage::new(mask);
    mask.set_field_by_name("paths", Value::List(vec![Value::String("*".to_owned())]));
    mask
}

impl RawGrpc {
    /// Calls a method with a message made of its descriptor. A stream ends after a quarter of a second.
    pub(crate) async fn invoke(
        &self,
        key: Option<&str>,
        method: &MethodDescriptor,
        message: &DynamicMessage,
    ) -> RawAnswer {
        let authorization = key.map(|key| format!("Bearer {key}"));
        let mut headers: Vec<(&str, &str)> = Vec::new();
        headers.extend(authorization.as_deref().map(|value| ("authorization", value)));
        if method.is_server_streaming() {
            headers.push(("grpc-timeout", "250m"));
        }
        self.call(&path(method), &headers, frame(&message.encode_to_vec())).await
    }
}
