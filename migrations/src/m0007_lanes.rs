//! Lanes: where deliveries wait for their endpoint, out of the common queue.

use sea_orm_migration::prelude::*;

use crate::schema::execute;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        execute(
            manager,
            &[
                // 0: in the common queue, 1: in the lane of its webhook, 2: behind an earlier delivery of its chain.
                "ALTER TABLE deliveries ADD COLUMN lane SMALLINT NOT NULL DEFAULT 0",
                // The place in its chain, the deliveries of one webhook event to one contact; NULL where order doesn't count.
                "ALTER TABLE deliveries ADD COLUMN order_no BIGINT",
                "DROP INDEX deliveries_due",
                "CREATE INDEX deliveries_due ON deliveries (due_us) WHERE state IN (1, 2) AND parked = FALSE AND lane = 0",
                // A lane. Leasing a row touches no index; whoever has no lane is in none of these.
                "CREATE INDEX deliveries_lane ON deliveries (webhook_id, due_us, id) \
                 WHERE state = 2 AND parked = FALSE AND lane = 1",
                "CREATE INDEX deliveries_chain ON deliveries (webhook_event_id, contact_id, order_no, id) \
                 WHERE state = 2 AND order_no IS NOT NULL",
                "CREATE INDEX deliveries_behind ON deliveries (webhook_event_id, contact_id) WHERE state = 2 AND lane = 2",
                // What waits of a webhook, for its resume and its end, and what is due of it outside its lane.
                "DROP INDEX deliveries_live",
                "CREATE INDEX deliveries_live ON deliveries (webhook_id, parked, lane, due_us) WHERE state IN (1, 2)",
            ],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        execute(
            manager,
            &[
                "DROP INDEX deliveries_live",
                "DROP INDEX deliveries_behind",
                "DROP INDEX deliveries_chain",
                "DROP INDEX deliveries_lane",
                "DROP INDEX deliveries_due",
                "ALTER TABLE deliveries DROP COLUMN order_no",
                "ALTER TABLE deliveries DROP COLUMN lane",
                "CREATE INDEX deliveries_due ON deliveries (due_us) WHERE state IN (1, 2) AND parked = FALSE",
                "CREATE INDEX deliveries_live ON deliveries (webhook_id, parked) WHERE state IN (1, 2)",
            ],
        )
        .await
    }
}
