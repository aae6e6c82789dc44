//! The library's state: the boards that it found, behind one lock, and how they answer.
//!
//! A device handle is the place where a board was found first, plus one; it is never dereferenced and
//! stays what it is for as long as the library is open. Boards that went or came are noticed when
//! somebody counts or looks for one. Whether a real library sees a board that came back before it is
//! started anew is not documented: here it does, at its next count.
//!
//! What must hold: a board that is slow or hangs keeps no other from answering, so the lock is never
//! held while waiting; while the library is open, its mark lies in the node's folder.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED as DRIVER_NOT_LOADED,
    nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST as GPU_IS_LOST,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NO_PERMISSION as NO_PERMISSION,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as NOT_SUPPORTED,
    nvmlReturn_enum_NVML_ERROR_UNINITIALIZED as UNINITIALIZED, nvmlReturn_enum_NVML_SUCCESS as SUCCESS, nvmlReturn_t,
};
use powercap_simulated_hardware::call::Call;
use powercap_simulated_hardware::fault::Answer;
use powercap_simulated_hardware::folder::{DEFAULT_ROOT, ROOT_VARIABLE};
use powercap_simulated_hardware::record::{RecordError, RecordFile};
use powercap_simulated_hardware::{BoardFolder, Fault, Identity, Request, Root, Share, State};
use rustix::thread::CapabilitySet;

/// How often a call that hangs looks whether the fault was lifted.
const HANG_LOOK: Duration = Duration::from_millis(5);

pub(crate) struct Device {
    pub(crate) identity: Identity,
    folder: BoardFolder,
    state: RecordFile<State>,
    fault: RecordFile<Fault>,
    present: bool,
}

impl Device {
    fn open(identity: Identity, folder: BoardFolder) -> Result<Self, RecordError> {
        let (state, fault) = (folder.state()?, open_fault(folder.fault(), || folder.present_fault())?);
        Ok(Self { identity, folder, state, fault, present: true })
    }

    /// How the device misbehaves now: a test may change that at any time.
    pub(crate) fn fault(&mut self) -> Fault {
        self.fault.read().unwrap_or_default()
    }
}

/// Only who may write can count calls; others see the fault as it stands.
fn open_fault(
    writable: Result<RecordFile<Fault>, RecordError>,
    readable: impl FnOnce() -> Result<RecordFile<Fault>, RecordError>,
) -> Result<RecordFile<Fault>, RecordError> {
    writable.or_else(|_| readable())
}

fn meet(record: &mut RecordFile<Fault>, call: Call) -> Answer {
    let mut fault = record.read().unwrap_or_default();
    let before = fault;
    let mut answer = fault.meet(call);
    if fault != before {
        // One call fewer: under the file's lock, since others count too.
        let _ = record.update(|fault| answer = fault.meet(call));
    }
    answer
}

struct Library {
    root: Root,
    devices: Vec<Device>,
    opened: u32,
    /// Locked while it lives; it cannot be made by who may not write there, and does without.
    _mark: Option<Mark>,
}

impl Library {
    /// Notices boards that went and came.
    fn look_for_boards(&mut self) -> Result<(), nvmlReturn_t> {
        let boards = self.root.boards().map_err(|_| DRIVER_NOT_LOADED)?;
        for device in &mut self.devices {
            device.present = boards.iter().any(|(identity, _)| identity.uuid == device.identity.uuid);
            device.present &= !device.fault().gone;
        }
        for (identity, folder) in boards {
            if !self.devices.iter().any(|device| device.identity.uuid == identity.uuid) {
                let mut device = Device::open(identity, folder).map_err(|_| DRIVER_NOT_LOADED)?;
                device.present = !device.fault().gone;
                self.devices.push(device);
            }
        }
        Ok(())
    }

    /// The boards that can be found, by their place in the node, each with its handle.
    fn present(&self) -> Vec<(nvmlDevice_t, &Device)> {
        let mut present: Vec<_> = self
            .devices
            .iter()
            .enumerate()
            .filter(|(_, device)| device.present)
            .map(|(at, d)| (handle(at), d))
            .collect();
        present.sort_by_key(|(_, device)| device.identity.index);
        present
    }

    fn device(&mut self, handle: nvmlDevice_t) -> Result<(&mut Device, Option<usize>), nvmlReturn_t> {
        let board = (handle as usize & (INSTANCE - 1)).wrapping_sub(1);
        let instance = (handle as usize / INSTANCE).checked_sub(1);
        let device = self.devices.get_mut(board).ok_or(INVALID_ARGUMENT)?;
        if instance.is_some_and(|instance| instance >= device.identity.shares.len()) {
            return Err(INVALID_ARGUMENT);
        }
        Ok((device, instance))
    }
}

/// A file that says that this process has the library open.
struct Mark {
    _locked: File,
    path: PathBuf,
}

impl Mark {
    fn leave(folder: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        // Containers share numbers of processes: one more tells them apart.
        let path = (0..)
            .map(|more| folder.join(format!("{}.{more}", std::process::id())))
            .find(|path| !path.exists())
            .unwrap_or_else(|| folder.join("more"));
        let locked = File::create_new(&path)?;
        locked.lock()?;
        Ok(Self { _locked: locked, path })
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

static LIBRARY: Mutex<Option<Library>> = Mutex::new(None);

fn library() -> MutexGuard<'static, Option<Library>> {
    LIBRARY.lock().unwrap_or_else(PoisonError::into_inner)
}

fn root() -> Root {
    Root::new(std::env::var_os(ROOT_VARIABLE).unwrap_or_else(|| DEFAULT_ROOT.into()))
}

pub(crate) fn open() -> nvmlReturn_t {
    if let Err(code) = met_by_library(&root(), Call::Init) {
        return code;
    }
    let mut library = library();
    if let Some(library) = library.as_mut() {
        library.opened += 1;
        return SUCCESS;
    }
    let mut opened = Library { root: root(), devices: Vec::new(), opened: 1, _mark: None };
    if let Err(code) = opened.look_for_boards() {
        return code;
    }
    opened._mark = Mark::leave(&opened.root.nvml_clients_path()).ok();
    *library = Some(opened);
    SUCCESS
}

pub(crate) fn close() -> nvmlReturn_t {
    let mut library = library();
    let Some(open) = library.as_mut() else {
        return UNINITIALIZED;
    };
    open.opened -= 1;
    if open.opened == 0 {
        *library = None;
    }
    SUCCESS
}

/// Waits as long as an answer says that the call takes. `None`: it hangs, ask again.
fn wait(answer: Answer) -> Option<Result<Answer, nvmlReturn_t>> {
    if answer.hangs {
        std::thread::sleep(HANG_LOOK);
        return None;
    }
    if answer.delay_ms > 0 {
        std::thread::sleep(Duration::from_millis(answer.delay_ms.into()));
    }
    Some(if answer.code == SUCCESS { Ok(answer) } else { Err(answer.code) })
}

/// The fault of the library as a whole, which is not there in the folder of a single board.
fn met_by_library(root: &Root, call: Call) -> Result<(), nvmlReturn_t> {
    loop {
        let answer = root.library_fault().map_or_else(|_| Answer::default(), |mut record| meet(&mut record, call));
        if let Some(met) = wait(answer) {
            return met.map(|_| ());
        }
    }
}

/// The fault of a board.
fn met_by_device(call: Call, handle: nvmlDevice_t) -> Result<Answer, nvmlReturn_t> {
    loop {
        let answer = {
            let mut library = library();
            let (device, _) = library.as_mut().ok_or(UNINITIALIZED)?.device(handle)?;
            let answer = meet(&mut device.fault, call);
            if answer.hangs && !device.folder.path().exists() {
                return Err(GPU_IS_LOST);
            }
            answer
        };
        if let Some(met) = wait(answer) {
            return met;
        }
    }
}

/// Runs with the boards that can be found now, each with its handle.
pub(crate) fn with_devices(call: Call, run: impl FnOnce(&[(nvmlDevice_t, &Device)]) -> nvmlReturn_t) -> nvmlReturn_t {
    let Some(root) = library().as_ref().map(|library| library.root.clone()) else {
        return UNINITIALIZED;
    };
    if let Err(code) = met_by_library(&root, call) {
        return code;
    }
    let mut library = library();
    let Some(library) = library.as_mut() else {
        return UNINITIALIZED;
    };
    match library.look_for_boards() {
        Ok(()) => run(&library.present()),
        Err(code) => code,
    }
}

/// Runs with the board behind a handle, once the call has met the board's fault. An instance has
/// nothing of what is asked here.
fn with_device(
    call: Call,
    handle: nvmlDevice_t,
    run: impl FnOnce(&mut Device, Answer) -> nvmlReturn_t,
) -> nvmlReturn_t {
    with_handle(call, handle, |device, instance, answer| match instance {
        Some(_) => NOT_SUPPORTED,
        None => run(device, answer),
    })
}

fn with_handle(
    call: Call,
    handle: nvmlDevice_t,
    run: impl FnOnce(&mut Device, Option<usize>, Answer) -> nvmlReturn_t,
) -> nvmlReturn_t {
    let answer = match met_by_device(call, handle) {
        Ok(answer) => answer,
        Err(code) => return code,
    };
    match library().as_mut().ok_or(UNINITIALIZED).and_then(|library| library.device(handle)) {
        Ok((device, instance)) => run(device, instance, answer),
        Err(code) => code,
    }
}

/// Runs with what the board is, and the instance of it if the handle is one's.
pub(crate) fn with_any(
    call: Call,
    handle: nvmlDevice_t,
    run: impl FnOnce(&Identity, Option<&Share>) -> nvmlReturn_t,
) -> nvmlReturn_t {
    with_handle(call, handle, |device, instance, _| {
        run(&device.identity, instance.and_then(|instance| device.identity.shares.get(instance)))
    })
}

/// Runs with what the device's sensors say now.
pub(crate) fn with_state(
    call: Call,
    handle: nvmlDevice_t,
    run: impl FnOnce(&Identity, &State) -> nvmlReturn_t,
) -> nvmlReturn_t {
    with_device(call, handle, |device, _| match device.state.read() {
        Ok(state) => run(&device.identity, &state),
        Err(_) => GPU_IS_LOST,
    })
}

/// Runs with what the device is.
pub(crate) fn with_identity(
    call: Call,
    handle: nvmlDevice_t,
    run: impl FnOnce(&Identity) -> nvmlReturn_t,
) -> nvmlReturn_t {
    with_device(call, handle, |device, _| run(&device.identity))
}

/// Runs with what the device is and how it misbehaves.
pub(crate) fn with_fault(
    call: Call,
    handle: nvmlDevice_t,
    run: impl FnOnce(&Identity, &Fault) -> nvmlReturn_t,
) -> nvmlReturn_t {
    with_device(call, handle, |device, _| {
        let fault = device.fault();
        run(&device.identity, &fault)
    })
}

/// Runs with what is asked of the device.
pub(crate) fn with_request(
    call: Call,
    handle: nvmlDevice_t,
    run: impl FnOnce(&Request) -> nvmlReturn_t,
) -> nvmlReturn_t {
    let read = |device: &Device| device.folder.requested()?.read();
    with_device(call, handle, |device, _| read(device).map_or(GPU_IS_LOST, |request| run(&request)))
}

/// Asks something of a device; needs root with CAP_SYS_ADMIN, as the driver does.
pub(crate) fn ask(
    call: Call,
    handle: nvmlDevice_t,
    change: impl FnOnce(&Identity, &mut Request) -> nvmlReturn_t,
) -> nvmlReturn_t {
    if !is_administrator() {
        return NO_PERMISSION;
    }
    with_device(call, handle, |device, met| {
        let mut answer = SUCCESS;
        let updated = device.folder.request().and_then(|mut record| {
            record.update(|request| {
                let before = *request;
                answer = change(&device.identity, request);
                if answer == SUCCESS && !met.ignored {
                    request.generation = before.generation + 1;
                } else {
                    *request = before;
                }
            })
        });
        if updated.is_err() { NO_PERMISSION } else { answer }
    })
}

fn is_administrator() -> bool {
    let held = rustix::thread::capabilities(None).map(|sets| sets.effective);
    rustix::process::geteuid().is_root() && held.is_ok_and(|held| held.contains(CapabilitySet::SYS_ADMIN))
}

/// Handles of instances are those of their boards plus multiples of this.
const INSTANCE: usize = 1 << 16;

fn handle(index: usize) -> nvmlDevice_t {
    std::ptr::without_provenance_mut(index + 1)
}

/// The handle of an instance of the board with this handle.
pub(crate) fn instance_of(board: nvmlDevice_t, index: usize) -> nvmlDevice_t {
    std::ptr::without_provenance_mut(board as usize + (index + 1) * INSTANCE)
}

/// The handle of the board of an instance.
pub(crate) fn parent_of(instance: nvmlDevice_t) -> nvmlDevice_t {
    std::ptr::without_provenance_mut(instance as usize & (INSTANCE - 1))
}
