//! What a person can do about a [`Reason`]: the same words in `explain` and in `doctor`.

use powercap_common::reason::Reason;

/// What mends it; `None` for what needs no mending.
#[must_use]
pub const fn mend(reason: Reason) -> Option<&'static str> {
    Some(match reason {
        Reason::PowerAboveCap => "wait some seconds; if it stays so, look for power that nothing here controls",
        Reason::AwaitingAcknowledgement | Reason::AgentSilent => {
            "see that the node agent runs there: kubectl -n powercap-node get pods -o wide"
        }
        Reason::CapBelowFloor => "raise the cap, or take load or devices out from under it",
        Reason::CapBelowPerformance => "raise the cap, or allow more in spec.performance",
        Reason::DataStale => {
            "see that the exporters run and are scraped, and that --collection-interval-seconds of the recommender \
             is no shorter than their interval"
        }
        Reason::NoData => "see that the DCGM exporter and Kepler run on that node and that Prometheus scrapes them",
        Reason::PrometheusUnavailable => {
            "see that Prometheus runs, and that --prometheus-url of the recommender is its address"
        }
        Reason::MeterUnavailable => {
            "ask Prometheus spec.meter.query of the domain: it must answer with one series, in watts, of the last moments"
        }
        Reason::MeterBelowNodes => {
            "see that spec.meter.query counts every feed of the domain, in watts, and that the nodes stand behind it"
        }
        Reason::HistoryUnavailable => {
            "see why Prometheus does not answer query_range: its log, --query.max-samples, --query.timeout; a shorter \
             --history-window-hours of the recommender asks for less"
        }
        Reason::WattsStale => "make the pods anew when that suits: kubectl rollout restart",
        Reason::UseUnavailable => "install metrics-server, or see why the API server does not reach it",
        Reason::AutoscaledByVpa => {
            "take cpu and memory out of spec.resourcePolicy, or set the autoscaler's mode to Off"
        }
        Reason::NoMatchingPods => "correct spec.selector, or wait for such a pod to run",
        Reason::TargetNotFound => "correct spec.targetRef, or create the workload that it names",
        Reason::TargetWithoutSelector => "write spec.selector in the place of spec.targetRef",
        Reason::TargetUnknown => {
            "see that the recommender may get the scale of that kind: its ClusterRole, and the API server's health"
        }
        Reason::NotPermitted | Reason::BoundedByDomain => {
            "ask whoever owns the PowerDomain to widen its spec.tenancy, or ask for less in the policy"
        }
        Reason::NoMatchingNodes => "correct spec.nodeSelector, or label the nodes",
        Reason::SharedDevice => "select every pod that uses the device, or give these pods devices of their own",
        Reason::InvalidSpec => "correct the field that the message names",
        Reason::WriteFailed | Reason::ReadFailed => "look at the driver: nvidia-smi and the kernel's log on that node",
        Reason::Unsupported => "cap it by a device beside it: this one cannot be held",
        Reason::PermissionDenied => "run the node agent as root with CAP_SYS_ADMIN; see docs/install.md",
        Reason::UnknownDevice => {
            "see that the driver works there; the recommender drops boards that are gone by itself"
        }
        Reason::LeaseExpired | Reason::FallbackInForce => {
            "see that the recommender runs and renews its Lease: kubectl -n powercap-system get deployments,leases"
        }
        Reason::BrakePulled => {
            "set spec.brake of the domain to None when the emergency is over, if somebody pulled it there"
        }
        Reason::PowerStaysAboveCap => {
            "find what draws the watts (spec.unmanagedWatts, spec.nodeOverhead); the brake is let go when power was \
             below the cap for 60 s"
        }
        Reason::Drifted | Reason::Contended => {
            "find what else sets clocks or power limits there (nvidia-smi in a script, DCGM, a BMC) and stop it"
        }
        Reason::WithoutEffect => "update the driver, or take the board out of use: it ignores its limits",
        Reason::Quarantined => "reset the board or reboot the node, and look at the kernel's log for its Xid",
        Reason::DevicesLetGo => "wait until the driver's upgrade or the change of MIG is done",
        Reason::AnotherAgent => "see that one agent only runs on that node",
        Reason::JournalUnavailable => "see that /var/lib/powercap can be written on that node",
        Reason::TenantsUnknown => "see that the agent's pod mounts /var/lib/kubelet/pod-resources",
        _ => return None,
    })
}

/// What mends the reason that stands in a condition or a status.
#[must_use]
pub fn mend_word(reason: &str) -> Option<&'static str> {
    mend(reason.parse().ok()?)
}
