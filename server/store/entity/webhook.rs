//! Rows of `webhooks`.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "webhooks")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub workspace_id: Uuid,
    pub name: String,
    pub key: Option<String>,
    pub labels: String,
    pub state: i16,
    pub state_reason: i16,
    pub state_us: i64,
    pub definition: String,
    pub sealed: Vec<u8>,
    pub secret_expires_us: Option<i64>,
    pub failing_since_us: Option<i64>,
    pub version: i64,
    pub created_us: i64,
    pub updated_us: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
