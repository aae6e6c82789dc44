//! However many come and however much they send, little is held: of connections there are so many and no more, and
//! bodies that do not end take only the room that is theirs.

use std::{convert::Infallible, time::Duration};

use futures::{
    StreamExt,
    future::join_all,
    stream::{iter, pending},
};
use http_body_util::{Full, StreamBody};
use hyper::{
    Request, StatusCode,
    body::{Body, Bytes, Frame},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use powercap_admission::cluster::Cluster;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::{
    apiserver::ApiServer,
    process::Admission,
    served::{Authority, PATIENCE, Served, connect, review_of},
};

/// As docs/admission.md says.
const CONNECTIONS: usize = 256;
const HOSTILE: usize = 100;
const LENGTH: usize = 3 << 20;
/// Of the 256 that the manifest allows it: bodies take 25, and what nobody has read yet 13.
const MOST_MIB: u64 = 96;

#[tokio::test]
async fn one_more_connection_than_there_may_be_waits_until_another_has_gone() {
    let served = Served::with(Cluster::default()).await;
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS {
        open.push(served.http2().await);
    }
    let mut next = Box::pin(served.http2());
    assert!(timeout(Duration::from_secs(1), &mut next).await.is_err(), "more than {CONNECTIONS} are served");
    let review = review_of(&json!({"metadata": {"name": "a"}, "spec": {"containers": []}})).to_string();
    assert_eq!(open[0].post(review.clone().into()).await.unwrap(), StatusCode::OK, "those that are open are served");
    drop(open.pop());
    let mut next = timeout(PATIENCE, next).await.expect("there is room for one");
    assert_eq!(next.post(review.into()).await.unwrap(), StatusCode::OK);
}

/// A body that says how long it is, and never ends.
fn endless() -> impl Body<Data = Bytes, Error = Infallible> + Send + Unpin {
    let chunk = Bytes::from(vec![b' '; 16 << 10]);
    let chunks = std::iter::repeat_n(chunk, LENGTH / (16 << 10) - 1);
    StreamBody::new(iter(chunks).map(Frame::data).map(Ok).chain(pending()))
}

fn post<B>(body: B, length: usize) -> Request<B> {
    let request = Request::post("https://powercap-admission/mutate").header("Host", "a");
    request.header("Content-Type", "application/json").header("Content-Length", length).body(body).unwrap()
}

#[tokio::test]
async fn a_hundred_who_send_bodies_without_end_take_no_more_memory_than_is_given_them() {
    powercap_process::install_tls_provider();
    let (server, authority, certificates) = (ApiServer::start().await, Authority::new(), TempDir::new().unwrap());
    authority.write(certificates.path());
    let (kubeconfig, folder) = (server.kubeconfig(), certificates.path().to_owned());
    let started = tokio::task::spawn_blocking(move || Admission::ready(&kubeconfig, &folder, &[]));
    let admission = started.await.unwrap();
    let at_rest = admission.most_mib();

    let hostile = |number: usize| {
        let (address, authority) = (admission.webhook, &authority);
        async move {
            let in_streams = number.is_multiple_of(2);
            let protocol: &[u8] = if in_streams { b"h2" } else { b"http/1.1" };
            let stream = TokioIo::new(connect(address, authority, protocol).await.unwrap());
            let answer = if in_streams {
                let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
                tokio::spawn(connection);
                sender.send_request(post(endless(), LENGTH)).await
            } else {
                let (mut sender, connection) = http1::handshake(stream).await.unwrap();
                tokio::spawn(connection);
                sender.send_request(post(endless(), LENGTH)).await
            };
            answer.map(|answer| answer.status())
        }
    };
    for answer in join_all((0..HOSTILE).map(hostile)).await {
        assert!(answer.as_ref().is_ok_and(|status| *status == StatusCode::REQUEST_TIMEOUT), "{answer:?}");
    }
    let most = admission.most_mib();
    assert!(most < MOST_MIB, "{most} MiB, from {at_rest}");

    let stream = TokioIo::new(connect(admission.webhook, &authority, b"h2").await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let review = review_of(&json!({"metadata": {"name": "a"}, "spec": {"containers": []}})).to_string();
    let length = review.len();
    let answer = sender.send_request(post(Full::new(Bytes::from(review)), length)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "who means well is served thereafter");
}
