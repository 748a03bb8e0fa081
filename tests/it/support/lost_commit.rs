//! A way to PostgreSQL that loses the answer to a COMMIT: the server commits, the client never hears of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// Passes connections on to a server's socket until it is told to lose a commit.
#[derive(Clone, Debug)]
pub(crate) struct LostCommit(Arc<AtomicBool>);

impl LostCommit {
    /// The proxy, and the URL that leads through it to the same database as `url`, which names a Unix socket.
    pub(crate) async fn before(url: &str) -> (Self, String) {
        let (database, folder) = url.rsplit_once("?host=").unwrap();
        let database = database.rsplit_once('/').unwrap().1;
        let folder = percent_encoding::percent_decode_str(folder).decode_utf8().unwrap();
        let socket = PathBuf::from(&*folder).join(".s.PGSQL.5432");
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = Self(Arc::default());
        let armed = Arc::clone(&proxy.0);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = UnixStream::connect(&socket).await.unwrap();
                tokio::spawn(pass(client, server, Arc::clone(&armed)));
            }
        });
        (proxy, format!("postgres://postgres@127.0.0.1:{port}/{database}"))
    }

    /// Loses the answer to the next COMMIT, with its connection.
    pub(crate) fn arm(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether the commit has still to come.
    pub(crate) fn is_armed(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

async fn pass(mut client: TcpStream, mut server: UnixStream, armed: Arc<AtomicBool>) {
    let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(read @ 1..) = read else { return };
                if server.write_all(&asked[..read]).await.is_err() {
                    return;
                }
                let is_commit = asked[..read].windows(6).any(|bytes| bytes == b"COMMIT");
                if is_commit && armed.swap(false, Ordering::SeqCst) {
                    // Its answer says that it is done.
                    let _ = server.read(&mut answered).await;
                    return;
                }
            }
            read = server.read(&mut answered) => {
                let Ok(read @ 1..) = read else { return };
                if client.write_all(&answered[..read]).await.is_err() {
                    return;
                }
            }
        }
    }
}
