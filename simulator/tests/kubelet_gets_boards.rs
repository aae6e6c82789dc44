//! A kubelet (played by a small gRPC server) registers the device plugin, lists its boards, allocates one,
//! restarts, and is registered at again; the exporter's owners come from its PodResources.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use powercap_kubelet::messages::{
    ContainerDevices, ContainerResources, ListPodResourcesRequest, ListPodResourcesResponse, PodResources,
};
use powercap_simulated_hardware::daemon::Hardware;
use powercap_simulated_hardware::{BoardSpec, NodeSpec, Root, Sharing};
use powercap_simulator::kubelet::messages::{
    AllocateRequest, AllocateResponse, ContainerAllocateRequest, ContainerAllocateResponse, Empty,
    ListAndWatchResponse, RegisterRequest,
};
use powercap_simulator::kubelet::pod_resources::Owners;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// What the kubelet heard and answers.
#[derive(Clone, Default)]
struct Kubelet {
    registrations: Arc<AtomicU32>,
    last: Arc<Mutex<Option<RegisterRequest>>>,
    pods: Arc<Mutex<ListPodResourcesResponse>>,
}

#[derive(Clone)]
struct Registration(Kubelet);

impl NamedService for Registration {
    const NAME: &'static str = "v1beta1.Registration";
}

impl Service<http::Request<Body>> for Registration {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let kubelet = self.0.clone();
        Box::pin(async move {
            let answer = move |request: Request<RegisterRequest>| {
                kubelet.registrations.fetch_add(1, Ordering::SeqCst);
                *kubelet.last.lock().unwrap() = Some(request.into_inner());
                async { Ok::<_, Status>(Response::new(Empty {})) }
            };
            Ok(Grpc::new(ProstCodec::default()).unary(tower::service_fn(answer), request).await)
        })
    }
}

#[derive(Clone)]
struct Lister(Kubelet);

impl NamedService for Lister {
    const NAME: &'static str = "v1.PodResourcesLister";
}

impl Service<http::Request<Body>> for Lister {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let pods = self.0.pods.lock().unwrap().clone();
        Box::pin(async move {
            let answer = move |_: Request<ListPodResourcesRequest>| {
                let pods = pods.clone();
                async { Ok::<_, Status>(Response::new(pods)) }
            };
            Ok(Grpc::new(ProstCodec::default()).unary(tower::service_fn(answer), request).await)
        })
    }
}

/// Serves as kubelet.sock in a folder until dropped.
fn serve(kubelet: &Kubelet, folder: &Path) -> tokio::task::JoinHandle<()> {
    let socket = folder.join("kubelet.sock");
    let _ = std::fs::remove_file(&socket);
    let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
    let server = tonic::transport::Server::builder()
        .add_service(Registration(kubelet.clone()))
        .add_service(Lister(kubelet.clone()));
    tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap() })
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn plugin(socket: PathBuf) -> tonic::client::Grpc<Channel> {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    client
}

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn boards_are_offered_allocated_and_offered_again() {
    let folder = tempfile::tempdir().unwrap();
    let root = Root::new(folder.path().join("hardware"));
    let kubelet_dir = folder.path().join("device-plugins");
    std::fs::create_dir(&kubelet_dir).unwrap();
    let _hardware = Hardware::boot(&root, &NodeSpec::new("node-1", 3, BoardSpec::h100_sxm())).unwrap();
    let boards: Vec<String> = root.boards().unwrap().into_iter().map(|(identity, _)| identity.uuid).collect();

    let kubelet = Kubelet::default();
    let first_life = serve(&kubelet, &kubelet_dir);
    let program = Command::new(env!("CARGO_BIN_EXE_powercap-simulator"))
        .args(["device-plugin", "--host-root", "/host/hardware", "--root"])
        .arg(root.path())
        .arg("--kubelet-dir")
        .arg(&kubelet_dir)
        .spawn()
        .unwrap();
    let _program = Running(program);
    until("registration", || kubelet.registrations.load(Ordering::SeqCst) >= 1).await;
    let registered = kubelet.last.lock().unwrap().clone().unwrap();
    assert_eq!((registered.version.as_str(), registered.resource_name.as_str()), ("v1beta1", "nvidia.com/gpu"));

    let mut client = plugin(kubelet_dir.join(&registered.endpoint)).await;
    let path = http::uri::PathAndQuery::from_static("/v1beta1.DevicePlugin/ListAndWatch");
    let codec = ProstCodec::<Empty, ListAndWatchResponse>::default();
    let mut lists = client.server_streaming(Request::new(Empty {}), path, codec).await.unwrap().into_inner();
    let devices = lists.message().await.unwrap().unwrap().devices;
    assert!(devices.iter().all(|device| device.health == "Healthy"));
    assert_eq!(devices.into_iter().map(|device| device.id).collect::<Vec<_>>(), boards);

    let allocate = |uuid: &str| AllocateRequest {
        container_requests: vec![ContainerAllocateRequest { devices_ids: vec![uuid.to_owned()] }],
    };
    let path = http::uri::PathAndQuery::from_static("/v1beta1.DevicePlugin/Allocate");
    let codec = || ProstCodec::<AllocateRequest, AllocateResponse>::default();
    client.ready().await.unwrap();
    let answer = client.unary(Request::new(allocate(&boards[1])), path.clone(), codec()).await.unwrap().into_inner();
    let container = &answer.container_responses[0];
    assert_eq!(container.envs["NVIDIA_VISIBLE_DEVICES"], boards[1]);
    assert_eq!(container.mounts.len(), 1);
    assert_eq!(container.mounts[0].container_path, format!("/run/simulated-hardware/boards/{}", boards[1]));
    assert_eq!(container.mounts[0].host_path, format!("/host/hardware/boards/{}", boards[1]));
    client.ready().await.unwrap();
    let refused = client.unary(Request::new(allocate("GPU-other")), path, codec()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::NotFound);

    // A kubelet that restarts removes every socket and makes its own anew.
    first_life.abort();
    std::fs::remove_file(kubelet_dir.join(&registered.endpoint)).unwrap();
    let _second_life = serve(&kubelet, &kubelet_dir);
    until("registration again", || kubelet.registrations.load(Ordering::SeqCst) >= 2).await;
    until("the plugin's socket", || kubelet_dir.join(&registered.endpoint).exists()).await;
}

/// Registers a plugin for a node that is shared so; gives its resource and the devices it lists.
async fn shared(sharing: Sharing) -> (String, Vec<String>, Vec<String>, ContainerAllocateResponse) {
    let folder = tempfile::tempdir().unwrap();
    let root = Root::new(folder.path().join("hardware"));
    let kubelet_dir = folder.path().join("device-plugins");
    std::fs::create_dir(&kubelet_dir).unwrap();
    let mut spec = NodeSpec::new("node-1", 2, BoardSpec::h100_sxm());
    spec.sharing = sharing;
    let _hardware = Hardware::boot(&root, &spec).unwrap();
    let kubelet = Kubelet::default();
    let _life = serve(&kubelet, &kubelet_dir);
    let program = Command::new(env!("CARGO_BIN_EXE_powercap-simulator"))
        .args(["device-plugin", "--host-root", "/host/hardware", "--root"])
        .arg(root.path())
        .arg("--kubelet-dir")
        .arg(&kubelet_dir)
        .spawn()
        .unwrap();
    let _program = Running(program);
    until("registration", || kubelet.registrations.load(Ordering::SeqCst) >= 1).await;
    let registered = kubelet.last.lock().unwrap().clone().unwrap();
    let mut client = plugin(kubelet_dir.join(&registered.endpoint)).await;
    let path = http::uri::PathAndQuery::from_static("/v1beta1.DevicePlugin/ListAndWatch");
    let codec = ProstCodec::<Empty, ListAndWatchResponse>::default();
    let mut lists = client.server_streaming(Request::new(Empty {}), path, codec).await.unwrap().into_inner();
    let listed = lists.message().await.unwrap().unwrap().devices.into_iter().map(|device| device.id);
    let listed: Vec<String> = listed.collect();

    let path = http::uri::PathAndQuery::from_static("/v1beta1.DevicePlugin/Allocate");
    let codec = ProstCodec::<AllocateRequest, AllocateResponse>::default();
    let devices_ids = listed[..2].to_vec();
    let request = AllocateRequest { container_requests: vec![ContainerAllocateRequest { devices_ids }] };
    client.ready().await.unwrap();
    let answer = client.unary(Request::new(request), path, codec).await.unwrap().into_inner();
    let boards = root.boards().unwrap();

    // A board that falls off its bus takes its shares along.
    boards[0].1.fault().unwrap().update(|fault| fault.gone = true).unwrap();
    let devices = lists.message().await.unwrap().unwrap().devices;
    let (lost, well) = devices.split_at(devices.len() / 2);
    assert!(lost.iter().all(|device| device.health == "Unhealthy"), "{lost:?}");
    assert!(well.iter().all(|device| device.health == "Healthy"), "{well:?}");
    let boards = boards.into_iter().map(|(identity, _)| identity.uuid).collect();
    (registered.resource_name, listed, boards, answer.container_responses[0].clone())
}

#[tokio::test]
async fn partitioned_boards_are_offered_as_their_instances() {
    let (resource, devices, boards, container) = shared(Sharing::Mig("1g.10gb".to_owned())).await;
    assert_eq!(resource, "nvidia.com/mig-1g.10gb");
    assert_eq!(devices.len(), 14);
    assert!(devices.iter().all(|id| id.starts_with("MIG-")), "{devices:?}");
    assert_eq!(container.envs["NVIDIA_VISIBLE_DEVICES"], devices[..2].join(","));
    assert_eq!(container.mounts.len(), 1, "both instances are of one board");
    assert_eq!(container.mounts[0].host_path, format!("/host/hardware/boards/{}", boards[0]));
}

#[tokio::test]
async fn time_slices_are_offered_as_several_devices_of_one_board() {
    let (resource, devices, boards, container) = shared(Sharing::TimeSlices(2)).await;
    assert_eq!(resource, "nvidia.com/gpu");
    let expected: Vec<String> = boards.iter().flat_map(|uuid| [format!("{uuid}::0"), format!("{uuid}::1")]).collect();
    assert_eq!(devices, expected);
    assert_eq!(container.mounts.len(), 1, "both slices are of one board");
}

#[tokio::test]
async fn owners_come_from_pod_resources_and_outlive_its_silence() {
    let folder = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::default();
    *kubelet.pods.lock().unwrap() = ListPodResourcesResponse {
        pod_resources: vec![PodResources {
            name: "train-0".to_owned(),
            namespace: "team-a".to_owned(),
            containers: vec![ContainerResources {
                name: "train".to_owned(),
                devices: vec![
                    ContainerDevices {
                        resource_name: "nvidia.com/gpu".to_owned(),
                        device_ids: vec!["GPU-1".to_owned()],
                    },
                    ContainerDevices {
                        resource_name: "example.com/nic".to_owned(),
                        device_ids: vec!["GPU-2".to_owned()],
                    },
                ],
                ..ContainerResources::default()
            }],
        }],
    };
    let life = serve(&kubelet, folder.path());
    let mut owners = Owners::new(folder.path().join("kubelet.sock"));
    owners.refresh().await;
    assert_eq!(owners.of("GPU-1").map(|owner| owner.pod.as_str()), Some("train-0"));
    assert_eq!(owners.of("GPU-2"), None);
    life.abort();
    std::fs::remove_file(folder.path().join("kubelet.sock")).unwrap();
    owners.refresh().await;
    assert!(owners.of("GPU-1").is_some());
}
