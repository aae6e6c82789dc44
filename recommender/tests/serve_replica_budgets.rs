//! What KEDA is told over gRPC: the budget, or an error that says what to mend; never a number for what is not known.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, time::Duration};

use powercap_common::{policy::PolicyId, reason::Reason, units::Watts};
use powercap_recommender::{
    decide::Replicas,
    observation::Hold,
    scaler::{
        latest::{self, OfPolicies, Publisher},
        messages::{
            GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricSpec, MetricValue,
            ScaledObjectRef,
        },
        serve::Port,
        service::Scaler,
    },
};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};
use tonic::{
    Code, Status, Streaming,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

const COUNTS_FOR: Duration = Duration::from_secs(600);
const PATIENCE: Duration = Duration::from_secs(60);

/// A scaler that knows of `llm/chat`, which is good for four replicas, and of `llm/blind`, of which nothing is known.
async fn scaler() -> (Publisher, SocketAddr) {
    let (publisher, address) = silent(COUNTS_FOR, None).await;
    publisher.publish(known(2400));
    (publisher, address)
}

/// One that was told nothing.
async fn silent(counts_for: Duration, certificates: Option<&Path>) -> (Publisher, SocketAddr) {
    let (publisher, latest) = latest::channel(counts_for);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let port = Port { listener, certificates_from: certificates.map(Path::to_owned) };
    tokio::spawn(port.serve(Scaler::new(latest)));
    (publisher, address)
}

fn known(available: u32) -> OfPolicies {
    let replicas = Replicas { available: Watts::new(available), each: Watts::new(600) };
    let id = |name: &str| PolicyId { namespace: "llm".into(), name: name.into() };
    let blind = Hold::new(Reason::DataStale, "nothing tells what pod chat-0 draws");
    BTreeMap::from([(id("chat"), Ok(replicas)), (id("blind"), Err(blind))])
}

fn asks(namespace: &str, metadata: &[(&str, &str)]) -> ScaledObjectRef {
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    ScaledObjectRef { name: "chat".into(), namespace: namespace.into(), scaler_metadata: metadata.collect() }
}

async fn connect(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

async fn call<Q, A>(channel: Channel, method: &'static str, request: Q) -> Result<A, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::from_static(method);
    let answer = client.unary(tonic::Request::new(request), path, ProstCodec::<Q, A>::default()).await?;
    Ok(answer.into_inner())
}

async fn metrics(channel: Channel, asking: ScaledObjectRef) -> Result<GetMetricsResponse, Status> {
    let request = GetMetricsRequest { scaled_object_ref: Some(asking), metric_name: "budget".into() };
    call(channel, "/externalscaler.ExternalScaler/GetMetrics", request).await
}

async fn activity(channel: Channel, asking: ScaledObjectRef) -> Result<Streaming<IsActiveResponse>, Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static("/externalscaler.ExternalScaler/StreamIsActive");
    let codec = ProstCodec::<ScaledObjectRef, IsActiveResponse>::default();
    Ok(client.server_streaming(tonic::Request::new(asking), path, codec).await?.into_inner())
}

#[tokio::test]
async fn the_budget_is_told_as_keda_reads_it() {
    let (publisher, address) = scaler().await;
    let channel = connect(address).await;
    let chat = asks("llm", &[("policy", "chat"), ("metric", "budget"), ("scalerAddress", "x:9090")]);
    let spec: GetMetricSpecResponse =
        call(channel.clone(), "/externalscaler.ExternalScaler/GetMetricSpec", chat.clone()).await.unwrap();
    let one = MetricSpec { metric_name: "budget".into(), target_size: 1, target_size_float: 1.0 };
    assert_eq!(spec.metric_specs, [one]);
    let four = MetricValue { metric_name: "budget".into(), metric_value: 4, metric_value_float: 4.0 };
    assert_eq!(metrics(channel.clone(), chat.clone()).await.unwrap().metric_values, [four]);
    let active: IsActiveResponse =
        call(channel.clone(), "/externalscaler.ExternalScaler/IsActive", chat.clone()).await.unwrap();
    assert!(!active.result, "watts to spare are no work");
    publisher.publish(known(1200));
    assert_eq!(metrics(channel, chat).await.unwrap().metric_values[0].metric_value, 2);
}

#[tokio::test]
async fn what_cannot_be_answered_is_an_error_that_names_the_key_and_the_mend() {
    let (_publisher, address) = scaler().await;
    let channel = connect(address).await;
    let long = "x".repeat(10_000);
    for (asking, code, says) in [
        (asks("llm", &[]), Code::InvalidArgument, "lacks `policy`: write the name"),
        (asks("llm", &[("policy", "")]), Code::InvalidArgument, "lacks `policy`"),
        (asks("llm", &[("Policy", "chat")]), Code::InvalidArgument, "lacks `policy`"),
        (asks("llm", &[("policy", "gone")]), Code::NotFound, "no PowerCappingPolicy gone in namespace llm"),
        (asks("other", &[("policy", "chat")]), Code::NotFound, "no PowerCappingPolicy chat in namespace other"),
        (asks("other", &[("policy", "llm/chat")]), Code::InvalidArgument, "`policy: llm/chat` is no name"),
        (asks("llm", &[("policy", "chat"), ("metric", "lode")]), Code::InvalidArgument, "`metric: lode` is not known"),
        (asks("llm", &[("policy", &long)]), Code::InvalidArgument, "is no name"),
        (asks("llm", &[("policy", "chat\n\u{1b}[2J")]), Code::InvalidArgument, "is no name"),
        (asks("", &[("policy", "chat")]), Code::InvalidArgument, "names no ScaledObject"),
        (asks("llm", &[("policy", "blind")]), Code::Unavailable, "nothing tells what pod chat-0 draws"),
    ] {
        let refused = metrics(channel.clone(), asking).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(says) && refused.message().len() < 300, "{refused}");
    }
    let other =
        GetMetricsRequest { scaled_object_ref: Some(asks("llm", &[("policy", "chat")])), metric_name: "x".into() };
    let nobody = GetMetricsRequest { scaled_object_ref: None, metric_name: "budget".into() };
    for request in [other, nobody] {
        let answer =
            call::<_, GetMetricsResponse>(channel.clone(), "/externalscaler.ExternalScaler/GetMetrics", request);
        assert_eq!(answer.await.unwrap_err().code(), Code::InvalidArgument);
    }
    let streamed = call::<_, GetMetricsResponse>(
        channel.clone(),
        "/externalscaler.ExternalScaler/StreamMetricSpec",
        asks("llm", &[("policy", "chat")]),
    );
    assert_eq!(streamed.await.unwrap_err().code(), Code::Unimplemented);
    let flood = asks("llm", &[("policy", &"x".repeat(1 << 20))]);
    assert!(metrics(channel.clone(), flood).await.is_err());
    assert!(metrics(channel, asks("llm", &[("policy", "chat")])).await.is_ok(), "after all that it still answers");
}

#[tokio::test]
async fn what_was_decided_too_long_ago_is_not_told() {
    let (publisher, address) = silent(Duration::from_millis(200), None).await;
    let channel = connect(address).await;
    let chat = || asks("llm", &[("policy", "chat")]);
    assert_eq!(metrics(channel.clone(), chat()).await.unwrap_err().code(), Code::Unavailable);
    // Where this machine pauses for as long as it counts, it is told again.
    for told in 1.. {
        publisher.publish(known(2400));
        if metrics(channel.clone(), chat()).await.is_ok() {
            break;
        }
        assert!(told < 20, "what was decided just now is told");
    }
    let refused = async {
        loop {
            match metrics(channel.clone(), chat()).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(refused) => return refused,
            }
        }
    };
    let refused = timeout(PATIENCE, refused).await.unwrap();
    assert!(
        refused.code() == Code::Unavailable && refused.message().contains("nothing was decided of late"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_thousand_streams_stay_silent_until_their_policy_goes() {
    let (publisher, address) = scaler().await;
    let channel = connect(address).await;
    let mut streams = Vec::new();
    for _ in 0..1000 {
        streams.push(activity(channel.clone(), asks("llm", &[("policy", "chat")])).await.unwrap());
    }
    publisher.publish(known(1200));
    let first = timeout(Duration::from_millis(200), streams[0].message()).await;
    assert!(first.is_err(), "a stream has said something: {first:?}");
    assert_eq!(metrics(channel, asks("llm", &[("policy", "chat")])).await.unwrap().metric_values[0].metric_value, 2);
    publisher.publish(OfPolicies::new());
    for mut stream in streams {
        let ended = timeout(PATIENCE, stream.message()).await.unwrap();
        assert_eq!(ended.unwrap_err().code(), Code::NotFound);
    }
}

#[tokio::test]
async fn clients_that_hang_or_talk_nonsense_keep_nobody_from_answers() {
    let (_publisher, address) = scaler().await;
    let mut took = Vec::new();
    // A busy machine may be late, but not each time.
    while took.last().is_none_or(|took| *took >= Duration::from_secs(12)) {
        assert!(took.len() < 3, "{took:?}");
        took.push(asked_beside_such_clients(address).await);
    }
}

/// How long an answer takes while they are connected.
async fn asked_beside_such_clients(address: SocketAddr) -> Duration {
    let mut held = Vec::new();
    // Those of them that say nothing are more than there are places for.
    for at in 0..160 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if at % 2 == 0 {
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        }
        held.push(stream);
    }
    let begun = Instant::now();
    let channel = connect(address).await;
    assert!(metrics(channel, asks("llm", &[("policy", "chat")])).await.is_ok());
    begun.elapsed()
}

#[tokio::test]
async fn a_client_that_hangs_in_the_handshake_is_left_and_the_certificate_is_shown_to_others() {
    powercap_process::install_tls_provider();
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.path().join("tls.crt"), made.cert.pem()).unwrap();
    std::fs::write(folder.path().join("tls.key"), made.signing_key.serialize_pem()).unwrap();
    let (_publisher, address) = silent(COUNTS_FOR, Some(folder.path())).await;
    let mut hanging = TcpStream::connect(address).await.unwrap();

    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = TcpStream::connect(address).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let secured = connector.connect(name, stream).await.unwrap();
    assert_eq!(secured.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));

    // A busy machine may be late, but not each time.
    for _ in 0..3 {
        if let Ok(Ok(0) | Err(_)) = timeout(Duration::from_secs(6), hanging.read(&mut [0; 16])).await {
            return;
        }
        hanging = TcpStream::connect(address).await.unwrap();
    }
    panic!("still held after 6 s");
}
