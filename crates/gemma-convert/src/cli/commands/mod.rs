//! One file per command: run the job of the library, show its result.

pub(crate) mod adapter;
pub(crate) mod calibrate;
pub(crate) mod convert;
pub(crate) mod draft;
pub(crate) mod edit;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod join;
pub(crate) mod list;
pub(crate) mod pack;
pub(crate) mod packaging;
pub(crate) mod plan;
pub(crate) mod release;
pub(crate) mod sensitivity;
pub(crate) mod verify;

use gemma_convert::{Error, Result};

/// The most threads: more than the processors of any machine, and few enough for the memory of their stacks.
const MAX_THREADS: usize = 1024;

/// Sets up the thread pool of the process; called once, before any work.
pub(crate) fn threads(count: usize) -> Result<()> {
    if count > MAX_THREADS {
        return Err(Error::recipe("--threads", "too many").expected(format!("at most {MAX_THREADS}"), count));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(count).build_global();
    pool.map_err(|e| Error::recipe(format!("--threads {count}"), e))
}
