//! `device-plugin`: offers the boards to a real kubelet as `nvidia.com/gpu`.
//!
//! Boards that are cut into MIG instances are offered as those (`nvidia.com/mig-1g.10gb`, `MIG-…`), and
//! time slices as several devices of one board (`nvidia.com/gpu`, `GPU-…::N`): see the flags of `hardware`.
//! A board that is gone is unhealthy; one that came back with another UUID is another device.
//!
//! ```text
//! listen on our socket ─▶ register at kubelet.sock ─▶ serve ─┐
//!        ▲                                                   │ kubelet.sock was made anew, or our socket is gone
//!        └───────────────────────────────────────────────────┘
//! ```
//! What must hold: a container gets the folders of its own boards, and no other; after a kubelet's
//! restart the boards are back within two seconds.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use futures::{Stream, StreamExt};
use powercap_simulated_hardware::folder::{DEFAULT_ROOT, ROOT_VARIABLE};
use powercap_simulated_hardware::{BoardFolder, Identity, Root};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::messages::{
    AllocateRequest, AllocateResponse, ContainerAllocateRequest, ContainerAllocateResponse, Device,
    DevicePluginOptions, Empty, ListAndWatchResponse, Mount, RegisterRequest,
};

/// The extended resource.
pub const RESOURCE: &str = "nvidia.com/gpu";
/// What precedes the profile in the extended resource of MIG instances.
pub const MIG_RESOURCE: &str = "nvidia.com/mig-";
const REGISTER: &str = "/v1beta1.Registration/Register";
const SOCKET: &str = "simulated-nvidia-gpu.sock";
const LOOK: Duration = Duration::from_secs(1);

/// Flags of `device-plugin`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Folder that holds the node's hardware, as this program sees it
    #[arg(long, env = ROOT_VARIABLE, default_value = DEFAULT_ROOT)]
    root: PathBuf,
    /// The same folder as the container runtime sees it, if that differs
    #[arg(long)]
    host_root: Option<PathBuf>,
    /// The kubelet's folder of device plugins
    #[arg(long, default_value = "/var/lib/kubelet/device-plugins")]
    kubelet_dir: PathBuf,
}

/// Serves until SIGTERM.
///
/// # Errors
/// When the boards cannot be found or the socket not be made.
pub async fn run(flags: Flags) -> anyhow::Result<()> {
    let root = Root::new(&flags.root);
    let host_root = flags.host_root.clone().unwrap_or_else(|| flags.root.clone());
    let boards = root.boards()?;
    let profile = boards.iter().flat_map(|(identity, _)| &identity.shares).find_map(|share| share.profile.as_deref());
    let resource = profile.map_or_else(|| RESOURCE.to_owned(), |profile| format!("{MIG_RESOURCE}{profile}"));
    let plugin = Plugin { root, host_root, resource };
    let stop = crate::stop::asked();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            session = session(&plugin, &flags.kubelet_dir) => {
                if let Err(error) = session {
                    tracing::warn!(error = format!("{error:#}"), "the kubelet does not know the boards yet: trying again");
                }
                tokio::time::sleep(LOOK).await;
            }
            asked = &mut stop => {
                asked?;
                // Leaves no socket that would look alive.
                let _ = std::fs::remove_file(flags.kubelet_dir.join(SOCKET));
                return Ok(());
            }
        }
    }
}

/// From listening to the end of this kubelet's life.
async fn session(plugin: &Plugin, folder: &Path) -> anyhow::Result<()> {
    let (ours, kubelets) = (folder.join(SOCKET), folder.join("kubelet.sock"));
    if ours.exists() {
        std::fs::remove_file(&ours).with_context(|| format!("remove the old {}", ours.display()))?;
    }
    let listener = UnixListener::bind(&ours).with_context(|| format!("listen on {}", ours.display()))?;
    let serving = tonic::transport::Server::builder()
        .add_service(plugin.clone())
        .serve_with_incoming(UnixListenerStream::new(listener));
    let registering = async {
        let request = RegisterRequest {
            version: "v1beta1".to_owned(),
            endpoint: SOCKET.to_owned(),
            resource_name: plugin.resource.clone(),
            options: Some(DevicePluginOptions::default()),
        };
        let identity = inode(&kubelets);
        super::call::<_, Empty>(&kubelets, REGISTER, request).await?;
        tracing::info!(resource = plugin.resource, devices = plugin.offered().len(), "registered at the kubelet");
        while inode(&kubelets) == identity && ours.exists() {
            tokio::time::sleep(LOOK).await;
        }
        tracing::info!("the kubelet was restarted: registering again");
        anyhow::Ok(())
    };
    tokio::select! {
        served = serving => served.context("serve the device plugin"),
        registered = registering => registered,
    }
}

fn inode(path: &Path) -> Option<(u64, i64)> {
    std::fs::metadata(path).ok().map(|found| (found.ino(), found.ctime_nsec()))
}

/// The plugin's answers.
#[derive(Debug, Clone)]
pub struct Plugin {
    root: Root,
    host_root: PathBuf,
    resource: String,
}

/// A board or a share of one, as the kubelet sees it.
struct Offered {
    id: String,
    board: String,
    healthy: bool,
}

impl Plugin {
    /// What there is now. Boards that cannot be read at this moment are not there.
    fn offered(&self) -> Vec<Offered> {
        let boards = self.root.boards().unwrap_or_default();
        boards.into_iter().flat_map(|(identity, folder)| offered(&identity, &folder)).collect()
    }

    fn list(&self) -> ListAndWatchResponse {
        let health = |healthy| if healthy { "Healthy" } else { "Unhealthy" }.to_owned();
        let device = |offered: Offered| Device { id: offered.id, health: health(offered.healthy) };
        ListAndWatchResponse { devices: self.offered().into_iter().map(device).collect() }
    }

    /// The list now and whenever it changed. It never ends: its end would mean that the plugin died.
    fn lists(self) -> impl Stream<Item = Result<ListAndWatchResponse, Status>> {
        futures::stream::unfold((self, None), |(plugin, mut last)| async move {
            loop {
                let list = plugin.list();
                if last.as_ref() != Some(&list) {
                    last = Some(list.clone());
                    return Some((Ok(list), (plugin, last)));
                }
                tokio::time::sleep(LOOK).await;
            }
        })
    }

    fn allocate(&self, request: &AllocateRequest) -> Result<AllocateResponse, Status> {
        let container_responses = request.container_requests.iter().map(|request| self.container(request));
        Ok(AllocateResponse { container_responses: container_responses.collect::<Result<_, _>>()? })
    }

    fn container(&self, request: &ContainerAllocateRequest) -> Result<ContainerAllocateResponse, Status> {
        let offered = self.offered();
        let mut boards = BTreeSet::new();
        for id in &request.devices_ids {
            let Some(device) = offered.iter().find(|device| device.id == *id) else {
                return Err(Status::not_found(format!("device {id} is not on this node")));
            };
            boards.insert(&device.board);
        }
        let mount = |uuid: &String| Mount {
            container_path: format!("{DEFAULT_ROOT}/boards/{uuid}"),
            host_path: self.host_root.join("boards").join(uuid).display().to_string(),
            read_only: false,
        };
        let envs = HashMap::from([("NVIDIA_VISIBLE_DEVICES".to_owned(), request.devices_ids.join(","))]);
        Ok(ContainerAllocateResponse { envs, mounts: boards.into_iter().map(mount).collect() })
    }
}

fn offered(identity: &Identity, folder: &BoardFolder) -> Vec<Offered> {
    let gone = folder.present_fault().and_then(|mut fault| fault.read()).is_ok_and(|fault| fault.gone);
    let offer = |id: &String| Offered { id: id.clone(), board: identity.uuid.clone(), healthy: !gone };
    match identity.shares.as_slice() {
        [] => vec![offer(&identity.uuid)],
        shares => shares.iter().map(|share| offer(&share.id)).collect(),
    }
}

impl NamedService for Plugin {
    const NAME: &'static str = "v1beta1.DevicePlugin";
}

impl Service<http::Request<Body>> for Plugin {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let plugin = self.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/v1beta1.DevicePlugin/GetDevicePluginOptions" => {
                    let answer = |_: Request<Empty>| async { Ok(Response::new(DevicePluginOptions::default())) };
                    Grpc::new(ProstCodec::default()).unary(tower::service_fn(answer), request).await
                }
                "/v1beta1.DevicePlugin/ListAndWatch" => {
                    let answer = move |_: Request<Empty>| {
                        let lists = plugin.clone().lists().boxed();
                        async move { Ok(Response::new(lists)) }
                    };
                    Grpc::new(ProstCodec::default()).server_streaming(tower::service_fn(answer), request).await
                }
                "/v1beta1.DevicePlugin/Allocate" => {
                    let answer = move |request: Request<AllocateRequest>| {
                        let answer = plugin.allocate(request.get_ref()).map(Response::new);
                        async move { answer }
                    };
                    Grpc::new(ProstCodec::default()).unary(tower::service_fn(answer), request).await
                }
                "/v1beta1.DevicePlugin/PreStartContainer" => {
                    let answer = |_: Request<Empty>| async { Ok(Response::new(Empty {})) };
                    Grpc::new(ProstCodec::default()).unary(tower::service_fn(answer), request).await
                }
                _ => Status::unimplemented("the plugin has no such method").into_http(),
            })
        })
    }
}
