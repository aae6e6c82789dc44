//! The wire between a client and the API server: up, cut, or silent.

use std::net::SocketAddr;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// How the wire is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    #[default]
    Up,
    /// Every connection ends, and new ones do at once.
    Cut,
    /// Bytes are swallowed and nothing is closed. A connection that was silent once stays so.
    Silent,
    /// Those that are open fall silent; new ones are served.
    OldSilent,
}

/// Carries connections to `server`; gives the address to connect to and the switch, which a task listens to for each
/// connection that is open.
pub async fn lay(server: SocketAddr) -> (SocketAddr, watch::Sender<Link>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (switch, _) = watch::channel(Link::Up);
    let carried = switch.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let mut state = carried.subscribe();
            let at_first = *state.borrow_and_update();
            tokio::spawn(carry(client, server, at_first, state));
        }
    });
    (address, switch)
}

async fn carry(mut client: TcpStream, server: SocketAddr, at_first: Link, mut state: watch::Receiver<Link>) {
    match at_first {
        Link::Cut => return,
        Link::Silent => return std::future::pending().await,
        Link::Up | Link::OldSilent => {}
    }
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let broken = state.wait_for(|link| *link != at_first && *link != Link::Up);
    let how = tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => return,
        how = broken => how.map(|how| *how),
    };
    if matches!(how, Ok(Link::Silent | Link::OldSilent)) {
        std::future::pending::<()>().await;
    }
}
