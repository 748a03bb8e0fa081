//! A database that is away for a while, and what the servers do without it: next to nothing, and little to be read.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, interval_at};

use crate::Failure;
use crate::callers::Load;
use crate::database::Database;
use crate::meter::cpu_s;
use crate::server::Server;

/// The most of one core that a server may use meanwhile: callers come back each second, and it looks for the database.
const MAX_SHARE: f64 = 0.1;
/// The most lines that a server may log of it.
const MAX_LINES: usize = 5;

/// What came of it.
#[derive(Debug)]
pub(crate) struct Absence {
    away: Duration,
    failed: usize,
    servers: Vec<Usage>,
}

/// What a server used.
#[derive(Clone, Copy, Debug)]
struct Usage {
    /// Processor time while the database was away, in seconds.
    cpu_s: f64,
    /// Lines logged from then on until all servers answered again.
    lines: usize,
}

impl Absence {
    /// Stops the database for as long, under load, and awaits that each server answers again within `patience`.
    pub(crate) async fn of(
        database: &Database,
        servers: &[Server],
        load: &Load,
        away: Duration,
        patience: Duration,
    ) -> Result<Self, Failure> {
        let lines_before: Vec<usize> = servers.iter().map(Server::lines).collect();
        let used = || servers.iter().map(|server| cpu_s(server.pid())).collect::<Vec<f64>>();
        database.stop(false);
        let (gone, failed_before, cpu_before) = (Instant::now(), load.failed(), used());
        interval_at(gone + away, away).tick().await;
        let (away, failed, cpu_after) = (gone.elapsed(), load.failed() - failed_before, used());
        database.begin();
        load.all_answer(patience).await?;
        let usage = |number: usize, server: &Server| Usage {
            cpu_s: cpu_after[number] - cpu_before[number],
            lines: server.lines() - lines_before[number],
        };
        let servers = servers.iter().enumerate().map(|(number, server)| usage(number, server)).collect();
        Ok(Self { away, failed, servers })
    }

    /// What is wrong.
    pub(crate) fn faults(&self) -> Vec<String> {
        let most_cpu_s = self.away.as_secs_f64() * MAX_SHARE;
        let spins = self.servers.iter().any(|server| server.cpu_s > most_cpu_s);
        let floods = self.servers.iter().any(|server| server.lines > MAX_LINES);
        let all = [
            (self.failed == 0, "no call has noticed that the database was away"),
            (spins, "a server was busy while the database was away"),
            (floods, "a server logged more than a few lines of the database's absence"),
        ];
        all.iter().filter(|(is_so, _)| *is_so).map(|(_, fault)| (*fault).to_owned()).collect()
    }
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Away for {:.0} s: {} tries failed.", self.away.as_secs_f64(), self.failed)?;
        for (number, Usage { cpu_s, lines }) in self.servers.iter().enumerate() {
            write!(f, " Server {} used {cpu_s:.2} s of processor time and logged {lines} lines.", number + 1)?;
        }
        Ok(())
    }
}
