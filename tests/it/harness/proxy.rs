//! A TCP proxy that withholds what the server says, and cuts connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Forward,
    /// What the server says is read and thrown away.
    Withhold,
}

pub struct Proxy {
    pub addr: SocketAddr,
    mode: watch::Sender<Mode>,
    /// Counted up to cut every connection that is open.
    cut: watch::Sender<usize>,
    withheld: Arc<AtomicUsize>,
}

impl Proxy {
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let (mode, cut, withheld) =
            (watch::Sender::new(Mode::Forward), watch::Sender::new(0), Arc::<AtomicUsize>::default());
        let (modes, cuts, count) = (mode.subscribe(), cut.subscribe(), Arc::clone(&withheld));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (modes, mut cuts, count) = (modes.clone(), cuts.clone(), count.clone());
                tokio::spawn(async move {
                    cuts.mark_unchanged();
                    let Ok(server) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        () = forward(client, server, modes, count) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Self { addr, mode, cut, withheld }
    }

    /// From now on nothing that the server says arrives. Ended by `cut`.
    pub fn withhold(&self) {
        self.withheld.store(0, Ordering::SeqCst);
        self.mode.send_replace(Mode::Withhold);
    }

    /// Bytes withheld so far.
    pub fn withheld(&self) -> usize {
        self.withheld.load(Ordering::SeqCst)
    }

    /// Cuts every connection; new ones are forwarded.
    pub fn cut(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
        self.mode.send_replace(Mode::Forward);
    }
}

async fn forward(client: TcpStream, server: TcpStream, mode: watch::Receiver<Mode>, withheld: Arc<AtomicUsize>) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let up = async { tokio::io::copy(&mut from_client, &mut to_server).await };
    let down = async {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let len = from_server.read(&mut buffer).await?;
            if len == 0 {
                return Ok::<u64, std::io::Error>(0);
            }
            if *mode.borrow() == Mode::Forward {
                to_client.write_all(&buffer[..len]).await?;
            } else {
                withheld.fetch_add(len, Ordering::SeqCst);
            }
        }
    };
    // Either side's end is the end of both.
    tokio::select! { _ = up => {}, _ = down => {} }
}
