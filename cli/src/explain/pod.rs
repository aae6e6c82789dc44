//! Why a pod runs as slowly as it does: pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use powercap_common::{
    api::{GpuStatus, Mode, NodeFrequencies, PowerCappingPolicy},
    condition::kind,
    policy::selects,
    reason::Reason,
    target::Controller,
};

use super::{
    answer::{Answer, Cause},
    boards::{self, Board, Held},
    node,
};
use crate::{
    caps::{Caps, Conditions, policy_set_by},
    pending,
};

/// What NVIDIA's device plugin advertises.
const GPU: &str = "nvidia.com/gpu";

/// Why the pod runs as slowly as it does.
#[must_use]
pub fn explain(pod: &Pod, caps: &Caps, now: Timestamp) -> Answer {
    let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    let mut answer = Answer::new(format!("pod/{name}"), String::new());
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Unknown");
    let on = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|_| phase == "Running");
    let Some(on) = on else {
        answer.summary = not_running(pod, &name, phase);
        return answer;
    };
    let Some(node) = caps.node(on) else {
        answer.summary =
            format!("No power cap holds pod {name} back: nothing caps its node {on}, which has no NodeFrequencies.");
        return answer;
    };
    let boards = boards_of(node, pod);
    let held = boards::explain(&boards, caps, &mut answer);
    answer.why.extend(policies(pod, caps));
    answer.why.extend(pending::for_pod(pod, caps));
    answer.why.extend(node::causes(node, caps, now));
    answer.summary =
        if boards.is_empty() { without_boards(pod, &name, node, &mut answer) } else { summary(&name, on, &held) };
    answer.mend();
    answer
}

fn boards_of<'a>(node: &'a NodeFrequencies, pod: &Pod) -> Vec<Board<'a>> {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let holds = |gpu: &&GpuStatus| {
        gpu.tenants.iter().flatten().any(|tenant| tenant.namespace == namespace && tenant.name == name)
    };
    node.status.iter().flat_map(|status| &status.gpus).filter(holds).map(|gpu| (node, gpu)).collect()
}

fn not_running(pod: &Pod, name: &str, phase: &str) -> String {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let scheduled =
        conditions.iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    let why = scheduled.and_then(|condition| condition.message.as_deref());
    let why = why.map(|message| format!(" The scheduler says: {message}")).unwrap_or_default();
    format!("Pod {name} is {phase}: it does not run, so no power cap holds it back.{why}")
}

fn summary(name: &str, on: &str, held: &Held) -> String {
    let trouble = held.trouble();
    if held.held == 0 {
        let verb = if held.boards == 1 { "it" } else { "they" };
        return format!(
            "No power cap holds pod {name} back: it has {} on node {on}, and {verb} may run at full speed.{trouble}",
            held.all()
        );
    }
    format!(
        "Power caps hold pod {name} back: {} on node {on}, by {}{}.{trouble}",
        held.part(),
        held.by.join(" and "),
        held.down_to()
    )
}

/// No board of its node is known to be the pod's: it has none, or nobody can tell.
fn without_boards(pod: &Pod, name: &str, node: &NodeFrequencies, answer: &mut Answer) -> String {
    let asked = asked(pod);
    let unknown = node.status.as_ref().is_none_or(|status| status.gpus.iter().any(|gpu| gpu.tenants.is_none()));
    let cpus = answer.why.iter().any(|cause| cause.of.starts_with("CPUs of"));
    if asked > 0 && unknown {
        let of = format!("node {}", node.name_any());
        answer.why.push(Cause::new(Reason::TenantsUnknown, of, "", None));
        return format!(
            "Pod {name} asks for {asked} {}, and its node's agent does not tell which: see `kubectl powercap explain node/{}`.",
            if asked == 1 { "board" } else { "boards" },
            node.name_any()
        );
    }
    let boards = if asked > 0 { "The kubelet gave it no board yet" } else { "It has no board" };
    if cpus {
        format!("The CPUs under pod {name} are held back by a power cap. {boards}.")
    } else {
        format!("No power cap holds pod {name} back: its node's CPUs may run as fast as they can. {boards}.")
    }
}

fn asked(pod: &Pod) -> u64 {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let limits = containers.filter_map(|container| container.resources.as_ref()?.limits.as_ref());
    limits.filter_map(|limits| limits.get(GPU)?.0.parse::<u64>().ok()).sum()
}

/// What the policies that select the pod say.
fn policies(pod: &Pod, caps: &Caps) -> Vec<Cause> {
    let (name, labels) = (pod.name_any(), pod.metadata.labels.clone().unwrap_or_default());
    let controller = Controller::of(&pod.metadata);
    let for_pod = |policy: &&PowerCappingPolicy| {
        policy.namespace() == pod.namespace() && selects(policy, &labels, controller.as_ref())
    };
    caps.policies.iter().filter(for_pod).flat_map(|policy| policy_causes(policy, &name)).collect()
}

/// Whether it acts; and while it does, whether it is triggered; and whether the pod requests the watts that it should.
fn policy_causes(policy: &PowerCappingPolicy, pod: &str) -> Vec<Cause> {
    let is_stale = policy.status.iter().any(|status| status.watts_stale.iter().any(|stale| stale == pod));
    let of = policy_set_by(policy);
    let told: &[&str] = if policy.spec.mode == Mode::Enforce {
        &[kind::READY, kind::PERMITTED, kind::CAP_TRIGGERED, kind::DATA_FRESH]
    } else {
        &[kind::READY, kind::PERMITTED]
    };
    let worth_telling = |type_: &str, status: &str| match type_ {
        kind::DATA_FRESH => status != "True",
        kind::CAP_TRIGGERED => status == "True",
        _ => true,
    };
    let found = policy.conditions().iter().filter(|condition| {
        told.contains(&condition.type_.as_str()) && worth_telling(&condition.type_, &condition.status)
            || is_stale && condition.type_ == kind::WATTS_CURRENT
    });
    found.map(|condition| Cause::of_condition(&of, condition)).collect()
}
