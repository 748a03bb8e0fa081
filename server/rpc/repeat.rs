//! Requests that can be repeated by their `request_id`.

use crate::pb;

/// A request with a `request_id`.
pub(super) trait Repeatable {
    /// The method, the scope of its request ids.
    const METHOD: &'static str;

    /// Takes the id out, so that what is left is what the id stands for.
    fn take_request_id(&mut self) -> String;
}

macro_rules! repeatable {
    ($($message:ident = $method:literal;)*) => {$(
        impl Repeatable for pb::$message {
            const METHOD: &'static str = $method;

            fn take_request_id(&mut self) -> String {
                std::mem::take(&mut self.request_id)
            }
        }
    )*};
}

repeatable! {
    CreateWorkspaceRequest = "WorkspaceService/CreateWorkspace";
    UpdateWorkspaceRequest = "WorkspaceService/UpdateWorkspace";
    DeleteWorkspaceRequest = "WorkspaceService/DeleteWorkspace";
    RevokeApiKeyRequest = "WorkspaceService/RevokeApiKey";
    CreateFieldRequest = "FieldService/CreateField";
    UpdateFieldRequest = "FieldService/UpdateField";
    DeleteFieldRequest = "FieldService/DeleteField";
    CreateTagRequest = "TagService/CreateTag";
    UpdateTagRequest = "TagService/UpdateTag";
    DeleteTagRequest = "TagService/DeleteTag";
    CreateSmartLinkRequest = "SmartLinkService/CreateSmartLink";
    UpdateSmartLinkRequest = "SmartLinkService/UpdateSmartLink";
    DeleteSmartLinkRequest = "SmartLinkService/DeleteSmartLink";
    CreateContactRequest = "ContactService/CreateContact";
    UpdateContactRequest = "ContactService/UpdateContact";
    UpsertContactRequest = "ContactService/UpsertContact";
    DeleteContactRequest = "ContactService/DeleteContact";
    TagContactRequest = "ContactService/TagContact";
    UntagContactRequest = "ContactService/UntagContact";
    CreateWebhookRequest = "WebhookService/CreateWebhook";
    UpdateWebhookRequest = "WebhookService/UpdateWebhook";
    DeleteWebhookRequest = "WebhookService/DeleteWebhook";
    PauseWebhookRequest = "WebhookService/PauseWebhook";
    ResumeWebhookRequest = "WebhookService/ResumeWebhook";
    TestWebhookRequest = "WebhookService/TestWebhook";
    TriggerWebhookRequest = "WebhookService/TriggerWebhook";
    RotateWebhookSecretRequest = "WebhookService/RotateWebhookSecret";
    RecordEventRequest = "EventService/RecordEvent";
    CreateCampaignRequest = "CampaignService/CreateCampaign";
    UpdateCampaignRequest = "CampaignService/UpdateCampaign";
    DeleteCampaignRequest = "CampaignService/DeleteCampaign";
    ActivateCampaignRequest = "CampaignService/ActivateCampaign";
    PauseCampaignRequest = "CampaignService/PauseCampaign";
    EnrollContactRequest = "CampaignService/EnrollContact";
    ExitContactRequest = "CampaignService/ExitContact";
    RetryDeliveryRequest = "DeliveryService/RetryDelivery";
    CancelDeliveryRequest = "DeliveryService/CancelDelivery";
    CreateReplayRequest = "DeliveryService/CreateReplay";
    CancelReplayRequest = "DeliveryService/CancelReplay";
}
