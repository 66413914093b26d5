//! What was answered and counted: nothing counts twice, and with a data dir nothing that was acknowledged is lost.
//!
//! The truth is in the store: one transaction says which sequences of an answer are new, keeps these and the answer, and only after
//! its commit counters move and the answer goes out ([`settle`]). Where there is no data dir, and while the store is in trouble, a
//! bounded memory takes its place for retries, and answers say that they are not stored.

mod claims;
mod identity;
mod kept;
mod recent;
mod replay;
mod rows;
mod seal;
mod settle;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use plumbline_store::{
    Class, Existing, JobState, Known, NewVerification, Packed, Reader, Retention, Store, StoreError, StoreOptions,
    StoreState, Submitted,
};

pub(crate) use self::claims::Claim;
use self::claims::Claims;
pub(crate) use self::identity::Identity;
pub(crate) use self::kept::{each_kept, each_reported, get, list, problem};
use self::recent::{Recent, Remembered};
pub(crate) use self::replay::{clock, recall, replay};
pub(crate) use self::rows::RowError;
use self::seal::sealed;
pub(crate) use self::settle::{Settled, Target, settle};
use crate::config::Config;
use crate::metrics::LedgerMetrics;
use crate::problem::{Code, Problem};
use crate::verify::defect;

/// Connections for reading: lists, reports and retries beside each other.
const READERS: usize = 4;
/// How long the clock must have run steadily before it makes anything old: time to notice that it is wrong, and short beside days.
const CLOCK_SETTLES: Duration = Duration::from_secs(3600);
/// How soon to try again what needs the store while it is in trouble.
const STORE_RETRY: Duration = Duration::from_secs(5);
/// How soon to look at, or to send, a job again.
pub(crate) const JOB_RETRY: Duration = Duration::from_secs(1);

/// What was answered and counted.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// `None` without a data dir.
    store: Option<Arc<Store>>,
    recent: Mutex<Recent>,
    claims: Claims,
    max_jobs: u64,
    pub(crate) metrics: LedgerMetrics,
}

/// What is known of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing: it has to be worked on.
    New,
    /// Its answer.
    Answer(Vec<u8>),
    /// It is accepted and not answered yet.
    Accepted(Existing),
}

/// What became of a request that was to be accepted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// It is on disk, under this id, and not answered yet; maybe it was before.
    Queued(Existing),
    /// It was answered before.
    Answer(Vec<u8>),
}

impl Ledger {
    /// Opens the store of the configuration, if it has one.
    ///
    /// # Errors
    /// The store cannot be opened; names the file.
    pub(crate) fn open(config: &Config, metrics: LedgerMetrics) -> Result<Self, StoreError> {
        let store = config.data_dir.as_ref().map(|folder| {
            let retention = Retention {
                max_bytes: (config.store_max_bytes > 0).then_some(config.store_max_bytes),
                max_age: (config.store_max_days > 0).then(|| Duration::from_secs(config.store_max_days * 24 * 3600)),
                clock_settles: CLOCK_SETTLES,
            };
            let path = folder.join(StoreOptions::FILE_NAME);
            Store::open(StoreOptions { path, retention, summaries: Arc::new(rows::Totals), readers: READERS })
        });
        let store = store.transpose()?.map(Arc::new);
        let (recent, claims) = Default::default();
        Ok(Self { store, recent, claims, max_jobs: config.max_jobs, metrics })
    }

    /// The store, if there is one.
    pub(crate) fn store(&self) -> Option<&Arc<Store>> {
        self.store.as_ref()
    }

    /// The store, for what cannot be done without.
    ///
    /// # Errors
    /// 501: there is no data dir.
    pub(crate) fn needed_store(&self) -> Result<&Arc<Store>, Problem> {
        self.store.as_ref().ok_or_else(|| {
            let detail = "this server has no data dir (data_dir): it keeps nothing, and only answers at once";
            Problem::new(Code::AsyncUnavailable, detail)
        })
    }

    /// State of the store; `None` = there is none.
    pub(crate) fn state(&self) -> Option<StoreState> {
        self.store.as_ref().map(|store| store.state())
    }

    /// The state in a word: `none` without a store.
    pub(crate) fn state_name(&self) -> &'static str {
        self.state().as_ref().map_or("none", StoreState::as_str)
    }

    /// Waits until nobody else works on the same request.
    pub(crate) async fn claim(&self, identity: &Identity) -> Claim {
        self.claims.take(identity.digest).await
    }

    /// What is known of a request. While the store cannot be read nothing is known beyond what is remembered.
    ///
    /// # Errors
    /// 422 for a key that came with other content.
    pub(crate) async fn look_up(&self, identity: &Identity) -> Result<Found, Problem> {
        let remembered = self.recent().look_up(identity);
        match remembered {
            Remembered::Answer(json) => {
                self.metrics.requests_repeated.inc();
                return Ok(Found::Answer(json.to_vec()));
            }
            Remembered::KeyReused => return Err(key_reused()),
            Remembered::No => {}
        }
        let Some(store) = &self.store else { return Ok(Found::New) };
        let (digest, key) = (identity.digest, identity.key.clone());
        let known = read(store, move |reader| reader.lookup(&digest, key.as_deref())).await;
        match known {
            Ok(Known::New) => Ok(Found::New),
            Ok(Known::KeyReused { .. }) => Err(key_reused()),
            Ok(Known::Known(existing)) => match self.answer_of(&existing).await {
                Ok(Some(json)) => Ok(Found::Answer(json)),
                Ok(None) => Ok(Found::Accepted(existing)),
                Err(error) => {
                    unreadable(&error);
                    Ok(Found::New)
                }
            },
            Err(error) => {
                unreadable(&error);
                Ok(Found::New)
            }
        }
    }

    /// Accepts a request to be worked on later: it is on disk when this resolves. The caller holds the claim to it.
    ///
    /// # Errors
    /// 501 without a data dir, 503 while the store is in trouble, 429 while too much is accepted already, 422 for a key that came
    /// with other content.
    pub(crate) async fn accept(
        &self,
        identity: &Identity,
        (run, engine): (String, String),
        id: String,
        request: Packed,
    ) -> Result<Accepted, Problem> {
        let store = self.needed_store()?;
        if let Found::Answer(json) = self.look_up(identity).await? {
            return Ok(Accepted::Answer(json));
        }
        let queued = store.statistics().queued;
        if queued >= self.max_jobs {
            let detail = format!("{queued} accepted verifications wait already, the limit is {}", self.max_jobs);
            return Err(Problem::new(Code::TooManyJobs, detail).retry_after(JOB_RETRY));
        }
        let new = NewVerification {
            id: id.clone(),
            run,
            engine,
            class: Class::Bulk,
            at: SystemTime::now(),
            digest: identity.digest,
            idempotency_key: identity.key.clone(),
        };
        match store.submit(new, request).await.map_err(|error| unavailable(&error))? {
            Submitted::Accepted => Ok(Accepted::Queued(Existing { id, state: JobState::Queued })),
            Submitted::KeyReused { .. } => Err(key_reused()),
            Submitted::Known(existing) => match self.answer_of(&existing).await.map_err(|error| unavailable(&error))? {
                Some(json) => Ok(Accepted::Answer(json)),
                None => Ok(Accepted::Queued(existing)),
            },
        }
    }

    /// The stored answer of a verification that is done; `None` of one that is not.
    async fn answer_of(&self, existing: &Existing) -> Result<Option<Vec<u8>>, StoreError> {
        let (Some(store), JobState::Done) = (&self.store, existing.state) else { return Ok(None) };
        let id = existing.id.clone();
        let answer = read(store, move |reader| {
            let Some(row) = reader.verification(&id)? else { return Ok(None) };
            let Some(response) = row.response else { return Ok(None) };
            Ok(Some(sealed(response.open()?, &row.new, true)))
        });
        let answer = answer.await?;
        if answer.is_some() {
            self.metrics.requests_repeated.inc();
        }
        Ok(answer)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads off the async workers.
///
/// # Errors
/// As the read, or it panicked.
pub(crate) async fn read<T: Send + 'static, E: Send + 'static>(
    store: &Arc<Store>,
    read: impl FnOnce(&Reader) -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    let store = Arc::clone(store);
    match tokio::task::spawn_blocking(move || read(store.reader())).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// The answer of a verification's row with its true end, if it is still there. CPU-bound.
///
/// # Errors
/// It is damaged.
pub(crate) fn answer_in(response: Option<&Packed>, new: &[bool]) -> Result<Option<Vec<u8>>, StoreError> {
    response.map(|response| Ok(sealed(response.open()?, new, true))).transpose()
}

/// 503 with the store's own words in the log.
pub(crate) fn unavailable(error: &StoreError) -> Problem {
    Problem::internal(Code::StoreUnavailable, "the store cannot be used now; see /readyz", error)
        .retry_after(STORE_RETRY)
}

fn key_reused() -> Problem {
    Problem::new(Code::IdempotencyKeyReused, "this Idempotency-Key came with other content before")
}

/// The store counts its errors and says in `/readyz` what is the matter: scoring goes on.
fn unreadable(error: &StoreError) {
    tracing::warn!(%error, "the store cannot be read; a retry would not be recognised");
}

/// 500 for an answer that cannot be written down.
fn unwritable(error: &serde_json::Error) -> Problem {
    defect(error)
}
