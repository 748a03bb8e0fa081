//! Rows of `events`.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "events")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub workspace_id: Uuid,
    pub contact_id: Uuid,
    #[sea_orm(column_name = "type")]
    pub event_type: String,
    pub attributes: Option<String>,
    pub tag_id: Option<Uuid>,
    pub event_us: i64,
    pub recorded_us: i64,
    pub causation_depth: i16,
    pub cause_id: Option<Uuid>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
