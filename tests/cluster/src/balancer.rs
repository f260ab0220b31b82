//! A balancer in front of the nodes: each connection goes to the next node that takes it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// Takes connections until it is dropped.
pub struct Balancer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Balancer {
    /// In front of these nodes.
    pub async fn start(nodes: Vec<SocketAddr>) -> Balancer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let task = tokio::spawn(accept(listener, Arc::new(nodes)));
        Balancer { address, task }
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, nodes: Arc<Vec<SocketAddr>>) {
    let next = Arc::new(AtomicUsize::new(0));
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let (nodes, first) = (nodes.clone(), next.fetch_add(1, Ordering::Relaxed));
        // It ends with either side of the connection.
        drop(tokio::spawn(pass_on(client, nodes, first)));
    }
}

async fn pass_on(mut client: TcpStream, nodes: Arc<Vec<SocketAddr>>, first: usize) {
    for offset in 0..nodes.len() {
        let node = nodes[(first + offset) % nodes.len()];
        if let Ok(Ok(mut server)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(node)).await {
            for stream in [&client, &server] {
                stream.set_nodelay(true).ok();
            }
            tokio::io::copy_bidirectional(&mut client, &mut server).await.ok();
            return;
        }
    }
}
