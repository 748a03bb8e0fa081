//! What the parts around the server can do by themselves, in the same run: the bounds of any figure beside them.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::database::{Database, Kind};
use crate::load::Load;
use crate::report::{Row, percentile_ms};
use crate::sink::Sink;
use crate::{Failure, Options, meter, noop, server};

/// Requests of the size of the webhooks straight to the sink, over kept connections.
pub(crate) async fn sink(options: &Options) -> Result<Row, Failure> {
    let sink = Sink::start(options.calls).await?;
    let (per_caller, start) = (options.calls / options.callers, Instant::now());
    let cpu = meter::cpu_s(std::process::id());
    let mut callers = JoinSet::new();
    for caller in 0..options.callers {
        let address = sink.address();
        callers.spawn(async move {
            let mut stream = TcpStream::connect(address).await?;
            let mut answer = [0; 1_024];
            for number in 0..per_caller {
                let email = format!("bench-{}", caller * per_caller + number);
                let request = format!("POST /hook HTTP/1.1\r\ncontent-length: 500\r\n\r\n{email:<500}");
                stream.write_all(request.as_bytes()).await?;
                if stream.read(&mut answer).await? == 0 {
                    return Err("the sink has gone".into());
                }
            }
            Ok::<_, Failure>(())
        });
    }
    callers.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let count = (per_caller * options.callers) as f64;
    Ok(Row {
        database: "limit".to_owned(),
        what: "requests straight to the sink".to_owned(),
        delivered_per_s: Some(count / start.elapsed().as_secs_f64()),
        load_cpu_s: Some((meter::cpu_s(std::process::id()) - cpu) / count * 1e3),
        ..Row::default()
    })
}

/// The generator against a gRPC service that does nothing.
pub(crate) async fn noop(options: &Options) -> Result<Row, Failure> {
    let process = noop::Process::start().await?;
    let clients = (0..options.connections).map(|_| server::client(&process.authority, "none"));
    let load = Load {
        clients: clients.collect::<Result<_, _>>()?,
        tag_id: "tag_00000000000000000000000000".to_owned(),
        with_request_id: false,
    };
    let clock = Sink::start(0).await?;
    let (own, its) = (meter::cpu_s(std::process::id()), meter::cpu_s(process.pid()));
    let mut answered = load.closed(0..options.calls, options.callers, &clock).await?;
    let thousands = options.calls as f64 / 1e3;
    Ok(Row {
        database: "limit".to_owned(),
        what: "calls of a service that does nothing".to_owned(),
        accepted_per_s: Some(options.calls as f64 / answered.took.as_secs_f64()),
        answer_p50_ms: percentile_ms(&mut answered.answers_ns, 50),
        answer_p99_ms: percentile_ms(&mut answered.answers_ns, 99),
        server_cpu_s: Some((meter::cpu_s(process.pid()) - its) / thousands),
        load_cpu_s: Some((meter::cpu_s(std::process::id()) - own) / thousands),
        ..Row::default()
    })
}

/// Commits of one row, one after the other.
pub(crate) async fn commits(kind: Kind) -> Result<Row, Failure> {
    let database = Database::new(kind, "").await?;
    Ok(Row {
        database: kind.name().to_owned(),
        what: "limit: commits of one row".to_owned(),
        accepted_per_s: Some(database.commits_per_s(2_000).await?),
        ..Row::default()
    })
}
