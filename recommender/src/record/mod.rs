//! Decisions kept for replay: everything that each of them saw, and what it decided.
//!
//! ```text
//!  loop ──decision──▶ queue of two ──▶ thread: JSON, gzip ──▶ ring of files
//!            └── full: counted and dropped
//! ```
//!
//! Must hold: keeping a decision never delays or changes one. A disk that is full or slow costs records,
//! counted in `powercap_recommender_records_total`, and what is kept stays within its limit.

mod ring;

use std::{
    io::{self, Read},
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::ring::Ring;
use crate::{decide::Plan, metrics::Metrics, observation::Observation};

/// Decisions that wait for the disk; more are dropped.
const QUEUE: usize = 2;
/// A record is no larger once it is unpacked: what is read may come from a stranger.
const READ_AT_MOST: u64 = 4 << 30;

/// A decision as it was made.
#[derive(Clone, Debug, Serialize)]
pub struct Decision {
    /// Which version of us decided.
    pub version: &'static str,
    /// When.
    pub now: Timestamp,
    /// Everything that it saw.
    pub observation: Observation,
    /// What it decided.
    pub plan: Arc<Plan>,
}

/// A decision as it is read from a file.
#[derive(Clone, Debug, Deserialize)]
pub struct Record {
    /// Which version of us decided.
    pub version: String,
    /// When.
    pub now: Timestamp,
    /// Everything that it saw.
    pub observation: Observation,
    /// What it decided.
    pub plan: Value,
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The folder for records.
    #[error("cannot keep records in {folder}")]
    OpenFolder {
        /// Where.
        folder: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file that is none of ours, or was cut short.
    #[error("not a recorded decision")]
    Understand(#[source] serde_json::Error),
    /// A record could not be made or written.
    #[error("cannot write a record")]
    Write(#[source] io::Error),
}

impl Decision {
    /// The record as a file: JSON, compressed.
    ///
    /// # Errors
    /// When it cannot be written as JSON, which every observation can.
    pub fn packed(&self) -> Result<Vec<u8>, RecordError> {
        let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
        serde_json::to_writer(&mut packer, self).map_err(|error| RecordError::Write(error.into()))?;
        packer.finish().map_err(RecordError::Write)
    }

    /// Names that sort by time.
    fn file_name(&self) -> String {
        let epoch = self.observation.epoch;
        let at = self.now.strftime("%Y%m%dT%H%M%S.%6fZ");
        format!("{at}-term{}-{}{}", epoch.term, epoch.sequence, ring::SUFFIX)
    }
}

impl Record {
    /// Reads what [`Decision::packed`] made.
    ///
    /// # Errors
    /// When it is something else.
    pub fn unpack(packed: impl Read) -> Result<Self, RecordError> {
        let json = io::BufReader::new(GzDecoder::new(packed).take(READ_AT_MOST));
        serde_json::from_reader(json).map_err(RecordError::Understand)
    }
}

/// Keeps decisions; the last of its clones ends the thread behind it.
#[derive(Clone)]
pub struct Recorder {
    queue: SyncSender<Decision>,
    metrics: Metrics,
}

impl Recorder {
    /// Keeps decisions in `folder`, the last ones that fit into `limit` bytes.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn start(folder: &Path, limit: u64, metrics: Metrics) -> Result<Self, RecordError> {
        let open = |source| RecordError::OpenFolder { folder: folder.display().to_string(), source };
        let ring = Ring::open(folder, limit).map_err(open)?;
        let (queue, decisions) = sync_channel(QUEUE);
        let counted = metrics.clone();
        thread::Builder::new().name("records".into()).spawn(move || keep(ring, &decisions, &counted)).map_err(open)?;
        Ok(Self { queue, metrics })
    }

    /// Keeps a decision unless the disk is too slow for it. Never blocks.
    pub fn keep(&self, now: Timestamp, observation: Observation, plan: Arc<Plan>) {
        let decision = Decision { version: env!("CARGO_PKG_VERSION"), now, observation, plan };
        if self.queue.try_send(decision).is_err() {
            self.metrics.recorded("dropped");
        }
    }
}

fn keep(mut ring: Ring, decisions: &Receiver<Decision>, metrics: &Metrics) {
    let mut failing = false;
    while let Ok(decision) = decisions.recv() {
        let name = decision.file_name();
        let kept = decision.packed().and_then(|packed| ring.put(&name, &packed).map_err(RecordError::Write));
        metrics.recorded(if kept.is_ok() { "written" } else { "failed" });
        // A full disk stays full for long: said once.
        if let Err(error) = &kept
            && !failing
        {
            let error = error as &dyn std::error::Error;
            tracing::warn!(error, "decisions are not recorded; counted until they are again");
        }
        failing = kept.is_err();
    }
}
