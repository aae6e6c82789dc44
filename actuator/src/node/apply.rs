//! Hands a plan to the devices' threads. Never waits: a thread that is busy finds the newest order
//! when it comes back. What the plan has noted of untouched devices goes to the journal before; the
//! threads give it a moment to reach the disk.

use super::{audit::Entry, decide::Plan, metrics::WriteKind, observe::Devices};

/// Hands the plan's writes to the devices, and tells each board's thread above which power to ring.
pub fn apply(plan: &Plan, boards: &[std::sync::Arc<str>], devices: &Devices) {
    devices.journal.note(&plan.notes);
    for write in &plan.boards {
        if let Some(channel) = devices.board(&write.uuid) {
            channel.order(write.clone());
        }
    }
    for (uuid, account) in boards.iter().zip(&plan.account.boards) {
        if let Some(channel) = devices.board(uuid) {
            channel.alarm_above(account.share);
        }
    }
    devices.host.order(&plan.cpus);
}

/// Logs writes at target `audit`, for whoever keeps them: what was asked for, written and read back.
pub fn tell(lines: &[Entry]) {
    for line in lines {
        let (control, unit) = match line.kind {
            WriteKind::GraphicsClock => ("GraphicsClock", "MHz"),
            WriteKind::PowerLimit => ("PowerLimit", "W"),
            WriteKind::CpuClock => ("CpuClock", "MHz"),
        };
        tracing::info!(
            target: "audit",
            device = line.device, control, unit, requested = line.requested, written = line.written,
            effective = line.effective, accepted = line.accepted, reason = %line.reason,
            term = line.epoch.term, sequence = line.epoch.sequence, writes = line.writes,
            lowest = line.lowest, highest = line.highest,
            "wrote to a device"
        );
    }
}
