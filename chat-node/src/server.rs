//! Accepts connections and serves HTTP on them, within limits per node and per address.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::config::Cidr;

/// A client that has not sent a request's head by then is gone, or means no good.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);

/// Largest head of a request.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Wait after an accept that failed, for example because no file descriptor was left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What an operator may set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Connections at once.
    pub connections_max: usize,
    /// Connections at once from one address.
    pub connections_per_address_max: usize,
    /// Header in which a trusted proxy names the client's address.
    pub proxy_header: String,
    /// Networks of trusted proxies.
    pub proxies: Vec<Cidr>,
    /// Header in which a trusted proxy names the client's region.
    pub region_header: Option<String>,
}

impl Settings {
    fn trusts(&self, address: IpAddr) -> bool {
        self.proxies.iter().any(|network| network.contains(address))
    }
}

/// Serves until `stop` is called; then takes no more connections, and lets requests under way finish.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    settings: Settings,
    tracker: TaskTracker,
    stop: CancellationToken,
) {
    let settings = Arc::new(settings);
    let places = Arc::new(Places::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections, trying on");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // A client that is over its limit is closed at once: an answer would cost what the limit is to save.
        let Some(place) = places.take(peer.ip(), &settings) else { continue };
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "a connection was gone before it was served");
            continue;
        }
        let router = router.clone();
        tracker.spawn(connection(socket, place, peer, router, settings.clone(), stop.clone()));
    }
}

async fn connection(
    socket: TcpStream,
    place: Place,
    peer: SocketAddr,
    router: Router,
    settings: Arc<Settings>,
    stop: CancellationToken,
) {
    let service = router.map_request(move |mut request: Request<hyper::body::Incoming>| {
        let address = client_address(peer, request.headers_mut(), &settings);
        request.extensions_mut().insert(ConnectInfo(address));
        request.map(Body::new)
    });
    let io = TokioIo::new(Held { socket, _place: place });
    let mut served = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(io, TowerToHyperService::new(service))
            .with_upgrades()
    );
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        // Clients vanish all the time; this is their end of the story.
        tracing::debug!(%error, %peer, "a connection ended early");
    }
}

/// The client's address: the peer's, unless that is a trusted proxy that names another. Headers that only a proxy may set
/// are removed when anyone else has set them, so that nothing behind this has to ask.
fn client_address(peer: SocketAddr, headers: &mut HeaderMap, settings: &Settings) -> SocketAddr {
    const FORWARDED: [HeaderName; 3] = [
        HeaderName::from_static("x-forwarded-for"),
        HeaderName::from_static("x-forwarded-proto"),
        HeaderName::from_static("x-forwarded-host"),
    ];
    if !settings.trusts(peer.ip()) {
        FORWARDED.iter().for_each(|name| drop(headers.remove(name)));
        if let Some(name) = &settings.region_header {
            headers.remove(name.as_str());
        }
        return peer;
    }
    let named = headers.get(settings.proxy_header.as_str()).and_then(|value| value.to_str().ok());
    let mut addresses =
        named.unwrap_or_default().rsplit(',').map(|address| address.trim().parse::<IpAddr>());
    // From the right: what a proxy added comes after what the client claimed.
    let client = addresses.find_map(|address| match address {
        Ok(address) if settings.trusts(address) => None,
        address => Some(address),
    });
    let Some(Ok(client)) = client else { return peer };
    if let Ok(value) = HeaderValue::from_str(&client.to_string()) {
        headers.insert(FORWARDED[0].clone(), value);
    }
    SocketAddr::new(client, 0)
}

/// Connections that stand, by address.
#[derive(Default)]
struct Places {
    by_address: Mutex<(usize, HashMap<IpAddr, usize>)>,
}

impl Places {
    fn take(self: &Arc<Self>, address: IpAddr, settings: &Settings) -> Option<Place> {
        let limit = match settings.trusts(address) {
            // All clients behind a proxy share its address.
            true => usize::MAX,
            false => settings.connections_per_address_max,
        };
        let mut places = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, by_address) = &mut *places;
        let taken = by_address.get(&address).copied().unwrap_or(0);
        if *all >= settings.connections_max || taken >= limit {
            return None;
        }
        *all += 1;
        by_address.insert(address, taken + 1);
        Some(Place { places: self.clone(), address })
    }
}

/// One connection's place, until dropped.
struct Place {
    places: Arc<Places>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.places.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, by_address) = &mut *places;
        *all -= 1;
        if let Some(taken) = by_address.get_mut(&self.address) {
            *taken -= 1;
            if *taken == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

/// A socket that holds its place, also after an upgrade to WebSocket.
struct Held {
    socket: TcpStream,
    _place: Place,
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl AsyncWrite for Held {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            connections_max: 3,
            connections_per_address_max: 2,
            proxy_header: "x-forwarded-for".to_owned(),
            proxies: vec![Cidr::parse("10.0.0.0/8").unwrap()],
            region_header: Some("x-region".to_owned()),
        }
    }

    fn address(peer: &str, header: Option<&'static str>) -> (String, bool) {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert("x-forwarded-for", HeaderValue::from_static(header));
        }
        let found =
            client_address(SocketAddr::new(peer.parse().unwrap(), 5), &mut headers, &settings());
        (found.ip().to_string(), headers.contains_key("x-forwarded-for"))
    }

    #[test]
    fn only_a_trusted_proxy_names_the_client() {
        assert_eq!(address("192.0.2.1", Some("198.51.100.7")), ("192.0.2.1".to_owned(), false));
        assert_eq!(address("10.0.0.1", Some("198.51.100.7")), ("198.51.100.7".to_owned(), true));
        assert_eq!(address("10.0.0.1", None), ("10.0.0.1".to_owned(), false));
        let claimed = Some("203.0.113.9, 198.51.100.7, 10.0.0.2");
        assert_eq!(
            address("10.0.0.1", claimed).0,
            "198.51.100.7",
            "what the client claims does not count"
        );
    }

    #[test]
    fn only_a_trusted_proxy_names_the_region() {
        for (peer, is_kept) in [("192.0.2.1", false), ("10.0.0.1", true)] {
            let mut headers = HeaderMap::new();
            headers.insert("x-region", HeaderValue::from_static("eu"));
            client_address(SocketAddr::new(peer.parse().unwrap(), 5), &mut headers, &settings());
            assert_eq!(headers.contains_key("x-region"), is_kept, "{peer}");
        }
    }

    #[test]
    fn places_are_limited_per_address_and_per_node_and_come_back() {
        let places = Arc::new(Places::default());
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let first = places.take(one, &settings()).unwrap();
        let _second = places.take(one, &settings()).unwrap();
        assert!(places.take(one, &settings()).is_none());
        let _third = places.take(other, &settings()).unwrap();
        assert!(places.take(other, &settings()).is_none(), "the node is full");
        drop(first);
        assert!(places.take(one, &settings()).is_some());
    }
}
