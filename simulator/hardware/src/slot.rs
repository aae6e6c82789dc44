//! One board of a running node: its physics, its records, and the life of its faults.
//!
//! ```text
//!            fault.gone                 lifted
//!   present ────────────▶ gone ─────────────────▶ present, as at boot
//!                           └─ returns_renamed ─▶ another folder, another UUID
//! ```
//! What must hold: what was set before a board went is not in force when it is back; who still holds
//! the records of a board that came back as another reads that it is lost.

use std::fs;

use crate::board::{Board, Traits};
use crate::daemon::HardwareError;
use crate::fault::Fault;
use crate::folder::{BoardFolder, Identity, Load, Request, Root, State, Work};
use crate::record::{RecordError, RecordFile};
use crate::share::Tenants;
use crate::spec::{NodeSpec, fingerprint};
use crate::truth::BoardTruth;

/// One board in its place.
pub(crate) struct Slot {
    index: u32,
    returns: u32,
    board: Board,
    records: Records,
    asked: Request,
    load_now: Load,
    state: State,
    shown: State,
    units: f64,
    fault: Fault,
    rival_age_seconds: f64,
    since_look_seconds: f64,
}

struct Records {
    folder: BoardFolder,
    request: RecordFile<Request>,
    load: RecordFile<Load>,
    work: RecordFile<Work>,
    tenants: Tenants,
    shares: Vec<(RecordFile<Load>, RecordFile<Work>)>,
    state: RecordFile<State>,
    fault: RecordFile<Fault>,
}

impl Records {
    /// Makes a board's folder. The identity comes last: who finds it finds all.
    fn create(identity: &Identity, root: &Root, request: &Request, first: &State) -> Result<Self, HardwareError> {
        let folder = root.board(&identity.uuid);
        let prepare = |source| HardwareError::Prepare { path: folder.path().to_owned(), source };
        fs::create_dir_all(folder.path()).map_err(prepare)?;
        // A workload in a container may be any user.
        let (any, load, work) = (0o666, Load::default(), Work::default());
        let share = |at: usize| -> Result<_, RecordError> {
            let load = RecordFile::create(&folder.record_path(&format!("load-{at}")), &load, any)?;
            Ok((load, RecordFile::create(&folder.record_path(&format!("work-{at}")), &work, any)?))
        };
        let made = Self {
            request: RecordFile::create(&folder.record_path("request"), request, 0o644)?,
            load: RecordFile::create(&folder.record_path("load"), &load, any)?,
            work: RecordFile::create(&folder.record_path("work"), &work, any)?,
            tenants: Tenants::of(&identity.shares),
            shares: (0..identity.shares.len()).map(share).collect::<Result<_, _>>()?,
            state: RecordFile::create(&folder.record_path("state"), first, 0o644)?,
            fault: RecordFile::create(&folder.record_path("fault"), &Fault::default(), 0o644)?,
            folder: folder.clone(),
        };
        let draft = folder.record_path("identity.draft");
        fs::write(&draft, serde_json::to_vec_pretty(identity)?).map_err(prepare)?;
        fs::rename(&draft, folder.identity_path()).map_err(prepare)?;
        Ok(made)
    }

    /// What works on the board: its one workload, or its tenants together.
    fn load(&mut self, seconds: f64) -> Load {
        if self.shares.is_empty() {
            return self.load.read().unwrap_or_default();
        }
        let loads: Vec<Load> = self.shares.iter_mut().map(|(load, _)| load.read().unwrap_or_default()).collect();
        self.tenants.together(seconds, &loads)
    }

    /// Work by the workloads' own counts.
    fn units(&mut self) -> Option<f64> {
        if self.shares.is_empty() {
            return Some(self.work.read().ok()?.units);
        }
        self.shares.iter_mut().map(|(_, work)| work.read().ok().map(|work| work.units)).sum()
    }
}

impl Slot {
    /// A board at boot.
    pub(crate) fn boot(index: u32, root: &Root, spec: &NodeSpec) -> Result<Self, HardwareError> {
        let identity = identity(index, spec.uuid(index), spec);
        let request = Board::boot_request(&spec.board);
        let uuid = &identity.uuid;
        let traits = Traits::of(uuid, spec.sensor_gain(uuid), spec.lock_latency_ms / 1000.0);
        let mut board = Board::new(spec.board.clone(), traits);
        let first = board.step(0.0, &request, &Load::default());
        Ok(Self {
            index,
            returns: 0,
            board,
            records: Records::create(&identity, root, &request, &first)?,
            asked: request,
            load_now: Load::default(),
            state: first,
            shown: first,
            units: 0.0,
            fault: Fault::default(),
            rival_age_seconds: 0.0,
            since_look_seconds: 0.0,
        })
    }

    /// Lets time pass.
    pub(crate) fn step(&mut self, seconds: f64) -> Result<BoardTruth, HardwareError> {
        self.since_look_seconds += seconds;
        self.state = self.board.step(seconds, &self.asked, &self.load_now);
        Ok(BoardTruth {
            watts: self.board.true_watts(),
            joules: self.board.true_joules(),
            clock_mhz: self.state.clock_mhz,
            utilisation: self.board.utilisation(),
            work_seconds: self.state.work_seconds,
            work_units: self.units,
        })
    }

    /// Reads what is asked of the board, what works on it, and how it misbehaves.
    pub(crate) fn look(&mut self, root: &Root, spec: &NodeSpec) -> Result<(), HardwareError> {
        let before = self.fault;
        self.fault = self.present_fault()?;
        match (before.gone, self.fault.gone) {
            (false, true) => self.go(spec),
            (true, false) => self.come_back(before.returns_renamed, root, spec)?,
            _ => {}
        }
        let seconds = std::mem::take(&mut self.since_look_seconds);
        if self.fault.gone {
            return Ok(());
        }
        self.let_rival_write(seconds)?;
        self.asked = self.records.request.read().map_or(self.asked, |asked| self.fault.limit(asked));
        self.load_now = self.records.load(seconds);
        Ok(())
    }

    fn present_fault(&mut self) -> Result<Fault, RecordError> {
        let uptime = self.board.uptime_seconds();
        let mut fault = self.records.fault.read().unwrap_or(self.fault);
        if fault.lapse(uptime) {
            // Another may have been written in the meantime: that one stays.
            self.records.fault.update(|present| {
                present.lapse(uptime);
                fault = *present;
            })?;
        }
        Ok(fault)
    }

    fn go(&mut self, spec: &NodeSpec) {
        self.board.reset();
        self.asked = Board::boot_request(&spec.board);
        self.load_now = Load::default();
    }

    fn come_back(&mut self, renamed: bool, root: &Root, spec: &NodeSpec) -> Result<(), HardwareError> {
        let request = Board::boot_request(&spec.board);
        if !renamed {
            let again = |asked: &mut Request| *asked = Request { generation: asked.generation + 1, ..request };
            return Ok(self.records.request.update(again)?);
        }
        self.returns += 1;
        let identity = identity(self.index, spec.uuid_after(self.index, self.returns), spec);
        let new = Records::create(&identity, root, &request, &self.state)?;
        let mut old = std::mem::replace(&mut self.records, new);
        old.fault.update(|fault| *fault = Fault { gone: true, ..Fault::default() })?;
        let path = old.folder.path();
        fs::remove_dir_all(path).map_err(|source| HardwareError::Prepare { path: path.to_owned(), source })
    }

    fn let_rival_write(&mut self, seconds: f64) -> Result<(), HardwareError> {
        self.rival_age_seconds += seconds;
        let period_ms = self.fault.rival_period_ms;
        if period_ms > 0 && self.rival_age_seconds * 1000.0 >= f64::from(period_ms) {
            self.rival_age_seconds = 0.0;
            self.records.request.update(|request| *request = self.fault.rival(request))?;
        }
        Ok(())
    }

    /// Writes what the sensors say.
    pub(crate) fn show(&mut self) -> Result<(), HardwareError> {
        self.shown = self.fault.show(&self.shown, self.state);
        Ok(self.records.state.write(&self.shown)?)
    }

    /// Reads what the workload finished.
    pub(crate) fn count(&mut self) {
        self.units = self.records.units().unwrap_or(self.units);
    }
}

fn identity(index: u32, uuid: String, spec: &NodeSpec) -> Identity {
    Identity {
        index,
        pci_bus_id: NodeSpec::pci_bus_id(index),
        serial: format!("{:013}", fingerprint(uuid.as_bytes()) % 10_000_000_000_000),
        spec: spec.board.clone(),
        shares: spec.sharing.shares(&uuid, &spec.board),
        uuid,
    }
}
