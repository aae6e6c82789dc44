//! The boards that a container may use.

use anyhow::{Context, bail};
use powercap_simulated_hardware::record::{RecordError, RecordFile};
use powercap_simulated_hardware::{BoardFolder, BoardSpec, Identity, Load, Root, State, Work};

use super::BoardFlags;

/// One board in use, or a share of one.
#[derive(Debug)]
pub struct HeldBoard {
    /// Its model.
    pub spec: BoardSpec,
    load: RecordFile<Load>,
    state: RecordFile<State>,
    work: RecordFile<Work>,
    beat: u64,
}

impl HeldBoard {
    fn hold(
        identity: &Identity,
        folder: &BoardFolder,
        mut load: RecordFile<Load>,
        work: RecordFile<Work>,
    ) -> Result<Self, RecordError> {
        // Goes on from the last workload's beat, so that the first write is seen as life.
        let beat = load.read().map_or(0, |load| load.beat);
        Ok(Self { spec: identity.spec.clone(), load, state: folder.state()?, work, beat })
    }

    /// Sets the load, and shows that the workload lives.
    ///
    /// # Errors
    /// When the board's folder is gone.
    pub fn drive(&mut self, load: Load) -> Result<(), RecordError> {
        self.beat += 1;
        self.load.write(&Load { beat: self.beat, ..load })
    }

    /// What its sensors say.
    ///
    /// # Errors
    /// When the board's folder is gone.
    pub fn state(&mut self) -> Result<State, RecordError> {
        self.state.read()
    }

    /// Tells how much is done.
    ///
    /// # Errors
    /// When the board's folder is gone.
    pub fn report(&mut self, units: f64) -> Result<(), RecordError> {
        self.work.write(&Work { units })
    }
}

/// Finds the boards named by the flags (which the device plugin's environment fills).
///
/// # Errors
/// When a board is missing, or none is named.
pub fn held(flags: &BoardFlags) -> anyhow::Result<Vec<HeldBoard>> {
    let all = Root::new(&flags.root).boards().context("find the boards of this container")?;
    let wanted: Vec<&str> = flags.visible_devices.split(',').map(str::trim).filter(|uuid| !uuid.is_empty()).collect();
    let mut held = Vec::new();
    for (identity, folder) in all {
        let is_wanted = |id: &str| wanted == ["all"] || wanted.contains(&id);
        if identity.shares.is_empty() && is_wanted(&identity.uuid) {
            held.push(HeldBoard::hold(&identity, &folder, folder.load()?, folder.work()?)?);
        }
        for (at, share) in identity.shares.iter().enumerate().filter(|(_, share)| is_wanted(&share.id)) {
            let mut board = HeldBoard::hold(&identity, &folder, folder.share_load(at)?, folder.share_work(at)?)?;
            board.spec.memory_mib = share.memory_mib;
            held.push(board);
        }
    }
    if held.is_empty() || (wanted != ["all"] && held.len() != wanted.len()) {
        bail!(
            "visible-devices is {:?} and {} of these boards are in {}: request nvidia.com/gpu in the pod, or name boards that are there",
            flags.visible_devices,
            held.len(),
            flags.root.display()
        );
    }
    Ok(held)
}

/// Leaves the boards idle.
pub fn release(boards: &mut [HeldBoard]) {
    for board in boards {
        if let Err(error) = board.drive(Load::waiting(0, 0)) {
            tracing::warn!(%error, "a board could not be released: its load fades by itself");
        }
    }
}
