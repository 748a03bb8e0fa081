//! The database schema of Taghook: one set of migrations for SQLite and PostgreSQL.
//!
//! Conventions of every table: ids are UUIDs (version 7, so that they sort by time), times are BIGINT microseconds since
//! the Unix epoch, enums are small integers, JSON is TEXT that the server alone reads. `workspace_id` stands in every
//! table that holds a tenant's rows. There are no foreign keys: the hot tables can't afford them, and the rooms of
//! `server/store` keep the references instead.

mod m0001_tenants;
mod m0002_contacts;
mod m0003_webhooks;
mod m0004_deliveries;
mod m0005_servers;
mod m0006_leftovers;
mod m0007_lanes;
mod m0008_secrets;
mod m0009_operations;
mod m0010_smart_tags;
mod m0011_smart_links;
mod m0012_campaigns;
mod m0013_identity;
mod m0016_trigger_data;
mod m0019_timeline;
mod m0020_api_keys;
mod schema;

use sea_orm_migration::MigrationTrait;
pub use sea_orm_migration::{MigrationStatus, MigratorTrait};

/// All migrations, oldest first.
#[derive(Debug)]
pub struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_tenants::Migration),
            Box::new(m0002_contacts::Migration),
            Box::new(m0003_webhooks::Migration),
            Box::new(m0004_deliveries::Migration),
            Box::new(m0005_servers::Migration),
            Box::new(m0006_leftovers::Migration),
            Box::new(m0007_lanes::Migration),
            Box::new(m0008_secrets::Migration),
            Box::new(m0009_operations::Migration),
            Box::new(m0010_smart_tags::Migration),
            Box::new(m0011_smart_links::Migration),
            Box::new(m0012_campaigns::Migration),
            Box::new(m0013_identity::Migration),
            Box::new(m0016_trigger_data::Migration),
            Box::new(m0019_timeline::Migration),
            Box::new(m0020_api_keys::Migration),
        ]
    }
}
