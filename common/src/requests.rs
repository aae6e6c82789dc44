//! What a pod requests of one resource in the eyes of kube-scheduler and of its kubelet.
//!
//! Must hold: this is Kubernetes' own rule, to the unit. A node that advertises less than its pods request by
//! it has its kubelet fail pods when it restarts.

/// What a container that runs before the others requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InitRequest {
    /// Of the resource.
    pub amount: u64,
    /// It goes on running beside the others (`restartPolicy: Always`).
    pub sidecar: bool,
}

/// What a pod requests altogether: its containers and sidecars run at once, while each other init container
/// runs beside the sidecars that began before it alone.
///
/// `containers` are the requests of its containers, `inits` those of its init containers in their order.
#[must_use]
pub fn of_pod(containers: impl IntoIterator<Item = u64>, inits: impl IntoIterator<Item = InitRequest>) -> u64 {
    let (mut sidecars, mut highest) = (0_u64, 0_u64);
    for init in inits {
        let beside = sidecars.saturating_add(init.amount);
        highest = highest.max(beside);
        if init.sidecar {
            sidecars = beside;
        }
    }
    containers.into_iter().fold(sidecars, u64::saturating_add).max(highest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn init(amount: u64) -> InitRequest {
        InitRequest { amount, sidecar: false }
    }

    fn sidecar(amount: u64) -> InitRequest {
        InitRequest { amount, sidecar: true }
    }

    #[test]
    fn init_containers_count_with_what_runs_beside_them() {
        for (containers, inits, requests) in [
            (vec![], vec![], 0),
            (vec![400, 300], vec![], 700),
            (vec![400, 300], vec![init(600)], 700),
            (vec![400, 300], vec![init(600), init(800)], 800),
            (vec![400], vec![sidecar(100), sidecar(50)], 550),
            (vec![400], vec![sidecar(100), init(500)], 600),
            (vec![400], vec![init(500), sidecar(100)], 500),
            (vec![u64::MAX], vec![sidecar(1)], u64::MAX),
        ] {
            assert_eq!(of_pod(containers.clone(), inits.clone()), requests, "{containers:?} {inits:?}");
        }
    }
}
